// Byte pair encoding of one word or segment.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/token_span.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_cache.h"
#include "tokenizer/word_model.h"

namespace weft {

struct BpeScratch : ModelScratch {
  struct Symbol {
    int32_t id;
    int32_t previous;  // index; -1: none
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t left;  // index of the left symbol
    int32_t left_id;
    int32_t right_id;
    int32_t merged;
  };
  WordCache cache;
  std::vector<int32_t> ids;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

struct BpeOptions {
  bool byte_level = false;     // the text's bytes are the symbols; the vocabulary spells them in GPT-2's alphabet
  bool byte_fallback = false;  // a character without token becomes its bytes' <0xXX> tokens
  bool ignore_merges = false;  // a word that is a token is taken whole
  bool fuse_unknown = false;
  std::string unknown_token = {};              // empty: what has no token is dropped
  std::string continuing_subword_prefix = {};  // before each symbol of a word but the first
  std::string end_of_word_suffix = {};
};

/// A merge by ids, best first.
struct BpeMerge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t merged = 0;
  int32_t rank = 0;
};

/// The merge that "LEFT RIGHT" writes, `rank` lines behind the first. Throws Error(bad_input) naming `where`.
BpeMerge parse_merge(std::string_view text, size_t rank, const Vocabulary& vocabulary, const std::string& where);

/// Immutable. The lowest rank merges first, the leftmost pair on ties; n log n in the length of the word.
class BpeModel : public WordModel {
 public:
  /// Takes what it needs from `vocabulary`, which must outlive it.
  BpeModel(const Vocabulary& vocabulary, const std::vector<BpeMerge>& merges, BpeOptions options);

  /// `word` may be any bytes if byte_level, else valid UTF-8.
  void encode(std::string_view word,
              const char* readable_end,
              ModelScratch& scratch,
              std::vector<int32_t>& ids) const override;
  std::unique_ptr<ModelScratch> make_scratch() const override { return std::make_unique<BpeScratch>(); }
  bool encode_with_spans(std::string_view word,
                         std::vector<int32_t>& ids,
                         std::vector<TokenSpan>& spans) const override;

 private:
  struct Merge {
    uint64_t pair;  // left << 32 | right
    int32_t rank;
    int32_t merged;
  };

  void build_merge_table(const std::vector<BpeMerge>& merges);
  bool covers_all_characters() const;
  void build_boundaries(const std::vector<BpeMerge>& merges);
  void build_whole_words();
  const Merge* find_merge(int32_t left, int32_t right) const;
  bool may_join(char32_t left, char32_t right) const;
  void encode_chunk(std::string_view chunk,
                    const char* readable_end,
                    BpeScratch& scratch,
                    std::vector<int32_t>& ids) const;
  void encode_uncached(std::string_view chunk, BpeScratch& scratch, std::vector<int32_t>& ids) const;
  void append_symbols(std::string_view chunk, std::vector<int32_t>& ids, std::vector<TokenSpan>* spans) const;
  int32_t symbol_id(std::string_view character, bool is_first, bool is_last) const;
  void merge_short(std::vector<int32_t>& ids) const;
  void merge_long(BpeScratch& scratch) const;

  const Vocabulary& vocabulary_;
  BpeOptions options_;
  std::vector<Merge> merges_;       // open addressing
  std::vector<int32_t> byte_ids_;   // of single bytes (byte_level) or of <0xXX>; -1: none
  std::vector<int32_t> ascii_ids_;  // of single ASCII characters
  int32_t unknown_id_ = -1;
  StringTable whole_words_;  // by the bytes they stand for; for ignore_merges

  // Pairs of neighbouring characters that lie inside some token. Between two characters that are no such pair no merge
  // can reach across, so a long segment falls apart into independent chunks. A false positive only makes chunks longer.
  bool splits_chunks_ = false;
  std::vector<bool> ascii_pairs_;
  std::vector<uint64_t> pair_bits_;
};

}  // namespace weft
