// The tokenizer inside a GGUF file (keys: ggml's docs/gguf.md, "tokenizer.ggml.*"). The file names its pre-tokenizer by
// a word that stands for a split (gguf_pre_tokenizers.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/gguf_pre_tokenizers.h"
#include "tokenizer/loaders.h"
#include "tokenizer/pipeline_tokenizer.h"
#include "tokenizer/score_merges.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

// Values of tokenizer.ggml.token_type; the others (unknown, unused, byte) need no treatment of their own.
constexpr int64_t kNormal = 1;
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

const GgufPreTokenizer& find_pre_tokenizer(const GgufMetadata& metadata) {
  const std::string name = metadata.get_string("tokenizer.ggml.pre").value_or("default");
  std::string known;
  for (const GgufPreTokenizer& candidate : gguf_pre_tokenizers()) {
    if (candidate.name == name) return candidate;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", candidate.name);
  }
  fail_input("{}: tokenizer.ggml.pre '{}' is not supported; known are {}", metadata.path, printable(name), known);
}

/// The arrays of the vocabulary, checked to be of one length.
struct TokenList {
  const std::vector<std::string>& tokens;
  std::vector<int64_t> types;

  int64_t type(size_t id) const { return types.empty() ? kNormal : types[id]; }
};

TokenList read_tokens(const GgufMetadata& metadata) {
  const std::vector<std::string>* tokens = metadata.get_strings("tokenizer.ggml.tokens");
  if (tokens == nullptr || tokens->empty()) fail_input("{}: no tokenizer.ggml.tokens, so no tokenizer", metadata.path);
  TokenList list{.tokens = *tokens, .types = {}};
  if (const GgufValue* value = metadata.find("tokenizer.ggml.token_type")) {
    const auto* types = std::get_if<std::vector<int64_t>>(value);
    if (types == nullptr || types->size() != tokens->size()) {
      fail_input("{}: tokenizer.ggml.token_type should hold {} integers, one a token", metadata.path, tokens->size());
    }
    list.types = *types;
  }
  for (size_t id = 0; id < tokens->size(); ++id) {
    if (!is_valid_utf8((*tokens)[id])) {
      fail_input("{}: token {} is not valid UTF-8 ('{}')", metadata.path, id, printable((*tokens)[id]));
    }
  }
  return list;
}

std::optional<int32_t> read_id(const GgufMetadata& metadata, std::string_view key, int32_t vocab_size) {
  const std::optional<int64_t> id = metadata.get_int(key);
  if (!id || *id == -1 || *id == 0xFFFFFFFF) return std::nullopt;  // both stand for "none"
  if (*id < 0 || *id >= vocab_size)
    fail_input("{}: {} is {}, the vocabulary ends at {}", metadata.path, key, *id, vocab_size - 1);
  return static_cast<int32_t>(*id);
}

PipelineParts start_parts(const GgufMetadata& metadata, const TokenList& list) {
  PipelineParts parts;
  parts.where = metadata.path;
  parts.vocabulary = std::make_unique<Vocabulary>(list.tokens.size());
  for (size_t id = 0; id < list.tokens.size(); ++id) {
    const std::string& token = list.tokens[id];
    parts.vocabulary->add(token, static_cast<int32_t>(id));
    const bool is_control = list.type(id) == kControl;
    if (is_control || list.type(id) == kUserDefined) {
      parts.added_tokens.push_back({.content = token, .id = static_cast<int32_t>(id), .is_special = is_control});
    }
  }
  return parts;
}

void add_special_ids(const GgufMetadata& metadata, bool adds_bos_by_default, PipelineParts& parts) {
  const int32_t size = parts.vocabulary->size();
  TokenizerSettings settings;
  for (const std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (const auto id = read_id(metadata, key, size)) settings.end_ids.push_back(*id);
  }
  parts.bos_id = read_id(metadata, "tokenizer.ggml.bos_token_id", size);
  parts.end_ids = resolve_end_ids(settings, view_of(parts));
  parts.chat_template = metadata.get_string("tokenizer.chat_template").value_or("");
  const bool adds_bos = metadata.get_bool("tokenizer.ggml.add_bos_token").value_or(adds_bos_by_default);
  if (adds_bos && parts.bos_id) parts.prefix_ids.push_back(*parts.bos_id);
  const auto eos = read_id(metadata, "tokenizer.ggml.eos_token_id", size);
  if (metadata.get_bool("tokenizer.ggml.add_eos_token").value_or(false) && eos) parts.suffix_ids.push_back(*eos);
}

std::vector<BpeMerge> read_merges(const GgufMetadata& metadata, const Vocabulary& vocabulary) {
  const std::vector<std::string>* lines = metadata.get_strings("tokenizer.ggml.merges");
  if (lines == nullptr) fail_input("{}: no tokenizer.ggml.merges, which a gpt2 tokenizer needs", metadata.path);
  std::vector<BpeMerge> merges;
  merges.reserve(lines->size());
  for (const std::string& line : *lines) {
    merges.push_back(parse_merge(line, merges.size(), vocabulary, metadata.path));
  }
  return merges;
}

