// Our sentencepiece encoding against the library itself, on texts made at random.
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <random>

#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

std::string random_text(std::mt19937& random, const std::vector<test::GoldenRow>& rows) {
  std::string text;
  const auto pick = [&](size_t count) { return std::uniform_int_distribution<size_t>(0, count - 1)(random); };
  for (size_t part = 0; part < 4; ++part) {
    const std::string& source = rows[pick(rows.size())].text;
    if (source.empty()) continue;
    const size_t begin = pick(source.size());
    text += source.substr(begin, pick(200));  // may cut characters
    if (pick(3) == 0) text += std::string(pick(4), ' ');
  }
  return text;
}

class SentencepieceLibrary : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencepieceLibrary, GivesTheSameIdsAndTextOnRandomTexts) {
  const std::string path = test::tokenizer_data(std::string(GetParam()) + "/spm.model");
  const auto ours = load_tokenizer(path);
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(path).ok());
  const auto rows = test::read_golden(GetParam());
  std::mt19937 random(17);
  for (int i = 0; i < 20'000; ++i) {
    const std::string text = random_text(random, rows);
    std::vector<int> expected;
    ASSERT_TRUE(library.Encode(text, &expected).ok());
    ASSERT_EQ(ours->encode(text, false), expected) << ::testing::PrintToString(text);
    std::string decoded;
    ASSERT_TRUE(library.Decode(expected, &decoded).ok());
    ASSERT_EQ(ours->decode(expected, false), decoded) << ::testing::PrintToString(text);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SentencepieceLibrary, ::testing::Values("spm_bpe", "spm_unigram"));

}  // namespace
}  // namespace weft
