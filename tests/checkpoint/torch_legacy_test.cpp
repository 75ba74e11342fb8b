// Files of torch.save in the format of before torch 1.6 (tests/data/checkpoint/make_torch_data.py wrote them with a
// newer torch), and such files written by hand that lie.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/reader.h"
#include "checkpoint/torch_files.h"

namespace weft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<float> read(const CheckpointReader& reader, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DType::f32);
  return values;
}

TEST(TorchLegacy, HoldsWhatTheArchiveOfTheSameTensorsHolds) {
  auto legacy = open_checkpoint(data_path("torch/legacy_kinds.pth"));
  auto archive = open_checkpoint(data_path("torch/kinds.pth"));
  EXPECT_EQ(legacy->format(), "torch");
  ASSERT_EQ(legacy->names(), archive->names());
  for (const std::string& name : archive->names()) {
    const TensorInfo &ours = legacy->info(name), &reference = archive->info(name);
    EXPECT_EQ(ours.shape, reference.shape) << name;
    EXPECT_EQ(ours.dtype, reference.dtype) << name;
    EXPECT_EQ(ours.storage_type, reference.storage_type) << name;
    EXPECT_EQ(ours.stored_bytes, reference.stored_bytes) << name;
    if (name == "i16") continue;  // of a type that isn't read
    EXPECT_EQ(read(*legacy, name), read(*archive, name)) << name;
  }
  EXPECT_THAT(error_of([&] { read(*legacy, "i16"); }), HasSubstr("tensor i16 is stored as I16, which Weft doesn't"));
  legacy->verify_checksums(0, 1);
}

TEST(TorchLegacy, AnyProtocolAndAStateDictInADictAreRead) {
  auto reader = open_checkpoint(data_path("torch/legacy_nested.pth"));
  EXPECT_THAT(reader->names(), ElementsAre("a", "b"));
  EXPECT_THAT(read(*reader, "b"), ElementsAre(1, 1.25f, 1.5f, 1.75f));
}

TEST(TorchLegacy, IsKnownByItsFirstBytes) {
  TempFolder folder;
  std::string bytes = read_bytes(data_path("torch/legacy.pth"));
  for (const char* name : {"pytorch_model.bin", "x"}) {
    auto reader = open_checkpoint(folder.write(name, bytes));
    EXPECT_THAT(read(*reader, "a"), ElementsAre(0, 0.25f, 0.5f, 0.75f)) << name;
  }
}

/// The parts of a file with one tensor, each of which may lie.
struct LegacyForm {
  std::string magic = "\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19";
  std::string version = "M\xe9\x03";
  std::string machine = pickled_dict("little_endian", "\x88");
  std::string state = {};
  std::string keys = "](" + pickled_text("0") + "e";
  std::string storages = ByteWriter().put<int64_t>(4).raw(bytes_of<float>({0, 1, 2, 3})).bytes();
};

struct LegacyTensor {
  std::string type = "FloatStorage";
  int64_t storage_elements = 4;
  std::string view = "N";
  std::string rebuild = "_rebuild_tensor_v2";
  std::string last = "\x89}";  // behind the strides
  int64_t elements = 4;
};

std::string state_of(const LegacyTensor& form) {
  return pickled_dict("a",
                      "ctorch._utils\n" + form.rebuild + "\n((" + pickled_text("storage") + "ctorch\n" + form.type +
                          "\n" + pickled_text("0") + pickled_text("cuda:0") + pickled_number(form.storage_elements) +
                          form.view + "tQ" + pickled_number(0) + pickled_numbers({form.elements}) +
                          pickled_numbers({1}) + form.last + "tR");
}

std::string legacy_bytes(const LegacyForm& form) {
  return pickle_of(form.magic) + pickle_of(form.version) + pickle_of(form.machine) +
         pickle_of(form.state.empty() ? state_of({}) : form.state) + pickle_of(form.keys) + form.storages;
}

TEST(TorchLegacy, PartsOfStoragesAndTheirTensorsOfBeforeTorch04AreRead) {
  TempFolder folder;
  auto reader = open_checkpoint(folder.write("x.pth", legacy_bytes({})));
  EXPECT_THAT(read(*reader, "a"), ElementsAre(0, 1, 2, 3));
  std::string view = "(" + pickled_text("9") + pickled_number(1) + pickled_number(2) + "t";
  std::string state = state_of({.view = view, .rebuild = "_rebuild_tensor", .last = "", .elements = 2});
  reader = open_checkpoint(folder.write("x.pth", legacy_bytes({.state = state})));
  EXPECT_THAT(read(*reader, "a"), ElementsAre(1, 2));
}

struct Case {
  const char* name;
  LegacyForm form;
  const char* message;
};

class HostileTorchLegacy : public testing::TestWithParam<Case> {};

TEST_P(HostileTorchLegacy, IsRefusedWithALineThatSaysWhy) {
  TempFolder folder;
  std::string path = folder.write("x.pth", legacy_bytes(GetParam().form));
  std::string error = error_of([&] { open_checkpoint(path); });
  EXPECT_EQ(error.find(path + ": "), 0u) << error;
  EXPECT_THAT(error, HasSubstr(GetParam().message));
}

