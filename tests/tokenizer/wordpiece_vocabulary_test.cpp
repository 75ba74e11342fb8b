// vocab.txt: reading, cutting down, writing, and files that are none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/wordpiece_vocabulary.h"

namespace weft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

auto fails_with(const std::string& message) {
  return ThrowsMessage<Error>(AllOf(HasSubstr("file"), HasSubstr(message), ::testing::Not(HasSubstr("\n"))));
}

TEST(WordPieceVocabulary, ATokenIsTheFirstWordOfItsLine) {
  const auto vocabulary =
      parse_wordpiece_vocabulary("\xEF\xBB\xBF[PAD]\r\n[UNK]\n\nc d\n  e\n\xE2\x80\xA8\nf\xE3\x80\x80g", "file");
  EXPECT_THAT(vocabulary.tokens, ElementsAre("[PAD]", "[UNK]", "", "c", "e", "\xE2\x80\xA8", "f"));
}

TEST(WordPieceVocabulary, ASecondOccurrenceIsNamedWithBothLines) {
  EXPECT_THAT([] { parse_wordpiece_vocabulary("[UNK]\na\nb\na\n", "file"); },
              fails_with("token 'a' stands in line 2 and again in line 4"));
}

TEST(WordPieceVocabulary, WhatIsNoVocabularyIsAnError) {
  const std::string specials = "[UNK]\n[CLS]\n[SEP]\n";
  EXPECT_THAT([] { load_wordpiece_text("", "file"); }, fails_with("no tokens"));
  EXPECT_THAT([] { load_wordpiece_text("\n\n\n", "file"); }, fails_with("no tokens"));
  EXPECT_THAT([&] { load_wordpiece_text(specials + "\xFF\xFE", "file"); }, fails_with("line 4 is not valid UTF-8"));
  EXPECT_THAT([&] { load_wordpiece_text(specials + std::string(5000, 'x'), "file"); },
              fails_with("line 4 has 5000 bytes, expected at most 1024"));
  EXPECT_THAT([] { load_wordpiece_text("[CLS]\n[SEP]\na\n", "file"); }, fails_with("no token [UNK]"));
  EXPECT_THAT([] { load_wordpiece_text("[UNK]\n[CLS]\na\n", "file"); }, fails_with("no token [SEP]"));
}

TEST(WordPieceVocabulary, MoreThanAnyVocabularyHoldsIsRefused) {
  EXPECT_THAT([] { load_wordpiece_text(std::string((size_t{1} << 22) + 1, '\n'), "file"); }, fails_with("lines"));
  std::string text = "[UNK]\n[CLS]\n[SEP]\n";
  for (int i = 0; text.size() < 9'000'000; ++i) text += std::to_string(i) + std::string(1000, 'x') + "\n";
  EXPECT_THAT([&] { load_wordpiece_text(text, "file"); }, fails_with("bytes of WordPiece tokens"));
}

TEST(WordPieceJson, NeedsItsUnknownTokenAndASaneLimit) {
  nlohmann::json tokenizer = {{"model", {{"type", "WordPiece"}, {"unk_token", "[UNK]"}, {"vocab", {{"a", 0}}}}}};
  EXPECT_THAT([&] { load_tokenizer_json_text(tokenizer.dump(), "file"); },
              fails_with("the unknown token '[UNK]' is not in the vocabulary"));
  tokenizer["model"]["unk_token"] = "a";
  tokenizer["model"]["max_input_chars_per_word"] = 1'000'000'000;
  EXPECT_THAT([&] { load_tokenizer_json_text(tokenizer.dump(), "file"); }, fails_with("expected 1 to 1000"));
}

TEST(WordPieceJson, ABrokenPairTemplateIsAnError) {
  const auto piece = [](const char* name) { return nlohmann::json{{"Sequence", {{"id", name}, {"type_id", 0}}}}; };
  nlohmann::json tokenizer = {{"model", {{"type", "WordPiece"}, {"unk_token", "a"}, {"vocab", {{"a", 0}}}}},
                              {"post_processor", {{"type", "TemplateProcessing"}, {"single", {piece("A")}}}}};
  tokenizer["post_processor"]["pair"] = {piece("A"), piece("A")};
  EXPECT_THAT([&] { load_tokenizer_json_text(tokenizer.dump(), "file"); },
              fails_with("each of the texts A and B once"));
  tokenizer["post_processor"]["pair"] = {piece("A"), piece("C")};
  EXPECT_THAT([&] { load_tokenizer_json_text(tokenizer.dump(), "file"); }, fails_with("no text 'C'"));
}

