#include "tokenizer/json_stages.h"

#include <functional>
#include <optional>

#include "tokenizer/base64.h"
#include "tokenizer/bert_text.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/sentencepiece_normalizer.h"
#include "tokenizer/text_template.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

using nlohmann::json;

// Each stage of a sequence is one more call for every word.
constexpr size_t kMaxStages = 32;
// A template names its tokens by reference, so that a small file could ask for very many.
constexpr size_t kMaxTemplateTokens = 1024;

[[noreturn]] void fail_type(const JsonFields& fields, std::string_view kind, std::string_view known) {
  fail_input("{}: {} of type '{}' is not supported; known are {}",
             fields.where(),
             kind,
             printable(fields.string("type")),
             known);
}

/// The stages of a description, those of (nested) sequences one after the other.
void flatten(const json& description,
             std::string_view list_key,
             const std::string& where,
             std::vector<const json*>& out) {
  if (description.is_null()) return;
  const JsonFields fields(description, where);
  if (fields.string("type") != "Sequence") {
    out.push_back(&description);
    if (out.size() > kMaxStages) fail_input("{}: more than {} stages", where, kMaxStages);
    return;
  }
  for (const json& stage : fields.array(list_key)) flatten(stage, list_key, where, out);
}

std::unique_ptr<Matcher> read_matcher(const JsonFields& fields) {
  const json& pattern = fields.require("pattern");
  if (pattern.is_string()) return make_literal_matcher(pattern.get<std::string>());
  const JsonFields choice = fields.object("pattern");
  if (choice.find("String") != nullptr) return make_literal_matcher(choice.string("String"));
  if (choice.find("Regex") != nullptr) return make_regex_matcher(choice.string("Regex"), choice.where());
  fail_input("{}: expected 'String' or 'Regex'", choice.where());
}

std::optional<std::string> regex_of(const JsonFields& fields) {
  const json& pattern = fields.require("pattern");
  if (!pattern.is_object() || !pattern.contains("Regex")) return std::nullopt;
  return fields.object("pattern").string("Regex");
}

SplitBehavior read_behavior(const JsonFields& fields, const std::string& fallback) {
  const std::string name = fields.string_or("behavior", fallback);
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail_input(
      "{}: split behavior '{}' is not supported; known are Removed, Isolated, MergedWithPrevious, MergedWithNext and "
      "Contiguous",
      fields.where(),
      printable(name));
}

std::unique_ptr<Normalizer> read_bert_normalizer(const JsonFields& fields) {
  const bool lowercase = fields.boolean_or("lowercase", true);
  return make_bert_normalizer({.clean_text = fields.boolean_or("clean_text", true),
                               .handle_chinese_chars = fields.boolean_or("handle_chinese_chars", true),
                               .strip_accents = fields.boolean_or("strip_accents", lowercase),
                               .lowercase = lowercase,
                               .rules = BertRules::tokenizer_json});
}

std::unique_ptr<Normalizer> read_precompiled(const JsonFields& fields) {
  const std::optional<std::string> bytes = decode_base64(fields.string("precompiled_charsmap"));
  if (!bytes || bytes->empty()) {
    fail_input("{}: 'precompiled_charsmap' is {}; the file is damaged", fields.where(), bytes ? "empty" : "not base64");
  }
  return make_precompiled(Charsmap(*bytes, fields.where()));
}

