// WordPiece against `tokenizers` (offsets, case, pairs) and against the vectors of bert4keras3 (vocab.txt, truncation,
// decoding).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "tokenizer/bert_text.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Ids = std::vector<int32_t>;
using Side = TruncateFrom::Side;

const Tokenizer& tokenizer() {
  return test::minilm_vocabulary_tokenizer();
}

TEST(WordPieceGolden, OffsetsAreThoseOfTheReferenceInCharacters) {
  for (const test::GoldenRow& row : test::read_golden("minilm_wordpiece")) {
    Ids ids;
    const auto spans = test::minilm_tokenizer().encode_with_offsets(row.text, ids);
    EXPECT_EQ(ids, row.ids) << "row " << row.label;
    EXPECT_EQ(to_characters(row.text, spans), row.offsets) << "row " << row.label;
  }
}

TEST(WordPieceGolden, WithoutLowerCasingAccentsStay) {
  for (const test::GoldenRow& row : test::read_golden("minilm_wordpiece", "golden_cased.jsonl")) {
    Ids ids;
    const auto spans = test::minilm_cased_tokenizer().encode_with_offsets(row.text, ids);
    EXPECT_EQ(test::minilm_cased_tokenizer().encode(row.text, false), row.ids) << "row " << row.label;
    EXPECT_EQ(ids, row.ids) << "row " << row.label;
    EXPECT_EQ(to_characters(row.text, spans), row.offsets) << "row " << row.label;
  }
}

TEST(WordPieceGolden, PairsHaveTheIdsAndSegmentsOfTheReference) {
  const auto pairs = test::read_golden_pairs("minilm_wordpiece");
  ASSERT_EQ(pairs.size(), 12);
  for (const test::GoldenPair& pair : pairs) {
    const PairEncoding encoding = test::minilm_tokenizer().encode_pair(pair.first, pair.second);
    EXPECT_EQ(encoding.ids, pair.encoding.ids);
    EXPECT_EQ(encoding.segment_ids, pair.encoding.segment_ids);
  }
}

TEST(WordPieceVocabularyFile, GivesTheIdsOfTheTokenizerJsonWhereBothAgree) {
  int num_equal = 0;
  for (const test::GoldenRow& row : test::read_golden("minilm_wordpiece")) {
    num_equal += tokenizer().encode(row.text, false, SpecialsInText::recognised) == row.ids ? 1 : 0;
  }
  // Words of 101 to 200 characters and private-use characters are treated otherwise.
  EXPECT_GE(num_equal, 425);
}

std::shared_ptr<const Tokenizer> load_vocabulary(bool lowercase) {
  TokenizerSettings settings;
  settings.lowercase = lowercase;
  return load_wordpiece_text(
      test::read_file(test::tokenizer_data("minilm_wordpiece/vocab.txt")), "vocab.txt", settings);
}

const Tokenizer& vocabulary_tokenizer(bool lowercase) {
  static const auto lower = load_vocabulary(true);
  static const auto cased = load_vocabulary(false);
  return lowercase ? *lower : *cased;
}

TEST(Bert4kerasGolden, TextsHaveItsIdsItsSpansAndItsDecodedText) {
  int num_spans = 0;
  for (const test::Bert4kerasText& row : test::read_bert4keras_texts()) {
    const Tokenizer& same = vocabulary_tokenizer(row.lowercase);
    EXPECT_EQ(same.encode(row.text, true), row.ids) << row.label;
    EXPECT_EQ(same.decode(row.ids, true), row.decoded) << row.label;
    if (!row.spans) continue;
    Ids ids;
    EXPECT_EQ(to_characters(row.text, same.encode_with_offsets(row.text, ids)), *row.spans) << row.label;
    ++num_spans;
  }
  EXPECT_GT(num_spans, 300);
}

