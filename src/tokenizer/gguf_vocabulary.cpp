#include "tokenizer/gguf_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/paths.h"
#include "tokenizer/gguf_pre_tokenizers.h"
#include "tokenizer/loaders.h"
#include "tokenizer/sentencepiece_model.pb.h"
#include "tokenizer/split_pattern.h"
#include "tokenizer/text_file.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_document.h"

namespace weft {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Values of tokenizer.ggml.token_type, the same as a sentencepiece model's.
constexpr int64_t kNormal = 1;
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;
constexpr int64_t kUnused = 5;

struct TokenTable {
  explicit TokenTable(int64_t size) : tokens(static_cast<size_t>(size)), types(static_cast<size_t>(size), kUnused) {
    for (size_t id = 0; id < tokens.size(); ++id) tokens[id] = fmt::format("[PAD{}]", id);
  }

  void set(int64_t id, std::string token, int64_t type, const std::string& where) {
    if (id < 0 || id >= std::ssize(tokens)) {
      fail_input("{}: token '{}' has id {}, the model's table {} rows", where, printable(token), id, tokens.size());
    }
    tokens[static_cast<size_t>(id)] = std::move(token);
    types[static_cast<size_t>(id)] = type;
  }

  std::vector<std::string> tokens;
  std::vector<int64_t> types;
};

/// How a tokenizer.json cuts text, in the terms of the format's names.
struct Cuts {
  std::vector<std::string> patterns;
  bool has_single_digits = false;
  bool ignore_merges = false;
  bool is_nfc = false;
};

[[noreturn]] void refuse(const std::string& where, std::string_view what) {
  fail_input("{}: {}, for which GGUF has no name", where, what);
}

void add_pre_tokenizer(const json& stage, const std::string& where, Cuts& cuts) {
  const std::string type = stage.value("type", "");
  if (type == "Sequence") {
    for (const json& part : stage.at("pretokenizers")) add_pre_tokenizer(part, where, cuts);
  } else if (type == "Digits" && stage.value("individual_digits", false) && cuts.patterns.empty()) {
    cuts.has_single_digits = true;
  } else if (type == "Split" && stage.at("pattern").contains("Regex") && stage.value("behavior", "") == "Isolated") {
    cuts.patterns.push_back(stage["pattern"]["Regex"]);
  } else if (type == "ByteLevel" && !stage.value("add_prefix_space", true)) {
    if (stage.value("use_regex", true)) cuts.patterns.emplace_back(kGpt2Pattern);
  } else {
    refuse(where, fmt::format("it cuts text by a pre-tokenizer of type {} in a way of its own", printable(type)));
  }
}

Cuts read_cuts(const json& root, const std::string& where) {
  Cuts cuts{.patterns = {}, .ignore_merges = root["model"].value("ignore_merges", false)};
  add_pre_tokenizer(root.value("pre_tokenizer", json::object()), where, cuts);
  const json normalizer = root.value("normalizer", json());
  cuts.is_nfc = normalizer.is_object() && normalizer.value("type", "") == "NFC";
  if (!normalizer.is_null() && !cuts.is_nfc) refuse(where, "it normalises text");
  return cuts;
}

std::string_view find_name(const Cuts& cuts, const std::string& where) {
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers()) {
    std::vector<std::string> patterns;
    for (std::string_view pattern : known.patterns) {
      if (!pattern.empty()) patterns.emplace_back(pattern);
    }
    if (patterns == cuts.patterns && known.has_single_digits == cuts.has_single_digits &&
        known.ignore_merges == cuts.ignore_merges && known.is_nfc == cuts.is_nfc) {
      return known.name;
    }
  }
  refuse(where, "it cuts text by patterns");
}

GgufEntries entries_of_json(const std::string& path, int64_t vocab_size) {
  const TokenizerDocument document = parse_tokenizer_document(read_whole_file(path), path);
  const json& root = *document.rest;
  if (root["model"].value("type", "") != "BPE" || root["model"].value("byte_fallback", false)) {
    fail_input(
        "{}: GGUF holds byte-level BPE and sentencepiece's BPE; is the .model file missing that this was made from?",
        path);
  }
  const std::string_view name = find_name(read_cuts(root, path), path);
  TokenTable table(vocab_size);
  for (const TokenizerDocument::Token& token : document.vocabulary) {
    table.set(token.id, std::string(document.view(token.text)), kNormal, path);
  }
  for (const json& token : root.value("added_tokens", json::array())) {
    table.set(token.at("id"), token.at("content"), token.value("special", false) ? kControl : kUserDefined, path);
  }
  std::vector<std::string> merges;
  merges.reserve(document.merges.size());
  for (const TokenizerDocument::Merge& merge : document.merges) {
    merges.push_back(fmt::format("{} {}", document.view(merge.left), document.view(merge.right)));
  }
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", std::string(name)},
          {"tokenizer.ggml.tokens", std::move(table.tokens)},
          {"tokenizer.ggml.token_type", std::move(table.types)},
          {"tokenizer.ggml.merges", std::move(merges)}};
}

