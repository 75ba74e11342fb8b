// Pairs of answers in all forms, and the rows that are made of them.
#include "data/preference_data.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "support/paths.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PreferenceData : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "weft_pairs_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    tokenizer_ = load_tokenizer(test_data("tiny_tokenizer"));
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<PreferenceTexts> read(const std::string& text) const {
    std::ofstream(folder_ / "pairs.jsonl", std::ios::binary) << text;
    return read_preference_texts((folder_ / "pairs.jsonl").string());
  }

  /// What is scored of the chosen and of the rejected answer of a row, as text; a target is the token that follows.
  std::vector<std::string> scored(const TrainingRow& row) const {
    std::vector<std::string> texts;
    for (const RowSpan& span : row.spans) {
      std::vector<int32_t> ids;
      for (int32_t t = span.begin; t < span.begin + span.length; ++t) {
        int32_t target = row.targets[static_cast<size_t>(t)];
        if (target < 0) continue;
        EXPECT_LT(t + 1, span.begin + span.length);
        EXPECT_EQ(target, row.ids[static_cast<size_t>(t + 1)]);
        ids.push_back(target);
      }
      texts.push_back(tokenizer_->decode(ids, false));
    }
    return texts;
  }

  std::vector<std::string> scored(const std::string& line) const {
    return scored(make_preference_rows(read(line), *tokenizer_, 0, {.max_length = 512}).data->row(0));
  }

  fs::path folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(PreferenceData, TextsAreCompletionsOfTheirPrompt) {
  EXPECT_THAT(scored(R"({"prompt": "The sky is", "chosen": " blue.", "rejected": " made of stone."})"),
              ElementsAre(" blue.<|im_end|>", " made of stone.<|im_end|>"));
}

TEST_F(PreferenceData, WhatBothBeginWithIsThePrompt) {
  std::vector<PreferenceTexts> texts = read(
      "{\"chosen\": \"Human: why? Bot: so.\", \"rejected\": \"Human: why? Bot: no.\"}\n"
      "{\"chosen\": \"x\\u00e9\", \"rejected\": \"x\\u00e8\"}\n");
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0].prompt, "Human: why? Bot:");
  EXPECT_EQ(texts[0].chosen, " so.");
  EXPECT_EQ(texts[0].rejected, " no.");
  // Not in the middle of a character.
  EXPECT_EQ(texts[1].prompt, "x");
  EXPECT_EQ(texts[1].chosen, "\u00e9");
}

TEST_F(PreferenceData, ConversationsAreScoredBehindWhatBothBeginWith) {
  const std::string kUser = R"({"role": "user", "content": "And now?"})";
  const std::string kBefore =
      R"({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, )" + kUser;
  auto answer = [](const std::string& text) { return R"({"role": "assistant", "content": ")" + text + "\"}"; };
  auto whole = ElementsAre("Yes<|im_end|>", "No<|im_end|>");
  EXPECT_THAT(
      scored(fmt::format(R"({{"chosen": [{0}, {1}], "rejected": [{0}, {2}]}})", kBefore, answer("Yes"), answer("No"))),
      whole);
  EXPECT_THAT(scored(fmt::format(
                  R"({{"prompt": [{0}], "chosen": [{1}], "rejected": [{2}]}})", kBefore, answer("Yes"), answer("No"))),
              whole);
  // The prompt's text is in the conversations already, or is not.
  EXPECT_THAT(scored(fmt::format(R"({{"prompt": "And now?", "chosen": [{0}, {1}], "rejected": [{0}, {2}]}})",
                                 kUser,
                                 answer("Yes"),
                                 answer("No"))),
              whole);
  EXPECT_THAT(scored(fmt::format(
                  R"({{"prompt": "And now?", "chosen": [{0}], "rejected": [{1}]}})", answer("Yes"), answer("No"))),
              whole);
}

TEST_F(PreferenceData, LongAnswersAreCutAndPromptsThatLeaveNoRoomAreLeftOut) {
  const std::string kShort = R"({"prompt": "a", "chosen": "b", "rejected": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"})";
  const std::string kLong =
      R"({"prompt": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "chosen": "b", "rejected": "c"})";
  PreferenceRows rows = make_preference_rows(read(kLong + "\n" + kShort), *tokenizer_, 7, {.max_length = 8});
  EXPECT_EQ(rows.left_out, 1);
  EXPECT_GE(rows.cut, 1);
  ASSERT_EQ(rows.data->rows_per_epoch(), 1);
  TrainingRow row = rows.data->row(0);
  EXPECT_THAT(row.labels, ElementsAre(8, 8));
  EXPECT_EQ(row.spans[1].length, 8);
  try {
    make_preference_rows(read(kLong), *tokenizer_, 0, {.max_length = 8});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("fill the 8 tokens of a row"));
  }
}

}  // namespace
}  // namespace weft
