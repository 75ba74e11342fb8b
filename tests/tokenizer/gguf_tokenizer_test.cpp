// The tokenizers inside GGUF files, from metadata as a file would give it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// The pieces of the sentencepiece BPE model of the goldens, as llama.cpp's converter writes them.
GgufMetadata sentencepiece_metadata() {
  const std::map<std::string, int64_t> types = {{"normal", 1}, {"unknown", 2}, {"control", 3}, {"byte", 6}};
  std::vector<std::string> tokens;
  std::vector<double> scores;
  std::vector<int64_t> token_types;
  std::istringstream rows(test::read_file(test::tokenizer_data("spm_bpe/pieces.tsv")));
  std::string id;
  std::string piece;
  std::string type;
  double score = 0;
  while (std::getline(rows, id, '\t') && std::getline(rows, piece, '\t') && rows >> score >> type &&
         rows.get() == '\n') {
    tokens.push_back(nlohmann::json::parse(piece).get<std::string>());
    scores.push_back(score);
    const bool is_user_defined = tokens.back() == "<sep>" || tokens.back() == "<extra_id_0>";
    token_types.push_back(is_user_defined ? 4 : types.at(type));
  }
  GgufMetadata metadata;
  metadata.path = "file";
  metadata.values = {{"tokenizer.ggml.model", std::string("llama")},
                     {"tokenizer.ggml.tokens", tokens},
                     {"tokenizer.ggml.scores", scores},
                     {"tokenizer.ggml.token_type", token_types},
                     {"tokenizer.ggml.bos_token_id", int64_t{3}},
                     {"tokenizer.ggml.eos_token_id", int64_t{1}},
                     {"tokenizer.ggml.unknown_token_id", int64_t{2}}};
  return metadata;
}

GgufMetadata gpt2_metadata() {
  GgufMetadata metadata;
  metadata.path = "file";
  metadata.values = {{"tokenizer.ggml.model", std::string("gpt2")},
                     {"tokenizer.ggml.pre", std::string("gpt-2")},
                     {"tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab"}},
                     {"tokenizer.ggml.merges", std::vector<std::string>{"a b"}}};
  return metadata;
}

// In a GGUF the space prefix comes after every special token, in a .model only at the start; and control pieces are
// found in the text.
bool differs_by_design(const std::string& text) {
  return text.find("<s") != std::string::npos || text.find("<extra_id_0>") != std::string::npos ||
         text.find("</s>") != std::string::npos || text.find("<pad>") != std::string::npos ||
         text.find("<ctrl>") != std::string::npos || text.find("<unk>") != std::string::npos;
}

TEST(GgufSentencepiece, MergesByScoreAsTheModelDoes) {
  const auto tokenizer = load_gguf_tokenizer(sentencepiece_metadata());
  size_t num_compared = 0;
  for (const test::GoldenRow& row : test::read_golden("spm_bpe")) {
    if (differs_by_design(row.text) || row.text.empty() || !row.decoded) continue;
    EXPECT_EQ(tokenizer->encode(row.text, false), row.ids) << "row " << row.label;
    EXPECT_EQ(tokenizer->decode(row.ids, false), *row.decoded) << "row " << row.label;
    ++num_compared;
  }
  EXPECT_GT(num_compared, 380);
  EXPECT_EQ(tokenizer->encode("the", true).front(), 3);
  EXPECT_EQ(tokenizer->encode("a<sep>b", false)[1], 5);
}

TEST(GgufTokenizer, UnknownNamesAreListedWithTheKnownOnes) {
  GgufMetadata metadata = gpt2_metadata();
  metadata.values["tokenizer.ggml.pre"] = std::string("blorb");
  EXPECT_THAT(
      [&] { load_gguf_tokenizer(metadata); },
      ThrowsMessage<Error>(HasSubstr("file: tokenizer.ggml.pre 'blorb' is not supported; known are default, gpt-2")));
  metadata.values["tokenizer.ggml.model"] = std::string("blorb");
  EXPECT_THAT([&] { load_gguf_tokenizer(metadata); },
              ThrowsMessage<Error>(HasSubstr("file: tokenizer.ggml.model 'blorb' is not supported")));
}

TEST(GgufTokenizer, EveryNamedPreTokenizerLoads) {
  for (const char* name : {"default",
                           "gpt-2",
                           "smollm",
                           "falcon",
                           "llama-bpe",
                           "qwen2",
                           "deepseek-coder",
                           "deepseek-v3",
                           "tekken",
                           "gpt-4o"}) {
    GgufMetadata metadata = gpt2_metadata();
    metadata.values["tokenizer.ggml.pre"] = std::string(name);
    EXPECT_EQ(load_gguf_tokenizer(metadata)->encode("ab", false), std::vector<int32_t>{2}) << name;
  }
}

TEST(GgufTokenizer, DamagedArraysAreNamed) {
  GgufMetadata metadata = gpt2_metadata();
  metadata.values["tokenizer.ggml.merges"] = std::vector<std::string>{"a c"};
  EXPECT_THAT([&] { load_gguf_tokenizer(metadata); },
              ThrowsMessage<Error>(HasSubstr("merge 0 ('a c') is not two tokens that form a third")));
  metadata = gpt2_metadata();
  metadata.values["tokenizer.ggml.token_type"] = std::vector<int64_t>{1};
  EXPECT_THAT([&] { load_gguf_tokenizer(metadata); }, ThrowsMessage<Error>(HasSubstr("should hold 3 integers")));
  metadata = gpt2_metadata();
  metadata.values["tokenizer.ggml.bos_token_id"] = int64_t{3};
  EXPECT_THAT([&] { load_gguf_tokenizer(metadata); },
              ThrowsMessage<Error>(HasSubstr("is 3, the vocabulary ends at 2")));
}

}  // namespace
}  // namespace weft
