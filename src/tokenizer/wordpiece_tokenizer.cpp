// A tokenizer from BERT's vocab.txt.
#include <algorithm>
#include <array>

#include "core/error.h"
#include "tokenizer/bert_text.h"
#include "tokenizer/loaders.h"
#include "tokenizer/pipeline_tokenizer.h"
#include "tokenizer/text_file.h"
#include "tokenizer/text_template.h"
#include "tokenizer/unicode.h"
#include "tokenizer/wordpiece.h"
#include "tokenizer/wordpiece_vocabulary.h"

namespace weft {

namespace {

// bert4keras3's limit; `tokenizers` has 100.
constexpr int64_t kMaxWordCharacters = 200;

/// A vocabulary without any capital letter was made of lower-cased text.
bool has_capital_letters(const std::vector<std::string>& tokens) {
  const auto is_capital = [](char byte) { return byte >= 'A' && byte <= 'Z'; };
  return std::any_of(tokens.begin(), tokens.end(), [&](const std::string& token) {
    return !is_bracketed(token) && std::any_of(token.begin(), token.end(), is_capital);
  });
}

void require_special_tokens(const Vocabulary& vocabulary, const std::string& where) {
  for (const char* token : {"[UNK]", "[CLS]", "[SEP]"}) {
    if (vocabulary.find(token) < 0) {
      fail_input("{}: no token {}; a WordPiece vocabulary needs [UNK], [CLS] and [SEP]", where, token);
    }
  }
}

BertNormalizerOptions normalizer_options(const WordPieceVocabulary& vocabulary, const TokenizerSettings& settings) {
  const bool lowercase = settings.lowercase.value_or(!has_capital_letters(vocabulary.tokens));
  return {.handle_chinese_chars = !settings.segments_words && settings.handle_chinese_chars.value_or(true),
          .strip_accents = settings.strip_accents.value_or(lowercase),
          .lowercase = lowercase,
          .rules = BertRules::vocabulary_txt};
}

bool is_chinese_word(std::string_view token) {
  const char* end = token.data() + token.size();
  for (const char* position = token.data(); position < end;) {
    if (!is_chinese_character(next_character(position))) return false;
  }
  return !token.empty();
}

WordSegmenter make_segmenter(const Vocabulary& vocabulary, const TokenizerSettings& settings) {
  if (settings.word_dictionary) {
    return WordSegmenter::from_dictionary(read_whole_file(*settings.word_dictionary), *settings.word_dictionary);
  }
  std::vector<std::string_view> words;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (is_chinese_word(vocabulary.token(id))) words.push_back(vocabulary.token(id));
  }
  return WordSegmenter::from_words(words);
}

}  // namespace

std::shared_ptr<const Tokenizer> load_wordpiece_text(std::string_view text,
                                                     const std::string& where,
                                                     const TokenizerSettings& settings) {
  const WordPieceVocabulary vocabulary = parse_wordpiece_vocabulary(text, where);
  PipelineParts parts;
  parts.where = where;
  parts.type = "wordpiece";
  parts.vocabulary = std::make_unique<Vocabulary>(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& token = vocabulary.tokens[i];
    const auto id = static_cast<int32_t>(i);
    if (!token.empty()) parts.vocabulary->add(token, id);
    if (is_bracketed(token)) parts.added_tokens.push_back({.content = token, .id = id, .is_special = true});
  }
  require_special_tokens(*parts.vocabulary, where);
  parts.recognises_specials = false;
  parts.model = std::make_unique<WordPieceModel>(
      *parts.vocabulary, WordPieceOptions{.where = where, .max_word_characters = kMaxWordCharacters});
  Normalizers normalizers;
  normalizers.push_back(make_bert_normalizer(normalizer_options(vocabulary, settings)));
  parts.normalizer = NormalizerChain(std::move(normalizers));
  parts.pre_tokenizers.push_back(
      settings.segments_words ? make_segmented_split(make_segmenter(*parts.vocabulary, settings), *parts.vocabulary)
                              : make_bert_split());
  const int32_t cls = parts.vocabulary->find("[CLS]");
  const int32_t sep = parts.vocabulary->find("[SEP]");
  parts.prefix_ids = {cls};
  parts.suffix_ids = {sep};
  parts.pair_template = bert_pair_template(cls, sep);
  parts.decoder.push_back(make_bert_decoder());
  parts.bos_id = cls;
  parts.end_ids = {sep};
  parts.chat_template = settings.chat_template;
  return make_pipeline_tokenizer(std::move(parts));
}

}  // namespace weft
