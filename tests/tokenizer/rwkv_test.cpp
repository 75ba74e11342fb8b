// RWKV's World vocabulary: the reference's vectors, where it is found, and files that are none. The goldens are in
// golden_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/loaders.h"
#include "tokenizer/rwkv_vocabulary.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;
using namespace std::string_literals;

const Tokenizer& world() {
  return test::rwkv_tokenizer();
}

auto fails_with(const std::string& message) {
  return ThrowsMessage<Error>(AllOf(HasSubstr("file"), HasSubstr(message), Not(HasSubstr("\n"))));
}

/// A vocabulary of all bytes, its ids the bytes' values plus one, and `more` lines.
std::string byte_vocabulary(const std::string& more, const std::string& line_end = "\n") {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (size_t byte = 0; byte < 256; ++byte) {
    text += std::to_string(byte + 1) + " b'\\x" + kDigits[byte / 16] + kDigits[byte % 16] + "' 1" + line_end;
  }
  return text + more;
}

TEST(RwkvTokenizer, GivesTheVectorsOfTheSpecification) {
  EXPECT_THAT(world().encode("\n\n", true), ElementsAre(261));
  EXPECT_THAT(world().encode("Hello world", true), ElementsAre(33155, 40213));
  EXPECT_THAT(world().encode("User: \xE4\xBD\xA0\xE5\xA5\xBD\n\nAssistant:", true),
              ElementsAre(24281, 59, 33, 10464, 11685, 261, 5585, 41693, 59));
  EXPECT_THAT(world().encode("\0"s, true), ElementsAre(1));
  EXPECT_THAT(world().encode("\xF0\x9F\x99\x82 emoji\r\n", true), ElementsAre(3319, 2417, 38362, 263));
  EXPECT_THAT(world().encode("  \t x", true), ElementsAre(267, 259, 121));
}

TEST(RwkvTokenizer, IdZeroEndsTextsAndFillsRows) {
  EXPECT_EQ(world().type(), "rwkv");
  EXPECT_EQ(world().vocab_size(), 65530);
  EXPECT_THAT(world().end_ids(), ElementsAre(0));
  EXPECT_EQ(world().pad_id(), 0);
  EXPECT_EQ(world().bos_id(), std::nullopt);
  EXPECT_TRUE(world().is_special(0));
  EXPECT_FALSE(world().is_special(1));
}

TEST(RwkvTokenizer, IdsWithoutATokenAreLeftOutOfTheText) {
  const std::vector<int32_t> ids = {-1, 33155, 0, 65530, 65535, 1'000'000, 40213};
  EXPECT_EQ(world().decode(ids, false), "Hello world");
}

