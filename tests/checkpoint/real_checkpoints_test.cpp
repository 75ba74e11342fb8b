// Files written by transformers, Keras and gguf, against the values that their own libraries read.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <vector>

#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

// The reflected CRC-32 of zlib, one bit at a time.
uint32_t crc32(const void* data, size_t num_bytes) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < num_bytes; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

// Tensor → CRC-32 of its values as float32, from expected.txt.
std::map<std::string, uint32_t> expected_checksums(const std::string& checkpoint) {
  std::map<std::string, uint32_t> checksums;
  std::ifstream file(data_path("expected.txt"));
  std::string name, tensor, checksum;
  while (file >> name >> tensor >> checksum) {
    if (name == checkpoint) checksums[tensor] = static_cast<uint32_t>(std::stoul(checksum, nullptr, 16));
  }
  return checksums;
}

struct Case {
  const char* checkpoint;
  const char* format;
  size_t num_tensors;
};

class RealCheckpoint : public testing::TestWithParam<Case> {};

TEST_P(RealCheckpoint, HoldsTheValuesThatTheReferenceReads) {
  auto reader = open_checkpoint(data_path(GetParam().checkpoint));
  EXPECT_EQ(reader->format(), GetParam().format);
  ASSERT_EQ(reader->names().size(), GetParam().num_tensors);
  std::map<std::string, uint32_t> expected = expected_checksums(GetParam().checkpoint);
  ASSERT_EQ(expected.size(), GetParam().num_tensors);
  int64_t stored_bytes = 0;
  for (const std::string& name : reader->names()) {
    const TensorInfo& info = reader->info(name);
    std::vector<float> values(static_cast<size_t>(info.shape.num_elements()));
    reader->read(name, values.data(), DType::f32);
    EXPECT_EQ(crc32(values.data(), values.size() * sizeof(float)), expected.at(name)) << name;
    stored_bytes += info.stored_bytes;
  }
  EXPECT_EQ(reader->bytes_read(), stored_bytes);
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         RealCheckpoint,
                         testing::Values(Case{"hf-gemma2-bf16-sharded", "safetensors", 46},
                                         Case{"hf-qwen2", "safetensors", 26},
                                         Case{"seed-llama-bf16", "keras_hdf5", 21},
                                         Case{"quantised.gguf", "gguf", 19}),
                         [](const auto& parameter) {
                           std::string name = parameter.param.checkpoint;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

}  // namespace
}  // namespace weft