PipelineParts read_byte_level(const GgufMetadata& metadata, const TokenList& list) {
  const GgufPreTokenizer& pre = find_pre_tokenizer(metadata);
  PipelineParts parts = start_parts(metadata, list);
  parts.type = "byte_level_bpe";
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary,
                                           read_merges(metadata, *parts.vocabulary),
                                           BpeOptions{.byte_level = true, .ignore_merges = pre.ignore_merges});
  if (pre.is_nfc) {
    Normalizers stages;
    stages.push_back(make_unicode_normalizer(UnicodeForm::nfc));
    parts.normalizer = NormalizerChain(std::move(stages));
  }
  if (pre.has_single_digits) parts.pre_tokenizers.push_back(make_digit_split(true));
  for (const std::string_view pattern : pre.patterns) {
    if (!pattern.empty()) parts.pre_tokenizers.push_back(make_pattern_split(pattern, metadata.path));
  }
  parts.decoder.push_back(make_byte_level_decoder());
  add_special_ids(metadata, pre.adds_bos, parts);
  return parts;
}

std::vector<double> read_scores(const GgufMetadata& metadata, size_t num_tokens) {
  const GgufValue* value = metadata.find("tokenizer.ggml.scores");
  const auto* scores = value == nullptr ? nullptr : std::get_if<std::vector<double>>(value);
  const auto is_finite = [](double score) { return std::isfinite(score); };
  if (scores == nullptr || scores->size() != num_tokens || !std::all_of(scores->begin(), scores->end(), is_finite)) {
    fail_input("{}: tokenizer.ggml.scores should hold {} finite numbers, one a token", metadata.path, num_tokens);
  }
  return *scores;
}

/// The cuts of a piece grow with the square of its length; published pieces stay below 100 bytes.
void check_piece_lengths(const GgufMetadata& metadata, const TokenList& list) {
  constexpr size_t kMaxPieceBytes = 1024;
  for (size_t id = 0; id < list.tokens.size(); ++id) {
    if (list.tokens[id].size() > kMaxPieceBytes) {
      fail_input(
          "{}: token {} has {} bytes; the limit is {}", metadata.path, id, list.tokens[id].size(), kMaxPieceBytes);
    }
  }
}

PipelineParts read_sentencepiece(const GgufMetadata& metadata, const TokenList& list) {
  check_piece_lengths(metadata, list);
  PipelineParts parts = start_parts(metadata, list);
  parts.type = "sentencepiece_bpe";
  BpeOptions options{.byte_fallback = true, .fuse_unknown = true};
  if (const auto id = read_id(metadata, "tokenizer.ggml.unknown_token_id", parts.vocabulary->size())) {
    options.unknown_token = parts.vocabulary->token(*id);
  }
  std::vector<bool> is_mergeable(list.tokens.size());
  for (size_t id = 0; id < is_mergeable.size(); ++id) is_mergeable[id] = list.type(id) == kNormal;
  const std::vector<BpeMerge> merges =
      merges_from_scores(*parts.vocabulary, read_scores(metadata, list.tokens.size()), is_mergeable);
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, merges, std::move(options));
  const bool adds_space = metadata.get_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  Normalizers stages;
  if (adds_space) stages.push_back(make_prepend(std::string(kSpaceSymbol)));
  stages.push_back(make_replace(" ", std::string(kSpaceSymbol)));
  parts.normalizer = NormalizerChain(std::move(stages));
  parts.decoder.push_back(make_replace_decoder(make_literal_matcher(std::string(kSpaceSymbol)), " "));
  parts.decoder.push_back(make_byte_fallback_decoder());
  if (adds_space) parts.decoder.push_back(make_strip_decoder(" ", 1, 0, /*of_whole_text=*/true));
  add_special_ids(metadata, /*adds_bos_by_default=*/true, parts);
  return parts;
}

}  // namespace

std::shared_ptr<const Tokenizer> load_gguf_tokenizer(const GgufMetadata& metadata) {
  const std::string model = metadata.get_string("tokenizer.ggml.model").value_or("");
  if (model.empty()) fail_input("{}: no tokenizer.ggml.model, so no tokenizer", metadata.path);
  const TokenList list = read_tokens(metadata);
  if (model == "gpt2") return make_pipeline_tokenizer(read_byte_level(metadata, list));
  if (model == "llama") return make_pipeline_tokenizer(read_sentencepiece(metadata, list));
  fail_input(
      "{}: tokenizer.ggml.model '{}' is not supported; known are gpt2 and llama", metadata.path, printable(model));
}

}  // namespace weft
