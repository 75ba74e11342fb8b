#include "checkpoint/gguf.h"

#include <gtest/gtest.h>

#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

constexpr uint32_t kU8 = 0, kU32 = 4, kBool = 7, kString = 8, kArray = 9, kU64 = 10;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

ByteWriter header(uint64_t num_tensors, uint64_t num_values) {
  return ByteWriter().raw("GGUF").put<uint32_t>(3).put(num_tensors).put(num_values);
}

// One tensor w of the given type and dimensions (fastest first), with `data` after it.
std::string one_tensor(uint32_t type, const std::vector<uint64_t>& dims, uint64_t offset, const std::string& data) {
  ByteWriter file = header(1, 0);
  file.text("w").put(static_cast<uint32_t>(dims.size()));
  for (uint64_t dim : dims) file.put(dim);
  return file.put(type).put(offset).pad(32).raw(data).bytes();
}

class Gguf : public testing::Test {
 protected:
  std::string open_error(const std::string& bytes) {
    std::string path = folder_.write("x.gguf", bytes);
    return error_of([&] { open_gguf(path); });
  }

  TempFolder folder_;
};

TEST(GgufMetadataTest, HasEveryTypeOfValue) {
  auto metadata = read_gguf_metadata(data_path("quantised.gguf"));
  EXPECT_EQ(metadata->get_int("test.u8"), 200);
  EXPECT_EQ(metadata->get_int("test.i8"), -5);
  EXPECT_EQ(metadata->get_int("test.u16"), 60000);
  EXPECT_EQ(metadata->get_int("test.i16"), -300);
  EXPECT_EQ(metadata->get_int("test.u32"), 4000000000);
  EXPECT_EQ(metadata->get_int("test.i32"), -70000);
  EXPECT_EQ(metadata->get_int("test.u64"), int64_t{1} << 40);
  EXPECT_EQ(metadata->get_int("test.i64"), -(int64_t{1} << 40));
  EXPECT_EQ(metadata->get_float("test.f32"), 0.5);
  EXPECT_EQ(metadata->get_float("test.f64"), 0.1);
  EXPECT_EQ(metadata->get_float("test.u8"), 200.0);
  EXPECT_EQ(metadata->get_bool("test.bool"), true);
  EXPECT_EQ(metadata->get_string("test.string"), "grüße");
  ASSERT_NE(metadata->get_strings("test.strings"), nullptr);
  EXPECT_EQ(*metadata->get_strings("test.strings"), (std::vector<std::string>{"a", "", "ccc"}));
  EXPECT_EQ(*metadata->find("test.ints"), GgufValue(std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(*metadata->find("test.floats"), GgufValue(std::vector<double>{0.25, -4.0}));
  EXPECT_EQ(*metadata->find("test.bools"), GgufValue(std::vector<bool>{true, false, true}));
}

TEST(GgufMetadataTest, AbsentIsNothingAndAWrongTypeIsAnError) {
  auto metadata = read_gguf_metadata(data_path("quantised.gguf"));
  EXPECT_EQ(metadata->get_int("nothing"), std::nullopt);
  EXPECT_EQ(metadata->get_strings("nothing"), nullptr);
  EXPECT_TRUE(contains(error_of([&] { metadata->get_int("test.string"); }), "test.string is not an integer"));
  EXPECT_TRUE(contains(error_of([&] { metadata->get_strings("test.ints"); }), "test.ints is not an array of strings"));
}

TEST_F(Gguf, ShapesAreListedOutermostFirst) {
  auto reader = open_gguf(data_path("quantised.gguf"));
  EXPECT_EQ(reader->info("plain.cube").shape, Shape({2, 3, 4, 5}));
  EXPECT_EQ(reader->info("real.Q8_0").shape, Shape({3, 512}));
  EXPECT_EQ(reader->info("real.Q8_0").stored_bytes, 3 * 512 / 32 * 34);
  EXPECT_EQ(reader->info("real.Q8_0").dtype, DType::f32);
  EXPECT_EQ(reader->info("plain.bf16").dtype, DType::bf16);
}

TEST_F(Gguf, AnUnreadableTypeIsNamedWithItsTensor) {
  EXPECT_TRUE(contains(open_error(one_tensor(10, {256}, 0, std::string(84, 'x'))), "tensor w is of type Q2_K"));
  EXPECT_TRUE(
      contains(open_error(one_tensor(12345, {256}, 0, std::string(84, 'x'))), "tensor w is of type number 12345"));
}

TEST_F(Gguf, TensorsThatDoNotFitTheFileAreRefused) {
  EXPECT_NO_THROW(open_gguf(folder_.write("good.gguf", one_tensor(0, {4}, 0, std::string(16, 'x')))));
  EXPECT_TRUE(contains(open_error(one_tensor(0, {4}, 0, std::string(15, 'x'))), "truncated"));
  open_error(one_tensor(0, {4}, 7, std::string(64, 'x')));
  open_error(one_tensor(0, {4}, 1 << 20, std::string(16, 'x')));
  open_error(one_tensor(0, {4}, ~uint64_t{31}, std::string(16, 'x')));
  open_error(one_tensor(0, {4}, (uint64_t{1} << 63) - 32, std::string(16, 'x')));
  open_error(one_tensor(0, {uint64_t{1} << 62}, 0, std::string(16, 'x')));
  open_error(one_tensor(0, {uint64_t{1} << 32, uint64_t{1} << 32, 1}, 0, std::string(16, 'x')));
  open_error(one_tensor(0, {~uint64_t{0}}, 0, std::string(16, 'x')));
  open_error(one_tensor(0, {0}, 0, std::string(16, 'x')));
  open_error(one_tensor(0, {1, 1, 1, 1, 1}, 0, std::string(16, 'x')));
  EXPECT_TRUE(contains(open_error(one_tensor(8, {33}, 0, std::string(68, 'x'))), "rows of"));
}

TEST_F(Gguf, MetadataThatLiesIsRefused) {
  EXPECT_TRUE(contains(open_error(header(0, ~uint64_t{0}).bytes()), "metadata values"));
  EXPECT_TRUE(contains(open_error(header(~uint64_t{0}, 0).bytes()), "tensors"));
  EXPECT_TRUE(contains(open_error(header(0, 1).put(~uint64_t{0}).raw("key and more").bytes()), "metadata key"));
  EXPECT_TRUE(contains(open_error(header(0, 1).text("k").put(kString).put(uint64_t{1} << 60).bytes()), "says it has"));
  auto array = [](uint32_t type, uint64_t count) { return header(0, 1).text("k").put(kArray).put(type).put(count); };
  EXPECT_TRUE(contains(open_error(array(kString, uint64_t{1} << 60).bytes()), "metadata array k"));
  std::string many = array(kU8, 9 << 20).raw(std::string(9 << 20, 'x')).bytes();
  EXPECT_TRUE(contains(open_error(many), "at most 8388608"));
  EXPECT_TRUE(contains(open_error(array(kArray, 1).put(kU32).put<uint64_t>(0).bytes()), "array of arrays"));
  EXPECT_TRUE(contains(open_error(array(99, 1).pad(64).bytes()), "unknown type 99"));
  EXPECT_TRUE(contains(open_error(header(0, 1).text("k").put<uint32_t>(99).pad(64).bytes()), "unknown type 99"));
  EXPECT_TRUE(contains(open_error(header(0, 1).text("k").put(kBool).put<uint8_t>(2).bytes()), "boolean"));
  EXPECT_TRUE(contains(open_error(header(0, 1).text("k").put(kU64).put(~uint64_t{0}).bytes()), "above the largest"));
  EXPECT_TRUE(contains(open_error(header(0, 2).text("k").put(kU32).put(1u).text("k").put(kU32).put(1u).bytes()),
                       "k occurs twice"));
}

TEST_F(Gguf, APartOfASplitFileIsRefused) {
  std::string bytes = header(0, 1).text("split.count").put(kU32).put(3u).bytes();
  EXPECT_TRUE(contains(open_error(bytes), "one of 3 parts"));
}

TEST_F(Gguf, StrangeVersionsAndAlignmentsAreRefused) {
  EXPECT_TRUE(contains(open_error(ByteWriter().raw("GGUF").put<uint32_t>(1).pad(64).bytes()), "version 1"));
  EXPECT_TRUE(contains(open_error(ByteWriter().raw("GGUF").put<uint32_t>(3u << 24).pad(64).bytes()), "big-endian"));
  for (uint32_t alignment : {0u, 3u, 1u << 31}) {
    std::string bytes = header(0, 1).text("general.alignment").put(kU32).put(alignment).bytes();
    EXPECT_TRUE(contains(open_error(bytes), "general.alignment")) << alignment;
  }
}

}  // namespace
}  // namespace weft
