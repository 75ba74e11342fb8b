// PyTorch checkpoints as torch.save wrote them (tests/data/checkpoint/make_torch_data.py).
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "checkpoint/reader.h"
#include "checkpoint/torch_files.h"
#include "support/paths.h"

namespace weft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::unique_ptr<CheckpointReader> open_file(const std::string& name) {
  return open_checkpoint(data_path("torch/" + name + ".pth"));
}

std::vector<float> read(const CheckpointReader& reader, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DType::f32);
  return values;
}

/// The values that make_torch_data.py gives a tensor: start, start + 1/4, …
std::vector<float> quarters(float start, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = start + static_cast<float>(i) / 4;
  return values;
}

TEST(TorchArchive, HoldsTensorsOfEveryType) {
  auto reader = open_file("kinds");
  EXPECT_EQ(reader->format(), "torch");
  EXPECT_EQ(reader->names().size(), 15u);
  EXPECT_EQ(read(*reader, "f32"), quarters(-3, 15));
  EXPECT_EQ(read(*reader, "f16"), quarters(1, 12));
  EXPECT_EQ(read(*reader, "bf16"), quarters(2, 7));
  EXPECT_EQ(read(*reader, "f64"), quarters(-1, 4));
  EXPECT_THAT(read(*reader, "scalar"), ElementsAre(7.5f));
  EXPECT_EQ(reader->info("scalar").shape, Shape());
  EXPECT_EQ(reader->info("f16").shape, Shape({2, 3, 2}));
  EXPECT_EQ(reader->info("bf16").storage_type, "BF16");
  EXPECT_EQ(reader->info("bf16").dtype, DType::bf16);
  EXPECT_EQ(reader->info("bf16").stored_bytes, 14);
  EXPECT_EQ(reader->info("empty").shape, Shape({0, 3}));
  EXPECT_TRUE(read(*reader, "empty").empty());
  reader->verify_checksums(0, 1);
}

TEST(TorchArchive, SaysWhatIntegersItHolds) {
  auto reader = open_file("kinds");
  EXPECT_EQ(reader->info("i64").dtype, DType::i64);
  EXPECT_EQ(reader->info("i64").stored_bytes, 40);
  EXPECT_EQ(reader->info("i32").dtype, DType::i32);
  EXPECT_EQ(reader->info("u8").dtype, DType::u8);
  EXPECT_EQ(reader->info("bool").storage_type, "BOOL");
  EXPECT_THAT(error_of([&] { read(*reader, "i16"); }), HasSubstr("tensor i16 is stored as I16, which Weft doesn't"));
  auto complex = open_file("complex");
  EXPECT_THAT(error_of([&] { read(*complex, "a"); }), HasSubstr("tensor a is stored as C64, which Weft doesn't"));
}

TEST(TorchArchive, TensorsThatShareAStorageBeginAtTheirOffsets) {
  auto reader = open_file("kinds");
  EXPECT_EQ(read(*reader, "base"), quarters(100, 24));
  EXPECT_EQ(read(*reader, "rows"), quarters(102, 12));
  EXPECT_EQ(reader->info("rows").shape, Shape({3, 4}));
  EXPECT_EQ(read(*reader, "row"), quarters(103, 4));
  EXPECT_EQ(read(*reader, "column_of_one"), quarters(101, 1));
}

TEST(TorchArchive, ReadsOnlyTheBytesOfASlice) {
  auto reader = open_file("kinds");
  int64_t before = reader->bytes_read();
  std::vector<int64_t> begin = {1, 2}, end = {3, 4};
  std::vector<double> values(4);
  reader->read_slice("rows", begin, end, values.data(), DType::f64);
  EXPECT_THAT(values, ElementsAre(103.5, 103.75, 104.5, 104.75));
  EXPECT_EQ(reader->bytes_read() - before, 16);
}

TEST(TorchArchive, HoldsTheStateDictOfAModuleWithItsVersions) {
  auto reader = open_file("module");
  EXPECT_THAT(reader->names(), ElementsAre("bias", "weight"));
  EXPECT_EQ(read(*reader, "weight"), quarters(0, 6));
  EXPECT_EQ(read(*reader, "bias"), quarters(5, 2));
}

TEST(TorchArchive, ParametersAreTensorsAndOtherValuesArePassedOver) {
  auto reader = open_file("parameters");
  EXPECT_THAT(reader->names(), ElementsAre("a"));
  EXPECT_EQ(read(*reader, "a"), quarters(0, 4));
}

TEST(TorchArchive, TakesTheOnlyDictOfTensors) {
  auto reader = open_file("nested");
  EXPECT_THAT(reader->names(), ElementsAre("a", "b"));
  EXPECT_EQ(read(*reader, "b"), quarters(1, 4));
}

TEST(TorchArchive, HoldsWhatTheSafetensorsOfTheSameModelHold) {
  std::string folder = test_data() + "/hf/rwkv6";
  auto reader = open_checkpoint(folder + "/rwkv6.pth"), reference = open_checkpoint(folder + "/model.safetensors");
  EXPECT_EQ(reader->format(), "torch");
  ASSERT_EQ(reader->names().size(), 90u);
  ASSERT_EQ(reader->names(), reference->names());
  for (const std::string& name : reader->names()) {
    EXPECT_EQ(reader->info(name).shape, reference->info(name).shape) << name;
    EXPECT_EQ(read(*reader, name), read(*reference, name)) << name;
  }
  reader->verify_checksums(0, 2);
  reader->verify_checksums(1, 2);
}