TEST(Bert4kerasGolden, PairsAreTruncatedAsThere) {
  const auto pairs = test::read_bert4keras_pairs();
  EXPECT_GT(pairs.size(), 40);
  for (const test::Bert4kerasPair& row : pairs) {
    const PairEncoding encoding = vocabulary_tokenizer(true).encode_pair(row.first, row.second, row.options);
    EXPECT_EQ(encoding.ids, row.encoding.ids) << row.label;
    EXPECT_EQ(encoding.segment_ids, row.encoding.segment_ids) << row.label;
  }
}

TEST(WordPieceGolden, IdeographsThatTheReferenceOverlooksAreNotSetApart) {
  const std::string text =
      "\xF0\xAB\xA1\x90"
      "a";  // U+2B850, which `tokenizers` 0.23 leaves in its word
  EXPECT_THAT(test::minilm_tokenizer().encode(text, false), ElementsAre(100));
  EXPECT_THAT(tokenizer().encode(text, false), ElementsAre(100, 1037));
}

struct TruncationCase {
  const char* first;
  const char* second;  // null: a single text
  size_t max_length;
  TruncateFrom from;
  Ids ids;
};

TEST(EncodePair, TruncatesAsBert4keras) {
  const char* hello = "hello world today";
  const char* friends = "hello world today friend";
  const std::vector<TruncationCase> cases = {
      {hello, "good morning", 8, {}, {101, 7592, 2088, 2651, 102, 2204, 2851, 102}},
      {hello, "good morning", 7, {.side = Side::left}, {101, 2088, 2651, 102, 2204, 2851, 102}},
      {friends, nullptr, 4, {}, {101, 7592, 2088, 102}},
      {friends, nullptr, 4, {.side = Side::left}, {101, 2651, 2767, 102}},
      {friends, nullptr, 4, {.side = Side::index, .index = 2}, {101, 7592, 2767, 102}},
      {friends, nullptr, 4, {.side = Side::index, .index = -3}, {101, 7592, 2767, 102}},
      {friends, nullptr, 4, {.side = Side::index, .index = 1000}, {101, 7592, 2088, 102}},
      {friends, nullptr, 2, {}, {101, 102}},
      {hello, "", 0, {}, {101, 7592, 2088, 2651, 102, 102}},
      {hello, hello, 6, {}, {101, 7592, 102, 7592, 2088, 102}},
  };
  for (const TruncationCase& example : cases) {
    const EncodePairOptions options{.max_length = example.max_length, .truncate_from = example.from};
    const PairEncoding encoding = example.second == nullptr
                                      ? tokenizer().encode_pair(example.first, std::nullopt, options)
                                      : tokenizer().encode_pair(example.first, example.second, options);
    EXPECT_EQ(encoding.ids, example.ids) << example.first << " to " << example.max_length;
    const auto first_sep = std::find(encoding.ids.begin(), encoding.ids.end(), 102) - encoding.ids.begin();
    for (size_t i = 0; i < encoding.ids.size(); ++i) {
      EXPECT_EQ(encoding.segment_ids.at(i), static_cast<std::ptrdiff_t>(i) > first_sep ? 1 : 0);
    }
  }
}

TEST(EncodePair, RefusesALengthThatCannotHoldTheSpecialTokens) {
  EXPECT_THAT([] { tokenizer().encode_pair("a", "b", {.max_length = 2}); },
              ThrowsMessage<Error>(HasSubstr("at most 2 tokens cannot hold its 3 special tokens")));
}

TEST(EncodePair, WorksForEveryKindOfTokenizer) {
  const PairEncoding llama = test::llama3_tokenizer().encode_pair("Hello world", "Hello world");
  EXPECT_THAT(llama.ids, ElementsAre(128000, 9906, 1917, 128000, 9906, 1917));
  EXPECT_THAT(llama.segment_ids, ElementsAre(0, 0, 0, 1, 1, 1));
  const Tokenizer& unigram = test::sentencepiece_unigram_tokenizer();
  const Ids alone = unigram.encode("the people", false);
  const PairEncoding pair = unigram.encode_pair("the people", "the people", {.max_length = 2 * alone.size() - 1});
  EXPECT_EQ(pair.ids.size(), 2 * alone.size() - 1);
}

