// PyTorch checkpoints in several files: pytorch_model.bin.index.json says which tensor lies in which.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/reader.h"
#include "checkpoint/torch_files.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kIndex = "pytorch_model.bin.index.json";
constexpr const char* kFirst = "pytorch_model-00001-of-00002.bin";
constexpr const char* kSecond = "pytorch_model-00002-of-00002.bin";

std::vector<ZipPart> shard_parts(std::string_view tensor, const std::vector<float>& values) {
  auto parts = torch_parts(pickle_of(pickled_dict(tensor, pickled_tensor({.shape = {4}, .strides = {1}}))));
  parts[2].bytes = bytes_of(values);
  return parts;
}

/// A folder with a in the first shard and b in the second.
class TorchShards : public testing::Test {
 protected:
  TorchShards() {
    folder_.write(kFirst, zip_bytes(shard_parts("a", {0, 1, 2, 3})));
    folder_.write(kSecond, zip_bytes(shard_parts("b", {4, 5, 6, 7})));
    write_index(R"("a":"pytorch_model-00001-of-00002.bin","b":"pytorch_model-00002-of-00002.bin")");
  }

  void write_index(const std::string& entries) {
    folder_.write(kIndex, R"({"metadata":{"total_size":32},"weight_map":{)" + entries + "}}");
  }

  std::string error() const {
    return error_of([&] { open_checkpoint(folder_.path()); });
  }

  TempFolder folder_;
};

TEST_F(TorchShards, AreOneCheckpoint) {
  for (const std::string& path : {folder_.path(), folder_.path() + "/" + kIndex}) {
    auto reader = open_checkpoint(path);
    EXPECT_EQ(reader->format(), "torch");
    EXPECT_THAT(reader->names(), ElementsAre("a", "b"));
    std::vector<float> values(4);
    reader->read("b", values.data(), DType::f32);
    EXPECT_THAT(values, ElementsAre(4, 5, 6, 7));
    EXPECT_EQ(reader->info("b").file, folder_.path() + "/" + kSecond);
    reader->verify_checksums(0, 1);
  }
}

TEST_F(TorchShards, MayBeOfBeforeTorch16) {
  folder_.write(kFirst, read_bytes(data_path("torch/legacy.pth")));
  fs::remove(folder_.path() + "/" + kSecond);
  write_index(R"("a":"pytorch_model-00001-of-00002.bin","b":"pytorch_model-00001-of-00002.bin")");
  EXPECT_THAT(open_checkpoint(folder_.path())->names(), ElementsAre("a", "b"));
}

TEST_F(TorchShards, ADamagedShardIsNamed) {
  auto parts = shard_parts("b", {4, 5, 6, 7});
  parts[2].crc_error = 1;
  folder_.write(kSecond, zip_bytes(parts));
  auto reader = open_checkpoint(folder_.path());
  reader->verify_checksums(0, 2);
  EXPECT_THAT(error_of([&] { reader->verify_checksums(1, 2); }),
              HasSubstr(std::string(kSecond) + ": the checksum of tensor b (x/data/0) is wrong"));
  folder_.write(kSecond, "{}");
  EXPECT_THAT(error(), HasSubstr(std::string(kSecond) + ": not a file of torch.save"));
}

TEST_F(TorchShards, AMissingShardIsNamed) {
  fs::remove(folder_.path() + "/" + kSecond);
  EXPECT_THAT(error(), HasSubstr("the shard pytorch_model-00002-of-00002.bin is missing from the folder"));
}

TEST_F(TorchShards, ATensorThatItsShardLacksIsNamed) {
  write_index(R"("a":"pytorch_model-00001-of-00002.bin","c":"pytorch_model-00002-of-00002.bin")");
  EXPECT_THAT(error(), HasSubstr("tensor c should be in pytorch_model-00002-of-00002.bin, which doesn't hold it"));
  write_index(R"("a":"pytorch_model-00002-of-00002.bin","b":"pytorch_model-00001-of-00002.bin")");
  EXPECT_THAT(error(), HasSubstr("tensor a should be in pytorch_model-00002-of-00002.bin, which doesn't hold it"));
}

TEST_F(TorchShards, ATensorInTwoShardsIsRefused) {
  folder_.write(kSecond, zip_bytes(shard_parts("a", {4, 5, 6, 7})));
  write_index(R"("a":"pytorch_model-00001-of-00002.bin","a2":"pytorch_model-00002-of-00002.bin")");
  EXPECT_THAT(error(), HasSubstr("a2 should be in"));
  std::string both = pickle_of("}(" + pickled_text("a") + pickled_tensor({.shape = {4}, .strides = {1}}) +
                               pickled_text("b") + pickled_tensor({.shape = {4}, .strides = {1}}) + "u");
  folder_.write(kSecond, zip_bytes(torch_parts(both)));
  write_index(R"("a":"pytorch_model-00001-of-00002.bin","b":"pytorch_model-00002-of-00002.bin")");
  EXPECT_THAT(error(), HasSubstr("tensor a occurs twice"));
}

TEST_F(TorchShards, AnIndexCannotLeaveItsFolder) {
  write_index(R"("a":"../pytorch_model-00001-of-00002.bin")");
  EXPECT_THAT(error(), HasSubstr("expected a file name in the same folder"));
}

}  // namespace
}  // namespace weft