std::unique_ptr<Normalizer> read_normalizer_stage(const JsonFields& fields) {
  const std::string type = fields.string("type");
  if (type == "BertNormalizer") return read_bert_normalizer(fields);
  if (type == "NFC") return make_unicode_normalizer(UnicodeForm::nfc);
  if (type == "NFD") return make_unicode_normalizer(UnicodeForm::nfd);
  if (type == "NFKC") return make_unicode_normalizer(UnicodeForm::nfkc);
  if (type == "NFKD") return make_unicode_normalizer(UnicodeForm::nfkd);
  if (type == "Lowercase") return make_lowercase();
  if (type == "StripAccents") return make_strip_accents();
  if (type == "Strip") return make_strip(fields.boolean_or("strip_left", true), fields.boolean_or("strip_right", true));
  if (type == "Prepend") return make_prepend(fields.string("prepend"));
  if (type == "Nmt") return make_nmt();
  if (type == "Precompiled") return read_precompiled(fields);
  if (type == "ByteLevel") return make_byte_level_normalizer();
  if (type == "Replace") {
    const json& pattern = fields.require("pattern");
    const bool is_literal = pattern.is_object() && pattern.contains("String");
    if (is_literal) return make_replace(fields.object("pattern").string("String"), fields.string("content"));
    return make_replace(read_matcher(fields), fields.string("content"));
  }
  fail_type(fields,
            "normalizer",
            "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace, Nmt, Precompiled, ByteLevel, "
            "BertNormalizer and Sequence");
}

/// `prepend_scheme`, or `add_prefix_space` in older files.
PrependScheme read_prepend_scheme(const JsonFields& fields) {
  const std::string fallback = fields.boolean_or("add_prefix_space", true) ? "always" : "never";
  const std::string name = fields.string_or("prepend_scheme", fallback);
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  if (name == "never") return PrependScheme::never;
  fail_input(
      "{}: prepend_scheme '{}' is not supported; known are always, first and never", fields.where(), printable(name));
}

std::string read_replacement(const JsonFields& fields) {
  std::string replacement = fields.string_or("replacement", MetaspaceOptions().replacement);
  if (replacement.empty()) fail_input("{}: 'replacement' is empty, expected one character", fields.where());
  return replacement;
}

std::unique_ptr<PreTokenizer> read_split(const JsonFields& fields) {
  const SplitBehavior behavior = read_behavior(fields, "Isolated");
  const bool invert = fields.boolean_or("invert", false);
  if (const auto regex = regex_of(fields); regex && behavior == SplitBehavior::isolated) {
    return make_pattern_split(*regex, fields.where());  // isolated pieces are the same inverted or not
  }
  return make_split(read_matcher(fields), behavior, invert);
}

void read_pre_tokenizer_stage(const JsonFields& fields, bool may_leave_bytes, PreTokenizerPlan& plan) {
  const std::string type = fields.string("type");
  PreTokenizers& stages = plan.stages;
  if (type == "ByteLevel") {
    const ByteLevelOptions options{.add_prefix_space = fields.boolean_or("add_prefix_space", true),
                                   .use_regex = fields.boolean_or("use_regex", true),
                                   .spell_bytes = !may_leave_bytes};
    append_byte_level(options, stages);
    plan.is_byte_level = may_leave_bytes;
  } else if (type == "Split") {
    stages.push_back(read_split(fields));
  } else if (type == "Digits") {
    stages.push_back(make_digit_split(fields.boolean_or("individual_digits", false)));
  } else if (type == "Metaspace") {
    stages.push_back(make_metaspace({.replacement = read_replacement(fields),
                                     .prepend = read_prepend_scheme(fields),
                                     .split = fields.boolean_or("split", true)}));
  } else if (type == "Whitespace") {
    stages.push_back(make_whitespace_split());
  } else if (type == "WhitespaceSplit") {
    stages.push_back(make_split(make_class_matcher(is_space), SplitBehavior::removed, false));
  } else if (type == "Punctuation") {
    stages.push_back(make_split(make_class_matcher(is_punctuation), read_behavior(fields, "Isolated"), false));
  } else if (type == "CharDelimiterSplit") {
    stages.push_back(make_split(make_literal_matcher(fields.string("delimiter")), SplitBehavior::removed, false));
  } else if (type == "BertPreTokenizer") {
    stages.push_back(make_bert_split());
  } else {
    fail_type(fields,
              "pre-tokenizer",
              "ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, CharDelimiterSplit, "
              "BertPreTokenizer and Sequence");
  }
}

