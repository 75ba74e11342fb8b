#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  std::string open_error(const std::string& header, const std::string& data) {
    std::string path = folder_.write("x.safetensors", safetensors_bytes(header, data));
    return error_of([&] { open_checkpoint(path); });
  }

  std::string copy_sharded() {
    fs::copy(data_path("hf-gemma2-bf16-sharded"), folder_.path() + "/model");
    return folder_.path() + "/model";
  }

  TempFolder folder_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(Safetensors, ReadsEveryDtypeAndAScalar) {
  std::string header = R"({"__metadata__":{"format":"pt"},
    "half":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},
    "bf16":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},
    "bool":{"dtype":"BOOL","shape":[2],"data_offsets":[6,8]},
    "i64":{"dtype":"I64","shape":[],"data_offsets":[8,16]},
    "none":{"dtype":"F32","shape":[0,7],"data_offsets":[16,16]}}  )";
  std::string data = ByteWriter()
                         .put<uint16_t>(0x3c00)
                         .put<uint16_t>(0xc000)
                         .put<uint16_t>(0x4040)
                         .put<uint16_t>(0x0100)
                         .put<int64_t>(-9)
                         .bytes();
  auto reader = open_checkpoint(folder_.write("x.safetensors", safetensors_bytes(header, data)));
  EXPECT_EQ(reader->names(), (std::vector<std::string>{"bf16", "bool", "half", "i64", "none"}));
  EXPECT_EQ(reader->info("half").storage_type, "F16");
  EXPECT_EQ(reader->info("i64").dtype, DType::i64);
  float values[2];
  reader->read("half", values, DType::f32);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -2.0f);
  reader->read("bf16", values, DType::f32);
  EXPECT_EQ(values[0], 3.0f);
  reader->read("bool", values, DType::f32);
  EXPECT_EQ(values[0], 0.0f);
  EXPECT_EQ(values[1], 1.0f);
  reader->read("i64", values, DType::f32);
  EXPECT_EQ(values[0], -9.0f);
  reader->read("none", nullptr, DType::f32);
}

TEST_F(Safetensors, ATensorOfAnUnknownDtypeFailsOnlyWhenItIsRead) {
  std::string header = R"({"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}})";
  auto reader = open_checkpoint(folder_.write("x.safetensors", safetensors_bytes(header, "ab")));
  EXPECT_EQ(reader->info("w").storage_type, "F8_E4M3");
  float values[2];
  std::string error = error_of([&] { reader->read("w", values, DType::f32); });
  EXPECT_TRUE(contains(error, "tensor w is stored as F8_E4M3")) << error;
}

TEST_F(Safetensors, OffsetsThatDoNotFitAreRefused) {
  EXPECT_TRUE(contains(open_error(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "ab"), "truncated"));
  EXPECT_TRUE(contains(open_error(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "abcd"), "[2] of F32"));
  open_error(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}})", "abcd");
  open_error(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775807,9223372036854775807]}})", "abcd");
  open_error(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]}})", "abcd");
  open_error(R"({"w":{"dtype":"F64","shape":[4294967296,4294967296,2],"data_offsets":[0,4]}})", "abcd");
  open_error(R"({"w":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", "abcd");
  open_error(R"({"w":{"dtype":"F8","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", "abcd");
  open_error(R"({"w":{"dtype":"U8","shape":[-1],"data_offsets":[0,4]}})", "abcd");
  open_error(R"({"w":{"dtype":"U8","shape":[1.5],"data_offsets":[0,4]}})", "abcd");
  open_error(R"({"w":{"dtype":"U8","shape":[1,1,1,1,1,1,1],"data_offsets":[0,1]}})", "abcd");
}

TEST_F(Safetensors, SharedBytesAndDoubleNamesAreRefused) {
  std::string overlap =
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})";
  EXPECT_TRUE(contains(open_error(overlap, "abcd"), "b shares bytes"));
  std::string twice =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})";
  EXPECT_TRUE(contains(open_error(twice, "abcd"), "a occurs twice"));
}

