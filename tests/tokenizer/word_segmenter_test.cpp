// Words of Chinese text: the cuts of jieba, and WordPiece behind them.
#include "tokenizer/word_segmenter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::vector<std::string> words_of(const WordSegmenter& segmenter, const std::string& text) {
  std::vector<std::string> words;
  segmenter.cut(text, [&](size_t begin, size_t end) { words.push_back(text.substr(begin, end - begin)); });
  return words;
}

auto fails_with(const std::string& message) {
  return ThrowsMessage<Error>(AllOf(HasSubstr("file"), HasSubstr(message)));
}

WordSegmenter jieba_words() {
  return WordSegmenter::from_dictionary(test::read_file(test::tokenizer_data("words/dict.txt")), "dict.txt");
}

TEST(WordSegmenter, CutsAsJiebaDoes) {
  const WordSegmenter segmenter = jieba_words();
  const auto rows = test::read_word_cuts();
  ASSERT_GT(rows.size(), 60);
  for (const test::WordCut& row : rows) EXPECT_EQ(words_of(segmenter, row.text), row.words) << row.text;
}

TEST(WordSegmenter, WithoutFrequenciesTheFewestWordsWinAndTheLongestFirst) {
  const WordSegmenter segmenter =
      WordSegmenter::from_words({"南京", "南京市", "市长", "长江", "大桥", "长江大桥", "江大"});
  EXPECT_THAT(words_of(segmenter, "南京市长江大桥"), ElementsAre("南京市", "长江大桥"));
  const WordSegmenter overlapping = WordSegmenter::from_words({"甲乙", "乙丙丁"});
  EXPECT_THAT(words_of(overlapping, "甲乙丙丁"), ElementsAre("甲", "乙丙丁"));
  EXPECT_THAT(words_of(overlapping, "乙甲乙戊"), ElementsAre("乙", "甲乙", "戊"));
}

TEST(WordSegmenter, LettersAndDigitsOutsideWordsStayTogether) {
  const WordSegmenter segmenter = WordSegmenter::from_words({"中国"});
  EXPECT_THAT(words_of(segmenter, "中国abc12是-3 é"), ElementsAre("中国", "abc12", "是", "-", "3", " ", "é"));
  EXPECT_THAT(words_of(segmenter, ""), ElementsAre());
}

TEST(WordDictionary, BrokenLinesAreNamed) {
  const auto reading = [](const std::string& text) { return [text] { WordSegmenter::from_dictionary(text, "file"); }; };
  EXPECT_THAT(reading("中国 3 ns\n北京\n"), fails_with("line 2 should be WORD FREQUENCY, found '"));
  EXPECT_THAT(reading("中国 3 ns\n北京 x\n"), fails_with("line 2 should be WORD FREQUENCY"));
  EXPECT_THAT(reading("中国 -3\n"), fails_with("line 1 should be WORD FREQUENCY"));
  EXPECT_THAT(reading(" 3\n"), fails_with("line 1 should be WORD FREQUENCY"));
  EXPECT_THAT(reading("\xFF 3\n"), fails_with("line 1: a word of 1 bytes"));
  EXPECT_THAT(reading(std::string(257, 'a') + " 3\n"), fails_with("line 1: a word of 257 bytes"));
  EXPECT_THAT(reading(""), fails_with("no words with frequencies"));
  EXPECT_THAT(reading("中国 0\n"), fails_with("no words with frequencies"));
  EXPECT_NO_THROW(reading("\xEF\xBB\xBF中国 3 ns\r\n\n北京 5\r\n")());
}

TEST(HostileWords, TimeGrowsWithTheLengthAlone) {
  std::string dictionary;
  for (size_t length = 1; length <= 80; ++length) {
    std::string word;
    for (size_t i = 0; i < length; ++i) word += "中";
    dictionary += word + " 1\n";
  }
  const WordSegmenter segmenter = WordSegmenter::from_dictionary(dictionary, "file");
  std::string text;
  while (text.size() < (1 << 20)) text += "中";
  const std::clock_t start = std::clock();
  EXPECT_FALSE(words_of(segmenter, text).empty());
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10.0);
}