TEST(WordPieceJson, ATemplateCannotAskForManyTokens) {
  const nlohmann::json cls = {{"SpecialToken", {{"id", "x"}, {"type_id", 0}}}};
  const nlohmann::json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  nlohmann::json tokenizer = {{"model", {{"type", "WordPiece"}, {"unk_token", "a"}, {"vocab", {{"a", 0}}}}},
                              {"post_processor", {{"type", "TemplateProcessing"}, {"single", {text, cls, cls}}}}};
  tokenizer["post_processor"]["special_tokens"]["x"]["ids"] = std::vector<int>(1000, 0);
  EXPECT_THAT([&] { load_tokenizer_json_text(tokenizer.dump(), "file"); }, fails_with("more than 1024 tokens"));
  tokenizer["post_processor"]["single"] = {text};
  tokenizer["post_processor"]["pair"] = {cls, text, cls};
  EXPECT_THAT([&] { load_tokenizer_json_text(tokenizer.dump(), "file"); }, fails_with("more than 1024 tokens"));
}

TEST(HostileWordPiece, PiecesThatAlmostMatchCostBoundedTime) {
  std::string vocabulary = "[UNK]\n[CLS]\n[SEP]\na\n##a\n";
  vocabulary += std::string(199, 'a') + "b\n##" + std::string(199, 'a') + "b\n";
  const auto tokenizer = load_wordpiece_text(vocabulary, "file");
  std::string text;
  for (int i = 0; i < 2000; ++i) text += std::string(200, 'a') + " ";
  const std::clock_t start = std::clock();
  EXPECT_EQ(tokenizer->encode(text, false).size(), 2000 * 200);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 5.0);
}

TEST(SimplifyVocabulary, KeepsWhatBert4kerasKeeps) {
  const auto vocabulary = read_wordpiece_vocabulary(test::tokenizer_data("minilm_wordpiece/vocab.txt"));
  const std::vector<std::string> first = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"};
  const SimplifiedVocabulary simplified = simplify_vocabulary(vocabulary, first);
  ASSERT_EQ(simplified.tokens.size(), 29190);
  ASSERT_EQ(simplified.keep_tokens.size(), 29190);
  EXPECT_THAT(std::vector(simplified.keep_tokens.begin(), simplified.keep_tokens.begin() + 5),
              ElementsAre(0, 100, 101, 102, 999));
  for (size_t i = 0; i < simplified.tokens.size(); ++i) {
    EXPECT_EQ(simplified.tokens[i], vocabulary.tokens[static_cast<size_t>(simplified.keep_tokens[i])]);
  }
  EXPECT_TRUE(std::is_sorted(simplified.keep_tokens.begin() + 4, simplified.keep_tokens.end()));
}

TEST(SimplifyVocabulary, DropsWordsOfIdeographsAndPunctuationButNotSingleCharacters) {
  const WordPieceVocabulary vocabulary{.where = "file",
                                       .tokens = {"[PAD]",
                                                  "\xE4\xB8\xAD",
                                                  "##\xE4\xB8\xAD",
                                                  "\xE4\xB8\xAD\xE6\x96\x87",
                                                  "!",
                                                  "##!",
                                                  "a",
                                                  "##a",
                                                  "##",
                                                  "[unused1]"}};
  EXPECT_THAT(simplify_vocabulary(vocabulary, {"a", "[PAD]", "a"}).keep_tokens, ElementsAre(6, 0, 1, 4, 7, 8));
  EXPECT_THAT([&] { simplify_vocabulary(vocabulary, {"[MASK]"}); }, fails_with("no token '[MASK]'"));
}

TEST(SaveVocab, WritesWhatIsReadBack) {
  const std::string path = test::write_file("saved/vocab.txt", "");
  const std::vector<std::string> tokens = {"[UNK]", "", "\xE4\xB8\xAD", "##a"};
  save_vocab(tokens, path);
  EXPECT_EQ(test::read_file(path), "[UNK]\n\n\xE4\xB8\xAD\n##a\n");
  EXPECT_EQ(read_wordpiece_vocabulary(path).tokens, tokens);
  EXPECT_THAT([&] { save_vocab(tokens, "/nowhere/file"); }, fails_with("cannot be written"));
}

}  // namespace
}  // namespace weft