GgufEntries entries_of_sentencepiece(const std::string& path, int64_t vocab_size) {
  sentencepiece::Model model;
  if (!model.ParseFromString(read_whole_file(path))) fail_input("{}: not a sentencepiece model", path);
  if (model.trainer().model_type() != sentencepiece::Trainer::BPE) {
    fail_input("{}: of sentencepiece models GGUF holds those of type BPE", path);
  }
  TokenTable table(vocab_size);
  std::vector<double> scores(static_cast<size_t>(vocab_size));
  int64_t unknown = 0;
  for (int id = 0; id < model.pieces_size(); ++id) {
    const sentencepiece::Model::Piece& piece = model.pieces(id);
    table.set(id, piece.piece(), piece.type(), path);
    scores[static_cast<size_t>(id)] = piece.score();
    if (piece.type() == sentencepiece::Model::Piece::UNKNOWN) unknown = id;
  }
  return {{"tokenizer.ggml.model", "llama"},
          {"tokenizer.ggml.pre", "default"},
          {"tokenizer.ggml.tokens", std::move(table.tokens)},
          {"tokenizer.ggml.scores", std::move(scores)},
          {"tokenizer.ggml.token_type", std::move(table.types)},
          {"tokenizer.ggml.unknown_token_id", unknown},
          {"tokenizer.ggml.add_space_prefix", model.normalizer().add_dummy_prefix()}};
}

GgufEntries entries_of_gguf(const std::string& path) {
  GgufEntries entries;
  const std::shared_ptr<const GgufMetadata> metadata = read_gguf_metadata(path);
  for (const auto& [key, value] : metadata->values) {
    if (key.starts_with("tokenizer.")) entries.emplace_back(key, value);
  }
  return entries;
}

/// The file that the tokenizer is in.
std::string tokenizer_file(const std::string& path) {
  if (path.ends_with(".gguf") || path.ends_with(".model") || path.ends_with("tokenizer.json")) return path;
  const fs::path folder = is_folder(path) ? fs::path(path) : fs::path(path).parent_path();
  constexpr std::array kFiles = {"tokenizer.gguf", "tokenizer.model", "spiece.model", "tokenizer.json"};
  for (const char* name : kFiles) {
    if (path_exists(folder / name)) return (folder / name).string();
  }
  fail_input("{}: no tokenizer that a GGUF file can hold; looked for {}", printable(path), fmt::join(kFiles, ", "));
}

/// What of a text's surroundings the tokenizer itself decides.
void add_special_entries(const Tokenizer& tokenizer, const TokenizerSettings& settings, GgufEntries& entries) {
  const auto bos = tokenizer.bos_id();
  std::optional<int32_t> eos;
  for (const std::string& token : settings.end_tokens) {
    if (!eos) eos = tokenizer.token_to_id(token);
  }
  if (!eos && !tokenizer.end_ids().empty()) eos = tokenizer.end_ids().front();
  if (bos) entries.emplace_back("tokenizer.ggml.bos_token_id", int64_t{*bos});
  if (eos) entries.emplace_back("tokenizer.ggml.eos_token_id", int64_t{*eos});
  if (const auto pad = tokenizer.pad_id()) entries.emplace_back("tokenizer.ggml.padding_token_id", int64_t{*pad});
  const std::vector<int32_t> ids = tokenizer.encode("a", true);
  entries.emplace_back("tokenizer.ggml.add_bos_token", bos && ids.front() == *bos);
  entries.emplace_back("tokenizer.ggml.add_eos_token", eos && ids.back() == *eos);
  if (!tokenizer.chat_template().empty()) entries.emplace_back("tokenizer.chat_template", tokenizer.chat_template());
}

void check_same_cuts(const std::string& path, const Tokenizer& tokenizer, const GgufEntries& entries) {
  constexpr std::array kProbes = {
      "The quick brown fox, it's 12345.67 (or 8)!",
      "  leading and   inner spaces\t\ttabs\n\n\nlines\r\nend ",
      "def f(x):\n    return x**2 + [1, 2][0]  # caf\xC3\xA9 na\xC3\xAFve",
      "\xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x8C\xE4\xB8\x96\xE7\x95\x8C 2024\xE5\xB9\xB4 "
      "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 \xF0\x9F\x98\x80\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD",
      "x",
      " ",
      "e\xCC\x81 \xEF\xAC\x81"};
  GgufMetadata metadata;
  metadata.path = path;
  for (const auto& [key, value] : entries) metadata.values.emplace(key, value);
  const std::shared_ptr<const Tokenizer> written = load_gguf_tokenizer(metadata);
  for (const char* probe : kProbes) {
    for (const bool with_specials : {false, true}) {
      if (written->encode(probe, with_specials) == tokenizer.encode(probe, with_specials)) continue;
      fail_input("{}: as GGUF it would cut \"{}\" otherwise; this tokenizer has no GGUF form", path, printable(probe));
    }
  }
}

}  // namespace

GgufEntries gguf_tokenizer_entries(const std::string& path, int64_t vocab_size) {
  const std::string file = tokenizer_file(path);
  if (file.ends_with(".gguf")) return entries_of_gguf(file);
  const std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(file);
  GgufEntries entries =
      file.ends_with(".json") ? entries_of_json(file, vocab_size) : entries_of_sentencepiece(file, vocab_size);
  add_special_entries(*tokenizer, read_tokenizer_settings(fs::path(file).parent_path().string()), entries);
  check_same_cuts(file, *tokenizer, entries);
  return entries;
}

}  // namespace weft