TEST(TorchArchive, AFolderWithOneAndNothingElseIsOpened) {
  TempFolder folder;
  std::string bytes = read_bytes(data_path("torch/module.pth"));
  folder.write("config.json", "{}");
  folder.write("model.pth", bytes);
  EXPECT_EQ(open_checkpoint(folder.path())->format(), "torch");
  folder.write("other.pth", bytes);
  EXPECT_THAT(error_of([&] { open_checkpoint(folder.path()); }), HasSubstr("holds several checkpoints"));
  folder.write("model.safetensors", read_bytes(test_data() + "/hf/rwkv6/model.safetensors"));
  EXPECT_EQ(open_checkpoint(folder.path())->format(), "safetensors");
}

TEST(TorchArchive, IsKnownByItsFirstBytesToo) {
  TempFolder folder;
  std::string bytes = read_bytes(data_path("torch/module.pth"));
  for (const char* name : {"x.pt", "pytorch_model.bin", "x.ckpt", "x"}) {
    EXPECT_EQ(open_checkpoint(folder.write(name, bytes))->format(), "torch") << name;
  }
  for (const char* name : {"x.pth", "x.pt", "x.bin"}) {
    EXPECT_THAT(error_of([&] { open_checkpoint(folder.write(name, "{}")); }), HasSubstr("begin with PK")) << name;
  }
}

TEST(TorchArchive, AStorageThatDoesNotFitItsChecksumIsFound) {
  TempFolder folder;
  auto parts = torch_parts(pickle_of(pickled_dict("a", pickled_tensor({.shape = {4}, .strides = {1}}))));
  open_checkpoint(folder.write("x.pth", zip_bytes(parts)))->verify_checksums(0, 1);
  parts[2].crc_error = 1;
  auto reader = open_checkpoint(folder.write("x.pth", zip_bytes(parts)));
  EXPECT_THAT(read(*reader, "a"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(error_of([&] { reader->verify_checksums(0, 1); }), HasSubstr("checksum of tensor a (x/data/0) is wrong"));
}

TEST(TorchArchive, ChecksumsThatWereNotTakenAreNotCompared) {
  auto reader = open_file("unchecked");
  EXPECT_EQ(read(*reader, "b"), quarters(1, 4));
  reader->verify_checksums(0, 1);
}

/// Writes `bytes` at `position` of a file, which may leave a hole before them.
void write_at(const std::string& path, int64_t position, const std::string& bytes) {
  int descriptor = ::open(path.c_str(), O_WRONLY);
  ASSERT_EQ(::pwrite(descriptor, bytes.data(), bytes.size(), position), static_cast<ssize_t>(bytes.size()));
  ::close(descriptor);
}

TEST(TorchArchive, StoragesBehindFourGigabytesAreRead) {
  constexpr int64_t hole = int64_t{5} << 30;
  auto record = [](std::string_view name, std::string_view bytes) {
    ByteWriter local;
    local.put<uint32_t>(0x04034b50).put<uint16_t>(0).put<uint16_t>(0x0808).put<uint64_t>(0).put<uint64_t>(0);
    return local.put<uint16_t>(0).put(static_cast<uint16_t>(name.size())).put<uint16_t>(0).raw(name).raw(bytes).bytes();
  };
  PickledForm large{.shape = {hole / 4}, .strides = {1}, .storage_elements = hole / 4};
  PickledForm small{.shape = {2}, .strides = {1}, .storage_elements = 2, .storage = "1"};
  std::string pickle = pickle_of("}(" + pickled_text("large") + pickled_tensor(large) + pickled_text("small") +
                                 pickled_tensor(small) + "u");
  std::string small_bytes = bytes_of<float>({8, 9});
  std::string head = record("x/data/0", ""), middle = record("x/data/1", small_bytes);
  int64_t second = static_cast<int64_t>(head.size()) + hole, third = second + static_cast<int64_t>(middle.size());
  auto entry = [](std::string_view name, int64_t size, int64_t offset) {
    ByteWriter bytes;
    bytes.put<uint32_t>(0x02014b50).put<uint32_t>(0).put<uint16_t>(0x0808).put<uint16_t>(0).put<uint64_t>(0);
    bytes.put<uint64_t>(~uint64_t{0}).put(static_cast<uint16_t>(name.size())).put<uint16_t>(28 + 6).put<uint64_t>(0);
    bytes.put<uint16_t>(0).put<uint32_t>(~uint32_t{0}).raw(name);
    bytes.put<uint16_t>(0x4246).put<uint16_t>(2).put<uint16_t>(0).put<uint16_t>(1).put<uint16_t>(24);
    return bytes.put(size).put(size).put(offset).bytes();
  };
  std::string directory = entry("x/data/0", hole, 0) + entry("x/data/1", 8, second) +
                          entry("x/data.pkl", static_cast<int64_t>(pickle.size()), third);
  std::string last = record("x/data.pkl", pickle);
  uint64_t begin = static_cast<uint64_t>(third) + last.size();
  std::string end = zip_end64({begin + directory.size(), 3, directory.size(), begin}) +
                    ByteWriter().put<uint32_t>(0x06054b50).put<uint32_t>(0).put<uint64_t>(~uint64_t{0}).bytes() +
                    ByteWriter().put<uint32_t>(~uint32_t{0}).put<uint16_t>(0).bytes();
  TempFolder folder;
  std::string path = folder.write("x.pth", head);
  write_at(path, second, middle + last + directory + end);
  write_at(path, second - 4, bytes_of<float>({5}));
  auto reader = open_checkpoint(path);
  EXPECT_THAT(read(*reader, "small"), ElementsAre(8, 9));
  std::vector<int64_t> from = {hole / 4 - 2}, to = {hole / 4};
  std::vector<float> values(2);
  reader->read_slice("large", from, to, values.data(), DType::f32);
  EXPECT_THAT(values, ElementsAre(0, 5));
}

}  // namespace
}  // namespace weft
