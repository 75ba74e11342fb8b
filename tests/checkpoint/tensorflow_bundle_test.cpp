// TensorFlow checkpoints: files that TensorFlow wrote, read and written again.
#include "checkpoint/tensorflow_bundle.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "checkpoint/hdf5_file.h"
#include "checkpoint/reader.h"
#include "checkpoint/tensorflow_index.h"
#include "checkpoint/test_files.h"
#include "core/crc32c.h"
#include "support/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

std::string seed_prefix(const std::string& name) {
  return test_data() + "/seed/" + name + "/ckpt/model.ckpt";
}

std::string hex(std::string_view digits) {
  std::string bytes, pair;
  for (char digit : digits) {
    if (digit != ' ') pair.push_back(digit);
    if (pair.size() == 2) {
      bytes.push_back(static_cast<char>(std::stoi(pair, nullptr, 16)));
      pair.clear();
    }
  }
  return bytes;
}

std::vector<double> values_of(const CheckpointReader& reader, const std::string& name) {
  std::vector<double> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DType::f64);
  return values;
}

/// Copies a checkpoint with the writer under test.
void write_again(const CheckpointReader& reader, const std::string& prefix) {
  std::vector<OutputTensor> tensors;
  for (const std::string& name : reader.names()) {
    tensors.push_back({name, reader.info(name).shape, reader.info(name).dtype});
  }
  auto writer = make_tensorflow_writer(prefix, tensors);
  for (const OutputTensor& tensor : tensors) {
    std::vector<std::byte> values(static_cast<size_t>(tensor.shape.num_elements()) * dtype_bytes(tensor.dtype));
    reader.read(tensor.name, values.data(), tensor.dtype);
    writer->write(tensor.name, 0, tensor.shape.num_elements(), values.data(), tensor.dtype);
  }
  writer->finish();
}

class Stress : public testing::Test {
 protected:
  std::string prefix_ = data_path("tfckpt-stress/ckpt/model.ckpt");
  std::unique_ptr<CheckpointReader> reader_ = open_checkpoint(prefix_);
  std::shared_ptr<const Hdf5File> golden_ = Hdf5File::open(data_path("tfckpt-stress/golden.h5"));
};

TEST_F(Stress, EveryTypeOfSeveralShardsAndASlicedVariableHoldsWhatTensorFlowReads) {
  EXPECT_EQ(reader_->format(), "tensorflow");
  size_t num_checked = 0;
  for (const Hdf5Dataset& dataset : golden_->datasets()) {
    if (!dataset.path.starts_with("tensors/")) continue;
    std::string name = dataset.path.substr(8);
    ASSERT_NE(reader_->find(name), nullptr) << name;
    EXPECT_EQ(reader_->info(name).shape, dataset.shape) << name;
    EXPECT_EQ(values_of(*reader_, name), golden_->read_all<double>(dataset)) << name;
    ++num_checked;
  }
  EXPECT_EQ(num_checked, 12u);
  std::map<std::string, std::string> types = {{"f32", "F32"},
                                              {"bf16", "BF16"},
                                              {"f16", "F16"},
                                              {"f64", "F64"},
                                              {"i32", "I32"},
                                              {"i64", "I64"},
                                              {"u8", "U8"},
                                              {"bool", "BOOL"}};
  for (const auto& [name, type] : types) EXPECT_EQ(reader_->info(name).storage_type, type);
  reader_->verify_checksums(0, 1);
}

TEST_F(Stress, AnIndexOfSeveralBlocksIsReadWhole) {
  for (int i = 0; i < 12000; ++i) {
    std::string name = fmt::format("scope_{:02}/block_{:03}/scalar_{}", i % 37, i / 37, i);
    ASSERT_EQ(values_of(*reader_, name), std::vector<double>{i * 0.5}) << name;
  }
}

TEST_F(Stress, IndexesAreWrittenAsTensorFlowWritesThem) {
  EXPECT_EQ(tensorflow_index_bytes(read_tensorflow_index(prefix_ + ".index")), read_bytes(prefix_ + ".index"));
}

TEST_F(Stress, BoxesOfASlicedVariableAreThoseOfTheWhole) {
  std::vector<float> whole(40);
  reader_->read("sliced", whole.data(), DType::f32);
  for (int64_t first = 0; first < 10; ++first) {
    for (int64_t last = first; last <= 10; ++last) {
      int64_t begin[] = {first, 1}, end[] = {last, 3};
      std::vector<float> box(static_cast<size_t>(last - first) * 2), expected;
      reader_->read_slice("sliced", begin, end, box.data(), DType::f32);
      for (int64_t row = first; row < last; ++row) {
        for (int64_t column = 1; column < 3; ++column) expected.push_back(whole[static_cast<size_t>(row * 4 + column)]);
      }
      EXPECT_EQ(box, expected) << first << ' ' << last;
    }
  }
}