TEST_F(Safetensors, MalformedHeadersAreRefused) {
  for (const char* header : {"",
                             "[]",
                             "{",
                             R"({"w":[]})",
                             R"({"w":{}})",
                             R"({"w":3})",
                             R"({"w":{"dtype":"U8","shape":[1]}})",
                             R"({"w":{"dtype":"U8","data_offsets":[0,1]}})",
                             R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0]}})",
                             R"({"w":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})",
                             R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}} x)",
                             R"({"w":{"dtype":"U8","shape":{"a":{"b":1}},"data_offsets":[0,1]}})"}) {
    open_error(header, "a");
  }
}

TEST_F(Safetensors, AHeaderLongerThanTheFileIsRefused) {
  for (uint64_t length : {uint64_t{3}, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string path = folder_.write("x.safetensors", ByteWriter().put(length).raw("{}").bytes());
    EXPECT_TRUE(contains(error_of([&] { open_checkpoint(path); }), "header")) << length;
  }
}

TEST_F(Safetensors, AMissingShardIsNamed) {
  std::string model = copy_sharded();
  fs::remove(model + "/model-00002-of-00004.safetensors");
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(model); }), "model-00002-of-00004.safetensors is missing"));
}

TEST_F(Safetensors, AShardNameThatNoFileCanHaveIsMissing) {
  std::string name(300, 'a');
  folder_.write("model.safetensors.index.json", R"({"weight_map":{"w":")" + name + R"("}})");
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(folder_.path()); }), "is missing"));
}

TEST_F(Safetensors, AnIndexCannotLeaveItsFolderOrNameATensorThatIsNotThere) {
  std::string data = safetensors_bytes(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a");
  folder_.write("outside.safetensors", data);
  fs::create_directory(folder_.path() + "/model");
  folder_.write("model/a.safetensors", data);
  auto index_error = [&](const std::string& index) {
    folder_.write("model/model.safetensors.index.json", index);
    return error_of([&] { open_checkpoint(folder_.path() + "/model"); });
  };
  EXPECT_TRUE(contains(index_error(R"({"weight_map":{"w":"../outside.safetensors"}})"), "same folder"));
  EXPECT_TRUE(contains(index_error(R"({"weight_map":{"w":""}})"), "same folder"));
  EXPECT_TRUE(contains(index_error(R"({"weight_map":{"w":".."}})"), "same folder"));
  EXPECT_TRUE(contains(index_error(R"({"weight_map":{"v":"a.safetensors"}})"), "v should be in a.safetensors"));
  EXPECT_TRUE(contains(index_error(R"({"weight_map":{"w":"a.safetensors","w":"a.safetensors"}})"), "twice"));
  index_error(R"({"weight_map":{"w":3}})");
  index_error(R"({"weight_map":{"w":{"x":"a.safetensors"}}})");
  index_error(R"({"metadata":{}})");
  index_error("[");
  index_error(std::string(100000, '['));
}

TEST_F(Safetensors, ATensorInTwoShardsIsRefused) {
  std::string data = safetensors_bytes(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a");
  std::string other = safetensors_bytes(
      R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"v":{"dtype":"U8","shape":[],"data_offsets":[1,2]}})",
      "ab");
  folder_.write("a.safetensors", data);
  folder_.write("b.safetensors", other);
  folder_.write("model.safetensors.index.json", R"({"weight_map":{"w":"a.safetensors","v":"b.safetensors"}})");
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(folder_.path()); }), "w occurs twice"));
}

TEST_F(Safetensors, ADamagedShardIsNamedAndNoneIsReadOnOpening) {
  std::string model = copy_sharded();
  EXPECT_EQ(open_checkpoint(model)->bytes_read(), 0);
  std::string shard = model + "/model-00003-of-00004.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 1);
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(model); }), "model-00003-of-00004.safetensors: tensor"));
}

TEST_F(Safetensors, AFolderWithoutACheckpointSaysWhatItLookedFor) {
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(folder_.path()); }), "model.safetensors.index.json"));
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(folder_.path() + "/nothing"); }), "no such checkpoint"));
  folder_.write("empty.gguf", "");
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(folder_.path()); }), "not a GGUF file"));
}

}  // namespace
}  // namespace weft