TEST(RwkvTokenizer, ACharacterInPartsIsGivenWhenItIsWhole) {
  StreamingDecoder decoder(world(), false);
  EXPECT_EQ(decoder.push(3030), "");  // E4 BD
  EXPECT_EQ(decoder.push(0xA0 + 1), "\xE4\xBD\xA0");
  EXPECT_EQ(decoder.push(3030), "");
  EXPECT_EQ(decoder.push(98),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(decoder.push(3030), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
}

TEST(RwkvTokenizer, IsFoundBesideWeightsInAFolderAndByItsFirstLine) {
  const std::string file = test::unpack("rwkv_world/rwkv_vocab_v20230424.txt");
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  std::filesystem::copy_file(file, folder / "world.txt", std::filesystem::copy_options::overwrite_existing);
  test::write_file("rwkv_world/RWKV-x060-World.pth", "");
  for (const auto& path : {folder, folder / "world.txt", folder / "RWKV-x060-World.pth"}) {
    EXPECT_EQ(load_tokenizer(path.string())->type(), "rwkv") << path;
  }
  test::write_file("rwkv_world/rwkv_vocab_v2.txt", "");
  EXPECT_THAT([&] { load_tokenizer(folder.string()); },
              ThrowsMessage<Error>(HasSubstr("holds several rwkv_vocab*.txt files")));
  std::filesystem::remove(folder / "rwkv_vocab_v2.txt");
}

TEST(RwkvTokenizer, AWordPieceVocabularyDoesNotLookLikeOne) {
  EXPECT_TRUE(looks_like_rwkv_vocabulary("1 '\\x00' 1\r\n2"));
  EXPECT_TRUE(looks_like_rwkv_vocabulary("1 b\"\\xff\" 1"));
  for (const char* text : {"[PAD]\n1 'a' 1", "1", "1 a 1", "1 'a'", "", "12", "x 'a' 1"}) {
    EXPECT_FALSE(looks_like_rwkv_vocabulary(text)) << text;
  }
}

TEST(RwkvVocabulary, ReadsBothKindsOfLiteralsWithTheirEscapes) {
  const RwkvVocabulary vocabulary = parse_rwkv_vocabulary(
      "1 '\\\\\\'\\\"\\n\\r\\t' 6\n"
      "2 \"it's\" 4\n"
      "3 '\\xe9\\u4f60\\U0001f642' 9\n"
      "5 b'\\xe9\\x00\\\\' 3\n"
      "6 ' ' 1\n"
      "7 '\xE5\xA5\xBD' 3",
      "file");
  EXPECT_THAT(
      vocabulary.tokens,
      ElementsAre(
          "", "\\'\"\n\r\t", "it's", "\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x99\x82", "", "\xE9\0\\"s, " ", "\xE5\xA5\xBD"));
}

TEST(RwkvVocabulary, LinesMayEndWithCarriageReturns) {
  const auto loaded = load_rwkv_text(byte_vocabulary("300 'ab' 2\r\n", "\r\n"), "file");
  EXPECT_THAT(loaded->encode("abb", false), ElementsAre(300, 'b' + 1));
  EXPECT_EQ(loaded->vocab_size(), 301);
}

TEST(RwkvVocabulary, WhatIsNoLiteralIsNamedWithItsLine) {
  for (const char* literal : {"a",           "''a'",        "'a\"",      "'",       "'\\'",    "b'\\u0061'",
                              "b'\xC3\xA9'", "'\\x6'",      "'\\ud800'", "'\\q'",   "'\\101'", "'\\U00110000'",
                              "r'a'",        "'a'+'b'",     "chr(97)",   "u'a'",    "'\\x-1'", "'\\x 61'",
                              "B'a'",        "'\\N{BELL}'", "\"a'",      "'\\u61'", "b'a",     "(1)"}) {
    EXPECT_THAT([&] { parse_rwkv_vocabulary("1 'x' 1\n2 "s + literal + " 1\n", "file"); }, fails_with("line 2: "))
        << literal;
  }
}

TEST(RwkvVocabulary, BrokenLinesAreNamed) {
  const auto parsing = [](const std::string& text) { return [text] { parse_rwkv_vocabulary(text, "file"); }; };
  EXPECT_THAT(parsing("1 'a' 1\n2 'b' 2\n"),
              fails_with("line 2: the token 'b' has 1 bytes, but its length is written"));
  EXPECT_THAT(parsing("1 'a' 1\n2 'b' x\n"), fails_with("line 2: the token 'b' has 1 bytes"));
  EXPECT_THAT(parsing("1 'a' 1\n1 'b' 1\n"), fails_with("id 1 stands in line 1 and again in line 2"));
  EXPECT_THAT(parsing("1 'a' 1\n2 '\\x61' 1\n"), fails_with("the token of line 2 ('a') stands in line 1 already"));
  EXPECT_THAT(parsing("0 'a' 1\n"), fails_with("line 1 has id '0'"));
  EXPECT_THAT(parsing("-1 'a' 1\n"), fails_with("line 1 has id '-1'"));
  EXPECT_THAT(parsing("1048576 'a' 1\n"), fails_with("line 1 has id '1048576'"));
  EXPECT_THAT(parsing("99999999999999999999 'a' 1\n"), fails_with("line 1 has id '99999999999999999999'"));
  EXPECT_THAT(parsing("1 '' 0\n"), fails_with("line 1: a token of 0 bytes"));
  EXPECT_THAT(parsing("1 '" + std::string(1025, 'a') + "' 1025\n"), fails_with("line 1: a token of 1025 bytes"));
  EXPECT_THAT(parsing("1 'a' 1\n\n2 'b' 1\n"), fails_with("line 2 should be ID LITERAL LENGTH"));
  EXPECT_THAT(parsing("1 'a'\n"), fails_with("line 1 should be ID LITERAL LENGTH"));
  EXPECT_THAT(parsing("1 '\xFF' 1\n"), fails_with("line 1 should be ID LITERAL LENGTH"));
}

TEST(RwkvVocabulary, EachByteNeedsAToken) {
  EXPECT_THAT([] { load_rwkv_text("", "file"); }, fails_with("no token for the byte 0x00"));
  EXPECT_THAT([] { load_rwkv_text("1 b'\\x00' 1\n", "file"); }, fails_with("no token for the byte 0x01"));
}

TEST(RwkvChat, TurnsEndWithABlankLineAndHoldNone) {
  const std::vector<ChatMessage> messages = {
      {"user", " Hi\r\n\r\n\n there\n"}, {"assistant", "Hello"}, {"user", "Bye"}};
  const std::string expected = "User: Hi\n there\n\nAssistant: Hello\n\nUser: Bye\n\nAssistant:";
  EXPECT_EQ(render_chat(world(), messages, true), expected);
  EXPECT_EQ(render_chat(test::llama3_tokenizer(), messages, true, "rwkv"), expected);
  EXPECT_THAT(chat_end_ids(world()), ElementsAre(0, 261));
  const std::vector<ChatMessage> with_system = {{"system", "Be brief."}, {"user", "Hi"}};
  EXPECT_THAT([&] { render_chat(world(), with_system, true); },
              ThrowsMessage<Error>(HasSubstr("no role 'system', only user and assistant")));
}

TEST(RwkvChat, OtherFormatsEndWithTheirTokenizersTokens) {
  EXPECT_EQ(chat_end_ids(test::smollm2_tokenizer()), test::smollm2_tokenizer().end_ids());
  EXPECT_EQ(chat_end_ids(test::sentencepiece_bpe_tokenizer()), test::sentencepiece_bpe_tokenizer().end_ids());
}

}  // namespace
}  // namespace weft
