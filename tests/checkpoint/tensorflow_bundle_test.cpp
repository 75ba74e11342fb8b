// TensorFlow checkpoints: files that TensorFlow wrote, the same bytes written again, and damaged ones.
#include "checkpoint/tensorflow_bundle.h"

#include <gmock/gmock.h>

#include "checkpoint/tensorflow_index.h"
#include "checkpoint/test_files.h"
#include "core/crc32c.h"

namespace weft {
namespace {

using testing::HasSubstr;

std::string golden(const std::string& name) {
  return std::string(WEFT_TEST_DATA) + "/seed/" + name + "/ckpt";
}

template <typename Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    return error.what();
  }
  return "no error";
}

/// All tensors of a checkpoint written again.
void write_again(const CheckpointReader& reader, const std::string& prefix) {
  std::vector<OutputTensor> tensors;
  for (const std::string& name : reader.names()) {
    tensors.push_back({.name = name, .shape = reader.info(name).shape, .dtype = reader.info(name).dtype});
  }
  auto writer = make_tensorflow_writer(prefix, tensors);
  for (const OutputTensor& tensor : tensors) {
    std::vector<std::byte> values(static_cast<size_t>(tensor.shape.num_elements()) * dtype_bytes(tensor.dtype));
    reader.read(tensor.name, values.data(), tensor.dtype);
    writer->write(tensor.name, 0, tensor.shape.num_elements(), values.data(), tensor.dtype);
  }
  writer->finish();
}

TEST(TensorflowBundle, IsReadAndWrittenByteForByteAsTensorFlowDoes) {
  TempFolder folder;
  auto reader = open_checkpoint(golden("roformer_sim-unilm"));
  EXPECT_EQ(reader->format(), "tensorflow");
  EXPECT_NO_THROW(reader->verify_checksums(0, 1));
  write_again(*reader, folder.path() + "/again");
  EXPECT_EQ(read_bytes(folder.path() + "/again.index"), read_bytes(golden("roformer_sim-unilm") + "/model.ckpt.index"));
  EXPECT_EQ(read_bytes(folder.path() + "/again.data-00000-of-00001"),
            read_bytes(golden("roformer_sim-unilm") + "/model.ckpt.data-00000-of-00001"));
}

TEST(TensorflowBundle, OpensByPrefixIndexAndFolderAndReadsSeveralShards) {
  std::string folder = golden("bert-mlm");
  for (const std::string& path : {folder, folder + "/model.ckpt", folder + "/model.ckpt.index"}) {
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

/// a/b = [1, 2] and global_step = 7, as TensorFlow writes them.
std::string example_index() {
  TempFolder folder;
  auto writer = make_tensorflow_writer(
      folder.path() + "/x",
      {{.name = "global_step", .shape = {}, .dtype = DType::i64}, {.name = "a/b", .shape = {2}, .dtype = DType::f32}});
  float values[] = {1, 2};
  int64_t step = 7;
  writer->write("global_step", 0, 1, &step, DType::i64);
  writer->write("a/b", 0, 2, values, DType::f32);
  writer->finish();
  return read_bytes(folder.path() + "/x.index");
}

TEST(TensorflowBundle, ChecksumsAreTheFormats) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(masked_crc32c(crc32c("123456789")), 0xc78ab0e5u);
  EXPECT_EQ(masked_crc32c(crc32c("")), 0xa282ead8u);
  EXPECT_EQ(extend_crc32c(crc32c("12345"), "6789", 4), 0xe3069283u);
}

TEST(TensorflowBundle, AnIndexOfSeveralBlocksIsReadBack) {
  std::vector<std::pair<std::string, std::string>> entries;
  for (int i = 0; i < 20000; ++i) entries.emplace_back("name/" + std::to_string(100000 + i), std::string(30, 'v'));
  TempFolder folder;
  std::string path = folder.write("x.index", tensorflow_index_bytes(entries));
  EXPECT_EQ(read_tensorflow_index(path), entries);
}

class DamagedBundle : public testing::Test {
 protected:
  /// What opening and checking says of an index beside a data file.
  std::string message(const std::string& index, const std::string& data = std::string(16, '\0')) {
    folder_.write("m.index", index);
    folder_.write("m.data-00000-of-00001", data);
    return error_of([&] { open_checkpoint(folder_.path() + "/m")->verify_checksums(0, 1); });
  }

  TempFolder folder_;
};

TEST_F(DamagedBundle, IsRefusedWithOneLine) {
  std::string good = example_index();
  EXPECT_THAT(message(good.substr(0, 20)), HasSubstr("shorter than its footer"));
  EXPECT_THAT(message(good.substr(0, good.size() - 1)), HasSubstr("does not end as"));
  std::string flipped = good;
  flipped[12] ^= 1;
  EXPECT_THAT(message(flipped), HasSubstr("checksum is wrong"));
  EXPECT_THAT(message(good, ""), HasSubstr("tensor a/b lies at byte 0 and takes 8 bytes"));
  EXPECT_THAT(message(good), HasSubstr("the checksum of tensor a/b is wrong"));
  std::string far = good;
  far.replace(far.size() - 48, 20, 20, '\xff');
  EXPECT_THAT(message(far), HasSubstr("outside of it"));
  for (const std::string& broken : {flipped, far, good.substr(1)})
    EXPECT_EQ(message(broken).find('\n'), std::string::npos);
}

TEST_F(DamagedBundle, EveryFlippedBitIsNoticedOrHarmless) {
  std::string good = example_index();
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; bit += 3) {
      std::string broken = good;
      broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
      message(broken, std::string("\0\0\x80?\0\0\0@\7\0\0\0\0\0\0\0", 16));
    }
  }
}

TEST_F(DamagedBundle, MissingFilesAreNamed) {
  folder_.write("m.index", example_index());
  EXPECT_THAT(error_of([&] { open_checkpoint(folder_.path() + "/m"); }), HasSubstr("m.data-00000-of-00001"));
}

}  // namespace
}  // namespace weft
