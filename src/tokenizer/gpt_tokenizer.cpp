// The files of GPT-2, RoBERTa and OpenAI GPT: vocab.json (token to id) and merges.txt (a merge a line, the best first).
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tokenizer/bert_text.h"
#include "tokenizer/bpe.h"
#include "tokenizer/loaders.h"
#include "tokenizer/pipeline_tokenizer.h"
#include "tokenizer/text_template.h"

namespace weft {

namespace {

using nlohmann::json;

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::string_view kBegin = "<s>";
constexpr std::string_view kEnd = "</s>";
constexpr std::string_view kMask = "<mask>";
constexpr std::string_view kUnknown = "<unk>";
constexpr std::string_view kWordEnd = "</w>";
constexpr std::string_view kSpelledSpace = "\xC4\xA0";  // the space in GPT-2's alphabet of bytes

std::unique_ptr<Vocabulary> read_vocabulary(std::string_view text, const std::string& where) {
  const json tokens = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!tokens.is_object() || tokens.empty()) {
    fail_input("{}: not a JSON object of tokens and their ids; is the file complete?", where);
  }
  auto vocabulary = std::make_unique<Vocabulary>(tokens.size());
  for (const auto& [token, id] : tokens.items()) {
    if (!id.is_number_integer()) {
      fail_input("{}: the id of token '{}' should be an integer, found {}", where, printable(token), id.type_name());
    }
    check_token_id(id.get<int64_t>(), tokens.size(), token, where);
    if (const auto number = id.get<int32_t>(); !vocabulary->contains(number)) {
      vocabulary->add(token, number);
    } else {
      fail_input("{}: tokens '{}' and '{}' have the same id {}",
                 where,
                 printable(vocabulary->token(number)),
                 printable(token),
                 number);
    }
  }
  return vocabulary;
}

std::vector<BpeMerge> read_merges(std::string_view text, const Vocabulary& vocabulary, const std::string& where) {
  std::vector<BpeMerge> merges;
  if (text.starts_with("#version")) text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() && text.empty()) break;
    merges.push_back(parse_merge(line, merges.size(), vocabulary, where));
  }
  return merges;
}

void add_special_token(std::string_view token, PipelineParts& parts) {
  const int32_t id = parts.vocabulary->find(token);
  const bool is_known = std::any_of(
      parts.added_tokens.begin(), parts.added_tokens.end(), [&](const AddedToken& added) { return added.id == id; });
  if (id >= 0 && !is_known) parts.added_tokens.push_back({.content = std::string(token), .id = id, .is_special = true});
}

void add_gpt2_stages(const std::vector<BpeMerge>& merges, const TokenizerSettings& settings, PipelineParts& parts) {
  parts.type = "byte_level_bpe";
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, merges, BpeOptions{.byte_level = true});
  append_byte_level({.add_prefix_space = settings.add_prefix_space.value_or(false), .spell_bytes = false},
                    parts.pre_tokenizers);
  parts.decoder.push_back(make_byte_level_decoder());
}

/// GPT-2's stages; special tokens as BERT has them.
void add_roberta_tokens(PipelineParts& parts) {
  for (const std::string_view token : {kBegin, kEnd}) {
    if (parts.vocabulary->find(token) >= 0) continue;
    fail_input("{}: no token {}; RoBERTa's vocabulary has <s> and </s>", parts.where, token);
  }
  for (const std::string_view token : {kBegin, kEnd, std::string_view("<pad>"), kUnknown, kMask}) {
    add_special_token(token, parts);
    if (token == kMask && parts.vocabulary->find(token) >= 0) parts.added_tokens.back().lstrip = true;
  }
  const int32_t begin = parts.vocabulary->find(kBegin);
  const int32_t end = parts.vocabulary->find(kEnd);
  parts.prefix_ids = {begin};
  parts.suffix_ids = {end};
  parts.pair_template = roberta_pair_template(begin, end);
}

/// The words of BERT in lower case, as the reference makes them where spaCy is not installed.
void add_openai_gpt_stages(const std::vector<BpeMerge>& merges, PipelineParts& parts) {
  parts.type = "bpe";
  BpeOptions options{.end_of_word_suffix = std::string(kWordEnd)};
  if (parts.vocabulary->find(kUnknown) >= 0) options.unknown_token = kUnknown;
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, merges, std::move(options));
  Normalizers normalizers;
  normalizers.push_back(make_bert_normalizer({}));
  parts.normalizer = NormalizerChain(std::move(normalizers));
  parts.pre_tokenizers.push_back(make_bert_split());
  parts.decoder.push_back(make_bpe_decoder(std::string(kWordEnd)));
  add_special_token(kUnknown, parts);
}

enum class Kind : uint8_t { gpt2, roberta, openai_gpt };

Kind kind_of(const Vocabulary& vocabulary, const TokenizerSettings& settings, const std::string& where) {
  std::string_view name = settings.tokenizer_class;
  if (name.ends_with("Fast")) name.remove_suffix(std::string_view("Fast").size());
  if (name == "GPT2Tokenizer") return Kind::gpt2;
  if (name == "RobertaTokenizer" || name == "BartTokenizer") return Kind::roberta;
  if (name == "OpenAIGPTTokenizer") return Kind::openai_gpt;
  if (!name.empty()) {
    fail_input(
        "{}: the vocab.json and merges.txt of a {} are not supported, only of GPT2Tokenizer and OpenAIGPTTokenizer; "
        "put "
        "the model's tokenizer.json beside them",
        where,
        printable(settings.tokenizer_class));
  }
  bool has_word_ends = false;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    has_word_ends = has_word_ends || vocabulary.token(id).ends_with(kWordEnd);
  }
  const auto holds = [&](std::string_view token) { return vocabulary.find(token) >= 0; };
  if (!has_word_ends) return !holds(kEndOfText) && holds(kBegin) && holds(kEnd) ? Kind::roberta : Kind::gpt2;
  if (!holds(kSpelledSpace)) return Kind::openai_gpt;
  fail_input(
      "{}: a byte-level vocabulary with ends of words ({}) is not supported; put the model's tokenizer.json here",
      where,
      kWordEnd);
}

}  // namespace

std::shared_ptr<const Tokenizer> load_gpt_texts(const GptFiles& files, const TokenizerSettings& settings) {
  PipelineParts parts;
  parts.where = files.vocabulary_where;
  parts.vocabulary = read_vocabulary(files.vocabulary, files.vocabulary_where);
  const Kind kind = kind_of(*parts.vocabulary, settings, parts.where);
  const std::vector<BpeMerge> merges = read_merges(files.merges, *parts.vocabulary, files.merges_where);
  if (kind == Kind::openai_gpt) {
    add_openai_gpt_stages(merges, parts);
  } else {
    add_gpt2_stages(merges, settings, parts);
  }
  if (kind == Kind::gpt2) add_special_token(kEndOfText, parts);
  if (kind == Kind::roberta) add_roberta_tokens(parts);
  if (settings.bos_token) add_special_token(*settings.bos_token, parts);
  for (const std::string& token : settings.end_tokens) add_special_token(token, parts);
  const VocabularyView view = view_of(parts);
  parts.bos_id = resolve_bos(settings, view);
  if (!parts.bos_id && !parts.prefix_ids.empty()) parts.bos_id = parts.prefix_ids.front();
  parts.end_ids = resolve_end_ids(settings, view);
  if (parts.end_ids.empty()) parts.end_ids = parts.suffix_ids;
  parts.chat_template = settings.chat_template;
  return make_pipeline_tokenizer(std::move(parts));
}

}  // namespace weft
