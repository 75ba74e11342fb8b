// Ids and texts equal those of the reference implementations on every line of the goldens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace weft {
namespace {

using ::testing::Ge;

struct GoldenCase {
  const char* folder;
  const Tokenizer& (*tokenizer)();
  size_t min_rows;
};

class TokenizerGolden : public ::testing::TestWithParam<GoldenCase> {
 protected:
  const Tokenizer& tokenizer() const { return GetParam().tokenizer(); }
  std::vector<test::GoldenRow> rows() const {
    auto all = test::read_golden(GetParam().folder);
    EXPECT_THAT(all.size(), Ge(GetParam().min_rows));
    return all;
  }
};

TEST_P(TokenizerGolden, EncodesEveryLineToTheReferenceIds) {
  for (const test::GoldenRow& row : rows())
    EXPECT_EQ(tokenizer().encode(row.text, false), row.ids) << "row " << row.label;
}

TEST_P(TokenizerGolden, AddsTheSpecialTokensOfTheReference) {
  for (const test::GoldenRow& row : rows()) {
    if (!row.ids_special) continue;
    EXPECT_EQ(tokenizer().encode(row.text, true), *row.ids_special) << "row " << row.label;
  }
}

TEST_P(TokenizerGolden, DecodesEveryLineToTheReferenceText) {
  for (const test::GoldenRow& row : rows()) {
    if (!row.decoded) continue;
    std::string decoded;  // RWKV's reference gives back bytes that are no UTF-8
    append_lossy_utf8(*row.decoded, decoded);
    EXPECT_EQ(tokenizer().decode(row.ids, false), decoded) << "row " << row.label;
    if (!row.decoded_skip) continue;
    EXPECT_EQ(tokenizer().decode(*row.ids_special, true), *row.decoded_skip) << "row " << row.label;
  }
}

TEST_P(TokenizerGolden, StreamingGivesTheSameText) {
  for (const test::GoldenRow& row : rows()) {
    StreamingDecoder decoder(tokenizer(), false);
    std::string text;
    for (const int32_t id : row.ids) text += decoder.push(id);
    text += decoder.finish();
    EXPECT_EQ(text, tokenizer().decode(row.ids, false)) << "row " << row.label;
  }
}

/// Sentencepiece's places are in bytes and follow other conventions (offsets_test.cpp).
TEST_P(TokenizerGolden, SaysWhereEveryTokenComesFrom) {
  const bool is_comparable = !std::string_view(GetParam().folder).starts_with("spm");
  for (const test::GoldenRow& row : rows()) {
    std::vector<int32_t> ids;
    const std::vector<TokenSpan> spans = to_characters(row.text, tokenizer().encode_with_offsets(row.text, ids));
    EXPECT_EQ(ids, row.ids) << "row " << row.label;
    EXPECT_EQ(spans.size(), ids.size());
    if (!is_comparable || row.offsets.empty()) continue;
    EXPECT_EQ(spans, row.offsets) << "row " << row.label;
  }
}

INSTANTIATE_TEST_SUITE_P(References,
                         TokenizerGolden,
                         ::testing::Values(GoldenCase{"gpt2", test::gpt2_tokenizer, 431},
                                           GoldenCase{"roberta", test::roberta_tokenizer, 431},
                                           GoldenCase{"openai_gpt", test::openai_gpt_tokenizer, 431},
                                           GoldenCase{"gemini", test::gemma_tokenizer, 431},
                                           GoldenCase{"llama3_1", test::llama3_tokenizer, 431},
                                           GoldenCase{"minilm_wordpiece", test::minilm_tokenizer, 431},
                                           GoldenCase{"rwkv_world", test::rwkv_tokenizer, 439},
                                           GoldenCase{"smollm2", test::smollm2_tokenizer, 431},
                                           GoldenCase{"spm_bpe", test::sentencepiece_bpe_tokenizer, 431},
                                           GoldenCase{"spm_unigram", test::sentencepiece_unigram_tokenizer, 431}),
                         [](const auto& instance) { return std::string(instance.param.folder); });

}  // namespace
}  // namespace weft