/// [token, id] as BertProcessing and RobertaProcessing write it.
int32_t read_token_pair(const JsonFields& fields, std::string_view key, const Vocabulary& vocabulary) {
  const json& pair = fields.array(key);
  const bool is_pair = pair.size() == 2 && pair[0].is_string() && pair[1].is_number_integer();
  const int64_t id = is_pair ? pair[1].get<int64_t>() : -1;
  if (id < 0 || id >= vocabulary.size())
    fail_input("{}: '{}' should be [token, id] of a known token", fields.where(), key);
  return static_cast<int32_t>(id);
}

[[noreturn]] void fail_template_size(const JsonFields& fields) {
  fail_input("{}: a template puts more than {} tokens round a text", fields.where(), kMaxTemplateTokens);
}

void append_special_ids(const JsonFields& fields,
                        const std::string& name,
                        const Vocabulary& vocabulary,
                        std::vector<int32_t>& ids) {
  const JsonFields token = fields.object("special_tokens").object(name);
  for (const json& id : token.array("ids")) {
    const int64_t value = id.is_number_integer() ? id.get<int64_t>() : -1;
    if (value < 0 || value >= vocabulary.size()) {
      fail_input("{}: special token '{}' has id {}, the vocabulary ends at {}",
                 fields.where(),
                 printable(name),
                 printable(id.dump(-1, ' ', false, json::error_handler_t::replace)),
                 vocabulary.size() - 1);
    }
    if (ids.size() == kMaxTemplateTokens) fail_template_size(fields);
    ids.push_back(static_cast<int32_t>(value));
  }
}

int32_t read_segment(const JsonFields& fields) {
  const int64_t segment = fields.find("type_id") == nullptr ? 0 : fields.integer("type_id");
  if (segment < 0 || segment > 255) fail_input("{}: 'type_id' is {}, expected 0 to 255", fields.where(), segment);
  return static_cast<int32_t>(segment);
}

/// The template of two texts, each of which it must hold once.
TextTemplate read_pair_template(const JsonFields& fields, const Vocabulary& vocabulary) {
  TextTemplate pieces;
  int num_texts[2] = {0, 0};
  for (const json& item : fields.array("pair")) {
    const JsonFields piece(item, fields.where() + ": pair");
    if (piece.find("Sequence") != nullptr) {
      const JsonFields text = piece.object("Sequence");
      const std::string name = text.string("id");
      if (name != "A" && name != "B") fail_input("{}: no text '{}', expected A or B", text.where(), printable(name));
      const bool is_first = name == "A";
      ++num_texts[is_first ? 0 : 1];
      pieces.push_back({.kind = is_first ? TemplatePiece::Kind::first_text : TemplatePiece::Kind::second_text,
                        .segment = read_segment(text)});
    } else {
      const JsonFields token = piece.object("SpecialToken");
      std::vector<int32_t> ids;
      append_special_ids(fields, token.string("id"), vocabulary, ids);
      if (pieces.size() + ids.size() > kMaxTemplateTokens) fail_template_size(fields);
      for (const int32_t id : ids) pieces.push_back({.id = id, .segment = read_segment(token)});
    }
  }
  if (num_texts[0] != 1 || num_texts[1] != 1) {
    fail_input("{}: the template 'pair' should hold each of the texts A and B once", fields.where());
  }
  return pieces;
}

void read_template(const JsonFields& fields, const Vocabulary& vocabulary, SpecialIds& special) {
  bool has_text = false;
  SpecialIds added;
  for (const json& item : fields.array("single")) {
    const JsonFields piece(item, fields.where());
    if (piece.find("Sequence") != nullptr) {
      if (has_text) fail_input("{}: the template 'single' holds its text twice", fields.where());
      has_text = true;
    } else {
      const std::string name = piece.object("SpecialToken").string("id");
      append_special_ids(fields, name, vocabulary, has_text ? added.after : added.before);
    }
  }
  if (!has_text) fail_input("{}: the template 'single' has no place for the text", fields.where());
  special.before.insert(special.before.begin(), added.before.begin(), added.before.end());
  special.after.insert(special.after.end(), added.after.begin(), added.after.end());
  if (fields.find("pair") != nullptr) special.pair = read_pair_template(fields, vocabulary);
}