TEST_F(Stress, AnEmptyBoxOfASlicedVariableIsNothing) {
  int64_t begin[] = {1, 2}, end[] = {9, 2};
  EXPECT_NO_THROW(reader_->read_slice("sliced", begin, end, nullptr, DType::f32));
}

TEST_F(Stress, StringsAreListedAndRefused) {
  EXPECT_EQ(reader_->info("text").storage_type, "STRING");
  std::vector<float> values(3);
  std::string error = error_of([&] { reader_->read("text", values.data(), DType::f32); });
  EXPECT_NE(error.find("tensor text is stored as STRING"), std::string::npos) << error;
}

TEST_F(Stress, DamagedValuesOfEveryShardAreFoundByTheChecksums) {
  TempFolder folder;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(prefix_).parent_path())) {
    fs::copy(entry.path(), folder.path() + "/" + entry.path().filename().string());
  }
  auto expect_damage = [&](const std::string& shard, size_t at, const std::string& tensor) {
    std::string whole = read_bytes(folder.path() + "/" + shard), damaged = whole;
    damaged[at] ^= 4;
    folder.write(shard, damaged);
    auto reader = open_checkpoint(folder.path());
    std::string error = error_of([&] { reader->verify_checksums(0, 1); });
    EXPECT_NE(error.find(shard + ": the checksum of tensor " + tensor), std::string::npos) << error;
    folder.write(shard, whole);
  };
  std::vector<float> sliced(40);
  reader_->read("sliced", sliced.data(), DType::f32);
  const int first_rows[] = {0, 3, 7};
  for (int shard = 0; shard < 3; ++shard) {
    std::string name = fmt::format("model.ckpt.data-{:05}-of-00003", shard);
    std::string bytes = read_bytes(folder.path() + "/" + name);
    expect_damage(name, 0, "scope_");
    expect_damage(name, bytes.size() / 2, "scope_");
    size_t slice =
        bytes.find(bytes_of(std::vector<float>(&sliced[first_rows[shard] * 4], &sliced[first_rows[shard] * 4 + 8])));
    expect_damage(name, slice, "sliced");
  }
}

class Seed : public testing::TestWithParam<const char*> {};

TEST_P(Seed, WhatTensorFlowWroteIsWrittenAgainByteForByte) {
  std::string prefix = seed_prefix(GetParam());
  auto reader = open_checkpoint(prefix);
  reader->verify_checksums(0, 1);
  TempFolder folder;
  std::string copy = folder.path() + "/model.ckpt";
  write_again(*reader, copy);
  EXPECT_EQ(read_bytes(copy + ".index"), read_bytes(prefix + ".index"));
  EXPECT_EQ(read_bytes(copy + ".data-00000-of-00001"), read_bytes(prefix + ".data-00000-of-00001"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 2);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints,
                         Seed,
                         testing::Values("bert-embsize", "gau_alpha-mlm", "nezha-lm", "roformer_sim-unilm"));

TEST(TensorflowBundle, TwoShardsWrittenAsOneHoldTheSame) {
  auto reader = open_checkpoint(seed_prefix("bert-mlm"));
  ASSERT_TRUE(fs::exists(seed_prefix("bert-mlm") + ".data-00001-of-00002"));
  TempFolder folder;
  write_again(*reader, folder.path() + "/model.ckpt");
  auto copy = open_checkpoint(folder.path());
  copy->verify_checksums(0, 1);
  ASSERT_EQ(copy->names(), reader->names());
  for (const std::string& name : reader->names()) EXPECT_EQ(values_of(*copy, name), values_of(*reader, name)) << name;
}

TEST(TensorflowBundle, OpensByPrefixIndexAndFolderAndReadsSeveralShards) {
  std::string prefix = seed_prefix("bert-mlm");
  for (const std::string& path : {fs::path(prefix).parent_path().string(), prefix, prefix + ".index"}) {
    auto reader = open_checkpoint(path);
    const TensorInfo& table = reader->info("bert/embeddings/word_embeddings");
    EXPECT_EQ(table.storage_type, "F32");
    EXPECT_NO_THROW(reader->verify_checksums(0, 1));
    std::vector<float> row(static_cast<size_t>(table.shape[1]));
    std::vector<float> whole(static_cast<size_t>(table.shape.num_elements()));
    int64_t begin[] = {3, 0}, end[] = {4, table.shape[1]};
    reader->read_slice(table.name, begin, end, row.data(), DType::f32);
    reader->read(table.name, whole.data(), DType::f32);
    EXPECT_TRUE(std::equal(row.begin(), row.end(), whole.begin() + 3 * table.shape[1]));
  }
}

TEST(TensorflowBundle, ChecksumsAreTheFormats) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(masked_crc32c(crc32c("123456789")), 0xc78ab0e5u);
  EXPECT_EQ(masked_crc32c(crc32c("")), 0xa282ead8u);
  EXPECT_EQ(extend_crc32c(crc32c("12345"), "6789", 4), 0xe3069283u);
  EXPECT_EQ(extend_crc32(extend_crc32(0, "12345", 5), "6789", 4), 0xcbf43926u);
}