TEST(EncodeBeginning, LeavesOutWhatClosesAText) {
  EXPECT_THAT(tokenizer().encode_beginning("a b"), ElementsAre(101, 1037, 1038));
  EXPECT_THAT(test::minilm_tokenizer().encode_beginning("a b"), ElementsAre(101, 1037, 1038));
  EXPECT_THAT(test::llama3_tokenizer().encode_beginning("Hello world"), ElementsAre(128000, 9906, 1917));
  Ids closed = test::t5_tokenizer().encode("the people", true);
  EXPECT_EQ(closed.back(), 1);
  closed.pop_back();
  EXPECT_EQ(test::t5_tokenizer().encode_beginning("the people"), closed);
  EXPECT_EQ(test::rwkv_tokenizer().encode_beginning("Hello"), test::rwkv_tokenizer().encode("Hello", true));
  EXPECT_EQ(test::sentencepiece_bpe_tokenizer().encode_beginning("Hello"),
            test::sentencepiece_bpe_tokenizer().encode("Hello", true));
}

TEST(SpecialTokensInText, AreTextUnlessAskedForInAVocabularyFile) {
  const auto with = [](SpecialsInText specials) { return tokenizer().encode("a [MASK] b", false, specials); };
  EXPECT_THAT(with(SpecialsInText::recognised), ElementsAre(1037, 103, 1038));
  EXPECT_THAT(with(SpecialsInText::plain_text), ElementsAre(1037, 1031, 7308, 1033, 1038));
  EXPECT_EQ(tokenizer().encode("a [MASK] b", false), with(SpecialsInText::plain_text));
  EXPECT_THAT(test::minilm_tokenizer().encode("a [MASK] b", false), ElementsAre(1037, 103, 1038));
  EXPECT_EQ(test::minilm_tokenizer().encode("a [MASK] b", false, SpecialsInText::plain_text),
            with(SpecialsInText::plain_text));
  EXPECT_THAT(test::llama3_tokenizer().encode("<|eot_id|>", false, SpecialsInText::plain_text),
              ::testing::Not(::testing::Contains(128009)));
}

TEST(Offsets, PointIntoTheOriginalTextAlsoForUnknownWordsAndInvalidBytes) {
  Ids ids;
  const std::string text = "\xC4\xB0stanbul \xE6\xB7\xB7 \xFFhelloable\xE2\x80\x8B!";
  const auto spans = tokenizer().encode_with_offsets(text, ids);
  std::vector<std::string> parts;
  parts.reserve(spans.size());
  for (const TokenSpan& span : spans) parts.push_back(text.substr(span.begin, span.end - span.begin));
  EXPECT_THAT(parts, ElementsAre("\xC4\xB0stanbul", "\xE6\xB7\xB7", "hello", "able", "!"));
  EXPECT_EQ(ids[1], tokenizer().unk_id());
  EXPECT_EQ(to_characters(text, spans)[2], (TokenSpan{12, 17}));
  const auto marked = tokenizer().encode_with_offsets("x[SEP]", ids, SpecialsInText::recognised);
  EXPECT_THAT(ids, ElementsAre(1060, 102));
  EXPECT_EQ(marked[1], (TokenSpan{1, 6}));
}

TEST(SentencepieceOfAnEncoder, PutsItsTextsBetweenClsAndSep) {
  const auto encoder = test::sentencepiece_encoder_tokenizer();
  const int32_t cls = encoder->cls_id().value();
  const int32_t sep = encoder->sep_id().value();
  Ids expected = encoder->encode("the people", false);
  const size_t length = expected.size();
  expected.insert(expected.begin(), cls);
  expected.push_back(sep);
  EXPECT_EQ(encoder->encode("the people", true), expected);
  EXPECT_EQ(encoder->encode_pair("the people").ids, expected);
  const PairEncoding pair = encoder->encode_pair("the people", "the people");
  expected.insert(expected.end(), expected.begin() + 1, expected.end());
  EXPECT_EQ(pair.ids, expected);
  EXPECT_EQ(std::count(pair.segment_ids.begin(), pair.segment_ids.end(), 1), static_cast<std::ptrdiff_t>(length + 1));
}

