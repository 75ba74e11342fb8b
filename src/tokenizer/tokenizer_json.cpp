#include "tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/json_stages.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_document.h"
#include "tokenizer/unigram.h"
#include "tokenizer/wordpiece.h"

namespace weft {

namespace {

using nlohmann::json;

/// The merges by id. The merged token is spelled by both halves, without the second one's continuation prefix.
std::vector<BpeMerge> resolve_merges(const TokenizerDocument& document,
                                     const Vocabulary& vocabulary,
                                     const std::string& continuing_subword_prefix) {
  std::vector<BpeMerge> merges;
  merges.reserve(document.merges.size());
  std::string merged;
  const auto id_of = [&](std::string_view token) {
    const int32_t id = vocabulary.find(token);
    if (id < 0) {
      fail_input("{}: merge {} needs the token '{}', which the vocabulary lacks",
                 document.where,
                 merges.size(),
                 printable(token));
    }
    return id;
  };
  for (const TokenizerDocument::Merge& merge : document.merges) {
    const std::string_view left = document.view(merge.left);
    std::string_view right = document.view(merge.right);
    const int32_t right_id = id_of(right);
    if (right.starts_with(continuing_subword_prefix)) right.remove_prefix(continuing_subword_prefix.size());
    merged.assign(left);
    merged.append(right);
    merges.push_back(
        {.left = id_of(left), .right = right_id, .merged = id_of(merged), .rank = static_cast<int32_t>(merges.size())});
  }
  return merges;
}

std::vector<AddedToken> read_added_tokens(const JsonFields& root, size_t num_tokens) {
  std::vector<AddedToken> tokens;
  if (root.find("added_tokens") == nullptr) return tokens;
  for (const json& item : root.array("added_tokens")) {
    const JsonFields fields(item, root.where() + ": added_tokens");
    const int64_t id = fields.integer("id");
    std::string content = fields.string("content");
    check_token_id(id, num_tokens + root.array("added_tokens").size(), content, root.where());
    const bool is_special = fields.boolean_or("special", false);
    tokens.push_back({.content = std::move(content),
                      .id = static_cast<int32_t>(id),
                      .is_special = is_special,
                      .single_word = fields.boolean_or("single_word", false),
                      .lstrip = fields.boolean_or("lstrip", false),
                      .rstrip = fields.boolean_or("rstrip", false),
                      .is_normalized = fields.boolean_or("normalized", !is_special)});
  }
  return tokens;
}

std::unique_ptr<Vocabulary> read_vocabulary(const TokenizerDocument& document) {
  auto vocabulary = std::make_unique<Vocabulary>(document.vocabulary.size());
  for (const TokenizerDocument::Token& token : document.vocabulary) {
    check_token_id(token.id, document.vocabulary.size(), document.view(token.text), document.where);
    vocabulary->add(document.view(token.text), static_cast<int32_t>(token.id));
  }
  return vocabulary;
}

std::unique_ptr<WordModel> read_bpe_model(const TokenizerDocument& document,
                                          const JsonFields& model,
                                          const Vocabulary& vocabulary,
                                          bool is_byte_level) {
  BpeOptions options{.byte_level = is_byte_level,
                     .byte_fallback = model.boolean_or("byte_fallback", false),
                     .ignore_merges = model.boolean_or("ignore_merges", false),
                     .fuse_unknown = model.boolean_or("fuse_unk", false),
                     .unknown_token = model.string_or("unk_token", ""),
                     .continuing_subword_prefix = model.string_or("continuing_subword_prefix", ""),
                     .end_of_word_suffix = model.string_or("end_of_word_suffix", "")};
  if (!options.unknown_token.empty() && vocabulary.find(options.unknown_token) < 0) {
    fail_input("{}: the unknown token '{}' is not in the vocabulary", model.where(), printable(options.unknown_token));
  }
  if (is_byte_level && !(options.continuing_subword_prefix + options.end_of_word_suffix).empty()) {
    fail_input("{}: a byte-level vocabulary with continuing_subword_prefix or end_of_word_suffix is not supported",
               model.where());
  }
  const std::vector<BpeMerge> merges = resolve_merges(document, vocabulary, options.continuing_subword_prefix);
  return std::make_unique<BpeModel>(vocabulary, merges, std::move(options));
}

std::unique_ptr<WordModel> read_wordpiece_model(const JsonFields& model, const Vocabulary& vocabulary) {
  WordPieceOptions options{.where = model.where()};
  options.unknown_token = model.string_or("unk_token", options.unknown_token);
  options.continuing_prefix = model.string_or("continuing_subword_prefix", options.continuing_prefix);
  if (model.find("max_input_chars_per_word") != nullptr) {
    options.max_word_characters = model.integer("max_input_chars_per_word");
  }
  return std::make_unique<WordPieceModel>(vocabulary, options);
}

/// The ids of <0x00> to <0xFF>, -1 for those that the vocabulary lacks.
std::vector<int32_t> find_byte_ids(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids(256);
  for (size_t byte = 0; byte < ids.size(); ++byte) ids[byte] = vocabulary.find(fmt::format("<0x{:02X}>", byte));
  return ids;
}

void check_piece(std::string_view text, int64_t id, double score, const std::string& where) {
  if (text.size() > kMaxPieceBytes) {
    fail_input(
        "{}: piece {} '{}' has {} bytes; the limit is {}", where, id, printable(text, 40), text.size(), kMaxPieceBytes);
  }
  if (std::fabs(score) > kMaxPieceScore) {
    fail_input("{}: piece {} '{}' has score {}; the file is damaged", where, id, printable(text), score);
  }
}

/// Of pieces that occur twice the later one counts, as in the reference.
UnigramModel read_unigram_model(const TokenizerDocument& document,
                                const JsonFields& model,
                                const Vocabulary& vocabulary,
                                const std::vector<AddedToken>& added_tokens) {
  std::unordered_set<std::string_view> specials;
  for (const AddedToken& token : added_tokens) {
    if (token.is_special) specials.insert(token.content);
  }
  std::vector<UnigramPiece> pieces;
  pieces.reserve(document.vocabulary.size());
  size_t num_bytes = 0;
  for (const TokenizerDocument::Token& token : document.vocabulary) {
    const std::string_view text = document.view(token.text);
    check_piece(text, token.id, token.score, model.where());
    num_bytes += text.size();
    pieces.push_back({.text = text,
                      .id = static_cast<int32_t>(token.id),
                      .score = token.score,
                      .is_special = specials.contains(text)});
  }
  if (num_bytes >= kMaxVocabularyBytes) {
    fail_input("{}: pieces of {} bytes in all; the limit is {}", model.where(), num_bytes, kMaxVocabularyBytes - 1);
  }
  const int64_t unknown_id = model.integer("unk_id");
  if (unknown_id < 0 || unknown_id >= vocabulary.size()) {
    fail_input("{}: 'unk_id' is {}, expected 0 to {}", model.where(), unknown_id, vocabulary.size() - 1);
  }
  UnigramOptions options{.rules = UnigramRules::tokenizer_json, .unknown_id = static_cast<int32_t>(unknown_id)};
  if (model.boolean_or("byte_fallback", false)) options.byte_ids = find_byte_ids(vocabulary);
  return {pieces, std::move(options)};
}

/// Older files leave the type out.
std::string type_of_model(const TokenizerDocument& document, const JsonFields& model) {
  return model.string_or("type", document.has_scores ? "Unigram" : "BPE");
}

void read_model(const TokenizerDocument& document, const JsonFields& model, bool is_byte_level, PipelineParts& parts) {
  const std::string type = type_of_model(document, model);
  const bool is_unigram = type == "Unigram";
  if (is_unigram != document.has_scores && (is_unigram || type == "BPE" || type == "WordPiece")) {
    fail_input("{}: a model of type '{}', but its vocab is {}",
               model.where(),
               type,
               is_unigram ? "no list of [piece, score]" : "a list");
  }
  if (is_unigram) {
    const UnigramModel unigram = read_unigram_model(document, model, *parts.vocabulary, parts.added_tokens);
    parts.type = "unigram";
    parts.plain_model = unigram.without_specials();
    parts.model = std::make_unique<UnigramModel>(unigram);
  } else if (type == "BPE") {
    parts.type = is_byte_level ? "byte_level_bpe" : "bpe";
    parts.model = read_bpe_model(document, model, *parts.vocabulary, is_byte_level);
  } else if (type == "WordPiece") {
    parts.type = "wordpiece";
    parts.model = read_wordpiece_model(model, *parts.vocabulary);
  } else {
    fail_input("{}: model of type '{}' is not supported; known are BPE, WordPiece and Unigram",
               model.where(),
               printable(type));
  }
}

const json& stage_of(const JsonFields& root, std::string_view key) {
  static const json none;
  const json* stage = root.find(key);
  return stage == nullptr ? none : *stage;
}

}  // namespace

PipelineParts read_tokenizer_json(std::string_view text, const std::string& where) {
  const TokenizerDocument document = parse_tokenizer_document(text, where);
  const JsonFields root(*document.rest, where);
  const JsonFields model = root.object("model");
  if (document.vocabulary.empty()) fail_input("{}: model.vocab has no tokens", where);

  PipelineParts parts;
  parts.where = where;
  parts.vocabulary = read_vocabulary(document);
  const bool is_bpe = type_of_model(document, model) == "BPE";
  PreTokenizerPlan plan =
      read_pre_tokenizer(stage_of(root, "pre_tokenizer"), /*reads_bytes=*/is_bpe, where + ": pre_tokenizer");
  parts.added_tokens = read_added_tokens(root, document.vocabulary.size());
  read_model(document, model, plan.is_byte_level, parts);
  parts.pre_tokenizers = std::move(plan.stages);
  for (const AddedToken& token : parts.added_tokens) parts.vocabulary->add(token.content, token.id);
  parts.normalizer = read_normalizer(stage_of(root, "normalizer"), where + ": normalizer");
  SpecialIds special =
      read_post_processor(stage_of(root, "post_processor"), *parts.vocabulary, where + ": post_processor");
  parts.prefix_ids = std::move(special.before);
  parts.suffix_ids = std::move(special.after);
  parts.pair_template = std::move(special.pair);
  parts.decoder = read_decoder(stage_of(root, "decoder"), where + ": decoder");
  return parts;
}

std::shared_ptr<const Tokenizer> load_tokenizer_json_text(std::string_view text,
                                                          const std::string& where,
                                                          const TokenizerSettings& settings) {
  PipelineParts parts = read_tokenizer_json(text, where);
  const VocabularyView view = view_of(parts);
  parts.bos_id = resolve_bos(settings, view);
  if (!parts.bos_id && !parts.prefix_ids.empty()) parts.bos_id = parts.prefix_ids.front();
  parts.end_ids = resolve_end_ids(settings, view);
  // Those of language models have nothing behind a text.
  if (parts.end_ids.empty() && (parts.type == "wordpiece" || parts.type == "unigram")) parts.end_ids = parts.suffix_ids;
  parts.chat_template = settings.chat_template;
  return make_pipeline_tokenizer(std::move(parts));
}

}  // namespace weft
