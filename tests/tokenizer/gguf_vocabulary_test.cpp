// Tokenizers as GGUF metadata: read again, they cut every golden string as before.
#include "tokenizer/gguf_vocabulary.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::shared_ptr<const Tokenizer> as_gguf(const std::string& path, int64_t vocab_size) {
  GgufMetadata metadata;
  metadata.path = path;
  for (const auto& [key, value] : gguf_tokenizer_entries(path, vocab_size)) metadata.values.emplace(key, value);
  return load_gguf_tokenizer(metadata);
}

void expect_same(const Tokenizer& written, const Tokenizer& original, const std::string& golden) {
  EXPECT_EQ(written.bos_id(), original.bos_id());
  EXPECT_EQ(written.end_ids(), original.end_ids());
  EXPECT_EQ(written.chat_template(), original.chat_template());
  for (const test::GoldenRow& row : test::read_golden(golden)) {
    EXPECT_EQ(written.encode(row.text, true), original.encode(row.text, true)) << golden << " " << row.label;
  }
}

TEST(GgufVocabulary, HoldsAByteLevelTokenizerJson) {
  const std::string path = test::unpack("llama3_1/tokenizer.json");
  constexpr int64_t kSize = 128264;
  std::shared_ptr<const Tokenizer> written = as_gguf(path, kSize);
  expect_same(*written, test::llama3_tokenizer(), "llama3_1");
  EXPECT_EQ(written->vocab_size(), kSize);
  EXPECT_EQ(written->id_to_token(128263), "[PAD128263]");
  EXPECT_TRUE(written->is_special(128009));
}

TEST(GgufVocabulary, HoldsASentencepieceModel) {
  const std::string path = test::tokenizer_data("spm_bpe/spm.model");
  const Tokenizer& original = test::sentencepiece_bpe_tokenizer();
  std::shared_ptr<const Tokenizer> written = as_gguf(path, original.vocab_size());
  // A GGUF has no rules of normalisation.
  for (const char* text : {"Hello world", "It's 2024, isn't it?", "caf\xC3\xA9", "\xE4\xBD\xA0\xE5\xA5\xBD"}) {
    EXPECT_EQ(written->encode(text, true), original.encode(text, true)) << text;
  }
}

TEST(GgufVocabulary, IsTakenFromAGgufFileAsItIs) {
  const std::string path = test::unpack("smollm2/tokenizer.gguf");
  expect_same(*as_gguf(path, 49152), test::smollm2_tokenizer(), "smollm2");
}

TEST(GgufVocabulary, RefusesWhatTheFormatCannotSay) {
  auto refuse = [](const std::string& path, int64_t size, const char* message) {
    EXPECT_THAT([&] { gguf_tokenizer_entries(path, size); }, ThrowsMessage<Error>(HasSubstr(message))) << path;
  };
  refuse(test::tokenizer_data("spm_unigram/spm.model"), 2000, "type BPE");
  refuse(test::unpack("llama3_1/tokenizer.json"), 1000, "the model's table 1000 rows");
  refuse(test::unpack("gemini/tokenizer.json"), 300000, "byte-level BPE");
  const std::string tokenizer = R"({"added_tokens": [], "normalizer": NORMALIZER, "decoder": {"type": "ByteLevel"},
    "pre_tokenizer": PRE, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";
  auto with = [&](std::string pre, std::string normalizer) {
    std::string text = tokenizer;
    text.replace(text.find("PRE"), 3, pre);
    text.replace(text.find("NORMALIZER"), 10, normalizer);
    return test::write_file("small/tokenizer.json", text);
  };
  const std::string byte_level = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})";
  EXPECT_NO_THROW(gguf_tokenizer_entries(with(byte_level, "null"), 3));
  refuse(with(byte_level, R"({"type": "Lowercase"})"), 3, "it normalises text");
  refuse(with(R"({"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated", "invert": false})", "null"),
         3,
         "it cuts text by patterns");
  refuse(with(R"({"type": "Whitespace"})", "null"), 3, "type Whitespace");
}

}  // namespace
}  // namespace weft