TEST(SentencepieceOfAnEncoder, RecognisesControlPiecesOnlyWhenAsked) {
  const auto encoder = test::sentencepiece_encoder_tokenizer();
  const int32_t sep = encoder->sep_id().value();
  const Ids recognised = encoder->encode("the[SEP]people", false, SpecialsInText::recognised);
  EXPECT_EQ(std::count(recognised.begin(), recognised.end(), sep), 1);
  const Ids plain = encoder->encode("the[SEP]people", false);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), sep), 0);
}

TEST(SentencepieceOfT5, EndsTextsWithItsEndAndBeginsThemWithNothing) {
  const Tokenizer& t5 = test::sentencepiece_unigram_tokenizer();  // <pad> 0, </s> 1, <unk> 2, no <s>
  const Ids first = t5.encode("the people", false);
  const Ids second = t5.encode("of", false);
  Ids expected = first;
  expected.push_back(1);
  EXPECT_EQ(t5.encode("the people", true), expected);
  EXPECT_THAT(t5.encode("", true), ElementsAre(1));
  EXPECT_EQ(t5.encode_pair("the people").ids, expected);
  expected.insert(expected.end(), second.begin(), second.end());
  expected.push_back(1);
  EXPECT_EQ(t5.encode_pair("the people", "of").ids, expected);
  EXPECT_THAT(t5.end_ids(), ElementsAre(1));
  EXPECT_EQ(t5.pad_id(), 0);
}

Ids encoded_with(const TokenizerSettings& settings, const char* model = "spm_bpe") {
  const std::string bytes = test::read_file(test::tokenizer_data(std::string(model) + "/spm.model"));
  return load_sentencepiece_bytes(bytes, "spm.model", settings)->encode("", true);
}

TEST(SentencepieceOfALanguageModel, BeginsTextsUnlessItsConfigSaysOtherwise) {
  EXPECT_THAT(encoded_with({}), ElementsAre(3));
  TokenizerSettings settings;
  settings.tokenizer_class = "T5TokenizerFast";
  EXPECT_THAT(encoded_with(settings), ElementsAre(1));
  settings.tokenizer_class = "LlamaTokenizer";
  settings.add_eos_token = true;
  EXPECT_THAT(encoded_with(settings), ElementsAre(3, 1));
  settings.add_bos_token = false;
  EXPECT_THAT(encoded_with(settings), ElementsAre(1));
  settings.add_bos_token = true;
  EXPECT_THAT([&] { encoded_with(settings, "spm_unigram"); },
              ThrowsMessage<Error>(HasSubstr("add_bos_token, but the model has no begin piece")));
}

TEST(WordPieceRoles, AreFoundByTheirNames) {
  for (const Tokenizer* each : {&test::minilm_tokenizer(), &tokenizer()}) {
    EXPECT_EQ(each->type(), "wordpiece");
    EXPECT_EQ(each->pad_id(), 0);
    EXPECT_EQ(each->unk_id(), 100);
    EXPECT_EQ(each->cls_id(), 101);
    EXPECT_EQ(each->sep_id(), 102);
    EXPECT_EQ(each->mask_id(), 103);
    EXPECT_EQ(each->bos_id(), 101);
    EXPECT_THAT(each->end_ids(), ElementsAre(102));
    EXPECT_TRUE(each->is_special(103));
    EXPECT_EQ(each->vocab_size(), 30522);
  }
  EXPECT_EQ(test::llama3_tokenizer().mask_id(), std::nullopt);
}

std::string decoded(const std::string& text) {
  return tokenizer().decode(tokenizer().encode(text, true), true);
}

