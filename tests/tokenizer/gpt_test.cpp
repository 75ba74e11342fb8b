// vocab.json with merges.txt: which kind a folder holds, special tokens, and files that are none. The goldens are in
// golden_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

std::shared_ptr<const Tokenizer> load(const std::string& vocabulary,
                                      const std::string& merges,
                                      const TokenizerSettings& settings = {}) {
  return load_gpt_texts(
      {.vocabulary = vocabulary, .merges = merges, .vocabulary_where = "vocab.json", .merges_where = "merges.txt"},
      settings);
}

auto fails_with(const std::string& message) {
  return ThrowsMessage<Error>(AllOf(HasSubstr(message), Not(HasSubstr("\n"))));
}

TEST(GptFiles, EndOfTextIsASpecialTokenOfGpt2) {
  const Tokenizer& gpt2 = test::gpt2_tokenizer();
  EXPECT_EQ(gpt2.type(), "byte_level_bpe");
  EXPECT_THAT(gpt2.end_ids(), ElementsAre(0));
  EXPECT_THAT(gpt2.encode("<|endoftext|>", true), ElementsAre(0));
  EXPECT_GT(gpt2.encode("<|endoftext|>", true, SpecialsInText::plain_text).size(), 3);
  EXPECT_EQ(gpt2.decode(std::vector<int32_t>{0}, true), "");
}

TEST(GptFiles, RobertaPairsHaveTheReferenceIds) {
  const auto pairs = test::read_golden_pairs("roberta");
  ASSERT_EQ(pairs.size(), 5);
  for (const test::GoldenPair& pair : pairs) {
    EXPECT_EQ(test::roberta_tokenizer().encode_pair(pair.first, pair.second).ids, pair.encoding.ids);
  }
  EXPECT_THAT(test::roberta_tokenizer().end_ids(), ElementsAre(2));
  EXPECT_EQ(test::roberta_tokenizer().mask_id(), 4);
}

TEST(GptFiles, EitherFileOrTheirFolderIsNamed) {
  const std::filesystem::path folder = test::tokenizer_data("gpt2");
  for (const auto& path : {folder / "vocab.json", folder / "merges.txt"}) {
    EXPECT_EQ(load_tokenizer(path.string())->encode("the people", false),
              test::gpt2_tokenizer().encode("the people", false));
  }
  const std::string alone = test::write_file("gpt_alone/vocab.json", "{\"a\": 0}");
  EXPECT_THAT([&] { load_tokenizer(alone); }, fails_with("merges.txt"));
  EXPECT_THAT([&] { load_tokenizer(alone.substr(0, alone.rfind('/'))); }, fails_with("vocab.json with merges.txt"));
}

TEST(GptFiles, TheirKindFollowsTheConfigOrTheVocabulary) {
  EXPECT_EQ(load(R"({"a": 0, "b": 1, "ab": 2})", "a b\n")->type(), "byte_level_bpe");
  EXPECT_EQ(load(R"({"a": 0, "b</w>": 1, "ab</w>": 2})", "a b</w>\n")->type(), "bpe");
  TokenizerSettings settings;
  settings.tokenizer_class = "OpenAIGPTTokenizerFast";
  EXPECT_EQ(load(R"({"a": 0})", "", settings)->type(), "bpe");
  settings.tokenizer_class = "CLIPTokenizer";
  EXPECT_THAT([&] { load(R"({"a": 0})", "", settings); }, fails_with("of a CLIPTokenizer are not supported"));
  EXPECT_THAT([&] { load(R"({"a": 0, "Ġ": 1, "a</w>": 2})", ""); }, fails_with("ends of words (</w>)"));
  settings.tokenizer_class = "RobertaTokenizer";
  EXPECT_THAT([&] { load(R"({"a": 0, "<s>": 1})", "", settings); }, fails_with("no token </s>"));
}

TEST(GptFiles, APrefixSpaceIsAddedOnRequest) {
  TokenizerSettings settings;
  settings.add_prefix_space = true;
  EXPECT_THAT(load(R"({"a": 0, "Ġ": 1})", "", settings)->encode("a", false), ElementsAre(1, 0));
}

TEST(BrokenGptFiles, AreNamed) {
  for (const char* vocabulary : {"", "[1]", "{", "{}", "1"}) {
    EXPECT_THAT([&] { load(vocabulary, ""); }, fails_with("vocab.json: not a JSON object")) << vocabulary;
  }
  EXPECT_THAT([] { load(R"({"a": "b"})", ""); }, fails_with("the id of token 'a' should be an integer, found string"));
  EXPECT_THAT([] { load(R"({"a": -1})", ""); }, fails_with("token 'a' has id -1"));
  EXPECT_THAT([] { load(R"({"a": 4000000000})", ""); }, fails_with("token 'a' has id 4000000000"));
  EXPECT_THAT([] { load(R"({"a": 0, "b": 0})", ""); }, fails_with("tokens 'a' and 'b' have the same id 0"));
  EXPECT_THAT([] { load(R"({"a": 0})", "#version: 0.2\na b\n"); },
              fails_with("merges.txt: merge 0 ('a b') is not two tokens that form a third"));
  EXPECT_THAT([] { load(R"({"a": 0, "aa": 1})", "a a\n\na aa"); }, fails_with("merge 1 ('')"));
  EXPECT_NO_THROW(load(R"({"a": 0, "aa": 1})", "#version: 0.2\r\na a\r\n"));
  EXPECT_NO_THROW(load(R"({"a": 0})", "#version: 0.2"));
}

}  // namespace
}  // namespace weft