std::string view_of(int64_t begin, int64_t size) {
  return "(" + pickled_text("9") + pickled_number(begin) + pickled_number(size) + "t";
}

std::vector<Case> cases() {
  constexpr int64_t huge = int64_t{1} << 61;
  std::string text_of_a_gigabyte = ByteWriter().raw("X").put<uint32_t>(1 << 30).bytes();
  auto storage_of = [](int64_t count, size_t bytes) {
    return ByteWriter().put(count).raw(std::string(bytes, 'x')).bytes();
  };
  return {
      {"OtherMagic", {.magic = "K\x01"}, "a pickle, but not of torch.save"},
      {"OtherVersion", {.version = "M\xe8\x03"}, "is not of version 1001"},
      {"VersionThatIsNoNumber", {.version = "]"}, "is not of version 1001"},
      {"BigEndian", {.machine = pickled_dict("little_endian", "\x89")}, "big-endian"},
      {"NoByteOrder", {.machine = "}"}, "has no byte order"},
      {"MachineWithCode", {.machine = "cposix\nsystem\n"}, "holds a Python object (posix.system)"},
      {"Code", {.state = "cbuiltins\nexec\n(" + pickled_text("1") + "tR"}, "(builtins.exec), not plain tensors"},
      {"KeysWithCode", {.keys = "cbuiltins\nexec\n"}, "(builtins.exec), not plain tensors"},
      {"Module", {.state = "i" + std::string("posix\nsystem\n")}, "pickle of tensors holds opcode 0x69 at byte 2"},
      {"LongText", {.state = text_of_a_gigabyte}, "has a text of 1073741824 bytes"},
      {"TextOutside", {.state = ByteWriter().raw("X").put<uint32_t>(1 << 20).bytes()}, "damaged or truncated"},
      {"NameWithoutEnd", {.state = "c" + std::string(2000, 'x')}, "holds a name without an end"},
      {"NoKeys", {.keys = "]"}, "goes on after its last storage"},
      {"KeysThatAreNoList", {.keys = "}"}, "goes on after its last storage"},
      {"NoStorage", {.keys = "]", .storages = ""}, "tensor a lies in storage 0, which the file lacks"},
      {"OtherKey", {.keys = "](" + pickled_text("1") + "e"}, "storage 1 is there twice or of no tensor"},
      {"KeyTwice", {.keys = "](" + pickled_text("0") + pickled_text("0") + "e"}, "storage 0 is there twice"},
      {"KeyInAnotherList", {.keys = "]](" + pickled_text("0") + "ea"}, "storage 0 is there twice or of no tensor"},
      {"OtherCount", {.storages = storage_of(5, 20)}, "storage 0 of 4 elements of F32 should be at byte"},
      {"NegativeCount", {.storages = storage_of(-4, 16)}, "there are -4 elements"},
      {"ShortStorage", {.storages = storage_of(4, 15)}, "damaged or truncated"},
      {"LongStorage", {.storages = storage_of(4, 17)}, "goes on after its last storage"},
      {"HugeStorage", {.state = state_of({.storage_elements = huge}), .storages = storage_of(huge, 16)}, "truncated"},
      {"NegativeStorage", {.state = state_of({.storage_elements = -4}), .storages = storage_of(-4, 16)}, "truncated"},
      {"OtherType", {.state = state_of({.type = "DoubleStorage"})}, "storage 0 of 4 elements of F64"},
      {"ViewOutside", {.state = state_of({.view = view_of(2, 3)})}, "part of a storage that does not lie in it"},
      {"NegativeView", {.state = state_of({.view = view_of(-1, 2)})}, "part of a storage that does not lie in it"},
      {"OutsideTheView",
       {.state = state_of({.view = view_of(1, 2)})},
       "tensor a has 4 elements at 0 of a storage of 2"},
      {"ViewOfNothing", {.state = state_of({.view = ")"})}, "part of a storage that does not lie in it"},
      {"OldTensorWithMore", {.state = state_of({.rebuild = "_rebuild_tensor"})}, "another form than torch.save"},
  };
}

INSTANTIATE_TEST_SUITE_P(Forms, HostileTorchLegacy, testing::ValuesIn(cases()), [](const auto& parameter) {
  return parameter.param.name;
});

TEST(HostileTorchLegacyFiles, AStorageOfTwoTypesIsRefused) {
  TempFolder folder;
  auto tensor = [](std::string_view name, const std::string& type) {
    std::string dict = state_of({.type = type});
    return pickled_text(name) + dict.substr(1 + pickled_text("a").size(), dict.size() - 2 - pickled_text("a").size());
  };
  std::string state = "}(" + tensor("a", "FloatStorage") + tensor("b", "IntStorage") + "u";
  std::string path = folder.write("x.pth", legacy_bytes({.state = state}));
  EXPECT_THAT(error_of([&] { open_checkpoint(path); }), HasSubstr("storage 0 has two sizes or types"));
}

TEST(HostileTorchLegacyFiles, AnotherProgramsPickleIsRefused) {
  TempFolder folder;
  std::string path = folder.write("x.pth", pickle_of("}"));
  EXPECT_THAT(error_of([&] { open_checkpoint(path); }), HasSubstr("a pickle, but not of torch.save"));
}

}  // namespace
}  // namespace weft