TEST(WordPieceDecoding, OfAVocabularyFileIsThatOfBert4keras) {
  EXPECT_EQ(decoded("I'm can't don't we've"), "i'm can't don't we' ve");
  EXPECT_EQ(decoded("a_b-c/d=e+f"), "a_ b-c/d=e+f");
  // The vocabulary lacks the third ideograph.
  EXPECT_EQ(decoded("\xE4\xB8\xAD\xE6\x96\x87"
                    "English"
                    "\xE6\xB7\xB7\xE5\x90\x88"
                    "123"),
            "\xE4\xB8\xAD\xE6\x96\x87"
            "english"
            "\xE5\x90\x88"
            "123");
}

TEST(WordPieceDecoding, DropsTheSpaceBehindTheSamePunctuationAsBert4keras) {
  std::string vocabulary = "[UNK]\n[CLS]\n[SEP]\na\n";
  for (char32_t character = 0x80; character < 0x10000; ++character) {
    if (is_chinese_character(character) || (character >= 0xD800 && character < 0xE000)) continue;
    append_utf8(character, vocabulary);
    vocabulary += '\n';
  }
  const auto every = load_wordpiece_text(vocabulary, "file");
  int num_bound = 0;
  for (int32_t id = 4; id < every->vocab_size(); ++id) {
    const std::string text = every->decode(Ids{3, id, 3}, false);
    num_bound += text.ends_with(" a") ? 0 : 1;
  }
  EXPECT_EQ(num_bound, 81);
}

TEST(WordPieceDecoding, AsAStreamGivesTheSameText) {
  for (const test::GoldenRow& row : test::read_golden("minilm_wordpiece")) {
    StreamingDecoder decoder(tokenizer(), true);
    std::string text;
    for (const int32_t id : row.ids) text += decoder.push(id);
    EXPECT_EQ(text + decoder.finish(), tokenizer().decode(row.ids, true)) << "row " << row.label;
  }
}

TEST(WordPieceCase, TheConfigBesideTheVocabularyDecides) {
  const std::string vocabulary = "[UNK]\n[CLS]\n[SEP]\nabc\n\xC3\xA9\ne\nABC\n\xE4\xB8\xAD\xE6\x96\x87\n";
  const std::string path = test::write_file("cased/vocab.txt", vocabulary);
  EXPECT_THAT(load_tokenizer(path)->encode("ABC \xC3\xA9", false), ElementsAre(6, 4));  // it has capital letters
  test::write_file("cased/tokenizer_config.json", R"({"do_lower_case": true})");
  EXPECT_THAT(load_tokenizer(path)->encode("ABC \xC3\xA9", false), ElementsAre(3, 5));
  test::write_file("cased/tokenizer_config.json",
                   R"({"do_lower_case": true, "strip_accents": false, "tokenize_chinese_chars": false})");
  EXPECT_THAT(load_tokenizer(path)->encode("ABC \xC3\x89 \xE4\xB8\xAD\xE6\x96\x87", false), ElementsAre(3, 4, 7));
}

TEST(WordPieceCase, ASigmaAtTheEndOfAWordIsTheFinalOneInAVocabularyFile) {
  const auto greek = load_wordpiece_text("[UNK]\n[CLS]\n[SEP]\n\xCE\xBF\n##\xCF\x83\n##\xCF\x82\n##\xCE\xBF\n", "file");
  // ΟΣΟΣ
  EXPECT_THAT(greek->encode("\xCE\x9F\xCE\xA3\xCE\x9F\xCE\xA3", false), ElementsAre(3, 4, 6, 5));
}

TEST(LoadTokenizer, FindsTheVocabularyBesideATensorFlowCheckpoint) {
  test::write_file("bert/vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\n");
  const std::string index = test::write_file("bert/bert_model.ckpt.index", "");
  EXPECT_EQ(load_tokenizer(index)->vocab_size(), 4);
  EXPECT_EQ(load_tokenizer(index.substr(0, index.size() - 6))->vocab_size(), 4);
}

}  // namespace
}  // namespace weft