void read_post_processor_stage(const JsonFields& fields, const Vocabulary& vocabulary, SpecialIds& special) {
  const std::string type = fields.string("type");
  if (type == "ByteLevel") return;  // moves offsets only
  if (type == "TemplateProcessing") return read_template(fields, vocabulary, special);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    const int32_t cls = read_token_pair(fields, "cls", vocabulary);
    const int32_t sep = read_token_pair(fields, "sep", vocabulary);
    special.before.insert(special.before.begin(), cls);
    special.after.push_back(sep);
    special.pair = type == "BertProcessing" ? bert_pair_template(cls, sep) : roberta_pair_template(cls, sep);
    return;
  }
  fail_type(fields, "post-processor", "TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing and Sequence");
}

size_t read_count(const JsonFields& fields, std::string_view key) {
  const int64_t count = fields.integer(key);
  if (count < 0 || count > 1024) fail_input("{}: '{}' is {}, expected 0 to 1024", fields.where(), key, count);
  return static_cast<size_t>(count);
}

/// Null for Fuse, after which all tokens count as one.
std::unique_ptr<DecoderStep> read_decoder_stage(const JsonFields& fields, bool is_fused) {
  const std::string type = fields.string("type");
  if (type == "Fuse") return nullptr;
  if (type == "ByteLevel") return make_byte_level_decoder();
  if (type == "ByteFallback") return make_byte_fallback_decoder();
  if (type == "Metaspace") {
    return make_metaspace_decoder(read_replacement(fields), read_prepend_scheme(fields) != PrependScheme::never);
  }
  if (type == "WordPiece") {
    return make_wordpiece_decoder(fields.string_or("prefix", "##"), fields.boolean_or("cleanup", true));
  }
  if (type == "BPEDecoder") return make_bpe_decoder(fields.string_or("suffix", "</w>"));
  if (type == "Replace") {
    if (is_fused) fail_input("{}: decoder Replace after Fuse is not supported", fields.where());
    return make_replace_decoder(read_matcher(fields), fields.string("content"));
  }
  if (type == "Strip") {
    const std::string content = fields.string("content");
    if (content.empty()) fail_input("{}: 'content' is empty, expected one character", fields.where());
    return make_strip_decoder(content, read_count(fields, "start"), read_count(fields, "stop"), is_fused);
  }
  fail_type(fields,
            "decoder",
            "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, WordPiece, BPEDecoder and Sequence");
}

}  // namespace

NormalizerChain read_normalizer(const json& description, const std::string& where) {
  std::vector<const json*> descriptions;
  flatten(description, "normalizers", where, descriptions);
  Normalizers stages;
  for (const json* stage : descriptions) stages.push_back(read_normalizer_stage(JsonFields(*stage, where)));
  return NormalizerChain(std::move(stages));
}

PreTokenizerPlan read_pre_tokenizer(const json& description, bool reads_bytes, const std::string& where) {
  std::vector<const json*> descriptions;
  flatten(description, "pretokenizers", where, descriptions);
  PreTokenizerPlan plan;
  for (const json* stage : descriptions) {
    read_pre_tokenizer_stage(JsonFields(*stage, where), reads_bytes && stage == descriptions.back(), plan);
  }
  return plan;
}

SpecialIds read_post_processor(const json& description, const Vocabulary& vocabulary, const std::string& where) {
  std::vector<const json*> descriptions;
  flatten(description, "processors", where, descriptions);
  SpecialIds special;
  for (const json* stage : descriptions) read_post_processor_stage(JsonFields(*stage, where), vocabulary, special);
  return special;
}

DecoderSteps read_decoder(const json& description, const std::string& where) {
  std::vector<const json*> descriptions;
  flatten(description, "decoders", where, descriptions);
  DecoderSteps steps;
  if (descriptions.empty()) steps.push_back(make_space_joiner());
  bool is_fused = false;
  for (const json* stage : descriptions) {
    auto step = read_decoder_stage(JsonFields(*stage, where), is_fused);
    is_fused = is_fused || step == nullptr;
    if (step) steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace weft
