// A tokenizer.json in memory: the two large tables in compact form, everything else as a JSON tree.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

struct TokenizerDocument {
  struct Text {
    uint32_t offset = 0;
    uint32_t length = 0;
  };
  struct Token {
    Text text;
    int64_t id = 0;
    double score = 0;
  };
  /// Written ["a", "b"] or "a b".
  struct Merge {
    Text left;
    Text right;
  };

  std::string_view view(Text text) const { return std::string_view(arena).substr(text.offset, text.length); }

  std::string where;  // the file, for messages
  std::string arena;
  std::vector<Token> vocabulary;  // model.vocab
  bool has_scores = false;        // it is a list of [token, score] by id
  std::vector<Merge> merges;      // model.merges
  std::shared_ptr<nlohmann::json> rest;
};

/// Reads the text in one pass; memory stays proportional to its size. Throws Error(bad_input) naming `where` and the
/// byte.
TokenizerDocument parse_tokenizer_document(std::string_view text, const std::string& where);

}  // namespace weft