constexpr const char* kVocabulary =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n中\n国\n人\n民\n中国\n人民\nhello\n##wor\n##ld\n,\n，\n国人\n##民\n-\nx\n";

class SegmentedWordPiece : public ::testing::Test {
 protected:
  static std::shared_ptr<const Tokenizer> load(const std::string& config, const std::string& dictionary = "") {
    const std::string path = test::write_file("segmented/vocab.txt", kVocabulary);
    test::write_file("segmented/tokenizer_config.json", config);
    test::write_file("segmented/dict.txt", dictionary);
    return load_tokenizer(path.substr(0, path.rfind('/')));
  }
  static std::vector<std::string> pieces(const Tokenizer& tokenizer, const std::string& text) {
    std::vector<std::string> pieces;
    for (const int32_t id : tokenizer.encode(text, false)) pieces.push_back(tokenizer.id_to_token(id));
    return pieces;
  }
};

TEST_F(SegmentedWordPiece, IsOffUnlessItIsAskedFor) {
  EXPECT_THAT(pieces(*load("{}"), "中国人民"), ElementsAre("中", "国", "人", "民"));
}

TEST_F(SegmentedWordPiece, WordsOfTheVocabularyAreTokens) {
  const auto tokenizer = load(R"({"pre_tokenize": "words"})");
  EXPECT_THAT(pieces(*tokenizer, "中国人民，Helloworld, 民中 x-x"),
              ElementsAre("中国", "人民", "，", "hello", "##wor", "##ld", ",", "民", "中", "x", "-", "x"));
}

TEST_F(SegmentedWordPiece, ADictionaryDecidesAndItsOtherWordsFallApart) {
  const auto tokenizer = load(R"({"pre_tokenize": "words", "word_dictionary": "dict.txt"})",
                              "国人 900\n中国 1\n人民 1\n中 500\n民 500\n民中国 1000\n");
  EXPECT_THAT(pieces(*tokenizer, "中国人民"), ElementsAre("中", "国人", "民"));
  EXPECT_THAT(pieces(*tokenizer, "民中国"), ElementsAre("民", "中", "国"));
}

TEST_F(SegmentedWordPiece, OffsetsAreThoseOfTheText) {
  const auto tokenizer = load(R"({"pre_tokenize": "words"})");
  std::vector<int32_t> ids;
  const std::string text = "X 中国\t人hello";
  EXPECT_THAT(to_characters(text, tokenizer->encode_with_offsets(text, ids)),
              ElementsAre(TokenSpan{0, 1}, TokenSpan{2, 4}, TokenSpan{5, 6}, TokenSpan{6, 11}));
}

TEST_F(SegmentedWordPiece, BrokenSettingsAreNamed) {
  EXPECT_THAT([] { load(R"({"pre_tokenize": "jieba"})"); }, ThrowsMessage<Error>(HasSubstr("expected 'words'")));
  EXPECT_THAT([] { load(R"({"word_dictionary": "dict.txt"})"); }, ThrowsMessage<Error>(HasSubstr("goes with")));
  EXPECT_THAT([] { load(R"({"pre_tokenize": "words", "word_dictionary": "../dict.txt"})"); },
              ThrowsMessage<Error>(HasSubstr("a file beside it")));
  EXPECT_THAT([] { load(R"({"pre_tokenize": "words", "word_dictionary": "dict.txt"})", "x"); },
              ThrowsMessage<Error>(AllOf(HasSubstr("segmented/dict.txt"), HasSubstr("line 1"))));
  test::write_file("segmented_json/tokenizer_config.json", R"({"pre_tokenize": "words"})");
  const std::string path = test::write_file("segmented_json/tokenizer.json", "{}");
  EXPECT_THAT([&] { load_tokenizer(path); }, ThrowsMessage<Error>(HasSubstr("goes with a vocab.txt only")));
}

}  // namespace
}  // namespace weft