TEST(TensorflowBundle, AnIndexOfSeveralBlocksIsReadBack) {
  std::vector<std::pair<std::string, std::string>> entries;
  entries.reserve(20000);
  for (int i = 0; i < 20000; ++i) entries.emplace_back("name/" + std::to_string(100000 + i), std::string(30, 'v'));
  TempFolder folder;
  std::string path = folder.write("x.index", tensorflow_index_bytes(entries));
  EXPECT_EQ(read_tensorflow_index(path), entries);
}

TEST(TensorflowBundle, TheExampleOfTheFormatIsWrittenByteForByte) {
  TempFolder folder;
  std::string prefix = folder.path() + "/example.ckpt";
  auto writer = make_tensorflow_writer(prefix, {{"global_step", {}, DType::i64}, {"a/b", {2}, DType::f32}});
  int64_t step = 7;
  float values[] = {1, 2};
  writer->write("global_step", 0, 1, &step, DType::i64);
  writer->write("a/b", 0, 1, values, DType::f32);
  writer->write("a/b", 1, 1, values + 1, DType::f32);
  EXPECT_FALSE(fs::exists(prefix + ".index"));
  writer->finish();
  EXPECT_EQ(read_bytes(prefix + ".index"),
            hex("00 00 06 08 01 1a 02 08 01 00 03 0f 61 2f 62 08 01 12 04 12 02 08 02 28 08 35 59 3c e5 35 00 0b 0d 67"
                "6c 6f 62 61 6c 5f 73 74 65 70 08 09 12 00 20 08 28 08 35 bb d7 9f 11 00 00 00 00 01 00 00 00 00 8f ee"
                "d6 ca 00 00 00 00 01 00 00 00 00 c0 f2 a1 b0 00 01 02 68 00 41 00 00 00 00 01 00 00 00 00 be cb bb 50"
                "46 08 53 0e") +
                std::string(36, '\0') + hex("57 fb 80 8b 24 75 47 db"));
  EXPECT_EQ(read_bytes(prefix + ".data-00000-of-00001"), hex("00 00 80 3f 00 00 00 40 07 00 00 00 00 00 00 00"));
}

TEST(TensorflowBundle, ValuesAreConvertedToTheFilesType) {
  TempFolder folder;
  std::vector<float> values(200'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.1f * static_cast<float>(i);
  auto writer = make_tensorflow_writer(folder.path() + "/x", {{"half", {200, 1000}, DType::bf16}, {"none", {0, 3}}});
  writer->write("half", 0, 70'000, values.data(), DType::f32);
  writer->write("half", 70'000, 130'000, values.data() + 70'000, DType::f32);
  writer->write("none", 0, 0, nullptr, DType::f32);
  writer->finish();
  auto reader = open_checkpoint(folder.path() + "/x.index");
  reader->verify_checksums(0, 1);
  std::vector<float> read(values.size());
  reader->read("half", read.data(), DType::f32);
  for (float& value : values) value = static_cast<float>(bfloat16(value));
  EXPECT_EQ(read, values);
}

TEST(TensorflowBundle, AFolderWithSeveralAsksForOne) {
  TempFolder folder;
  for (const char* name : {"a", "b"}) {
    auto writer = make_tensorflow_writer(folder.path() + "/" + name, {{"x", {}}});
    float value = 1;
    writer->write("x", 0, 1, &value, DType::f32);
    writer->finish();
  }
  std::string error = error_of([&] { open_checkpoint(folder.path()); });
  EXPECT_NE(error.find("several checkpoints"), std::string::npos) << error;
  EXPECT_NE(error.find("/b.index"), std::string::npos) << error;
  EXPECT_EQ(values_of(*open_checkpoint(folder.path() + "/b"), "x"), std::vector<double>{1});
}

TEST(TensorflowBundle, AMissingDataFileIsNamed) {
  TempFolder folder;
  fs::copy(seed_prefix("bert-mlm") + ".index", folder.path() + "/x.index");
  std::string error = error_of([&] { open_checkpoint(folder.path()); });
  EXPECT_NE(error.find("/x.data-0000"), std::string::npos) << error;
  EXPECT_NE(error.find("No such file"), std::string::npos) << error;
}

}  // namespace
}  // namespace weft
