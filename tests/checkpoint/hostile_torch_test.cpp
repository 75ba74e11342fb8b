// PyTorch checkpoints that are damaged, lie, or hold code: one clear line each, and never worse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "checkpoint/reader.h"
#include "checkpoint/torch_files.h"

namespace weft {
namespace {

using testing::HasSubstr;

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

struct Case {
  const char* name;
  std::string bytes;
  const char* message;
};

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

class HostileTorchFile : public testing::TestWithParam<Case> {};

TEST_P(HostileTorchFile, IsRefusedWithALineThatSaysWhy) {
  TempFolder folder;
  int64_t before = peak_resident_bytes();
  std::string path = folder.write("x.pth", GetParam().bytes);
  std::string error = error_of([&] { open_checkpoint(path); });
  EXPECT_EQ(error.find(path + ": "), 0u) << error;
  EXPECT_THAT(error, HasSubstr(GetParam().message));
  EXPECT_LT(peak_resident_bytes() - before, int64_t{300} << 20);
}

Case saved(const char* name, const char* message) {
  return {name, read_bytes(data_path(std::string("torch/") + name + ".pth")), message};
}

std::vector<Case> saved_cases() {
  return {
      saved("hostile", "holds a Python object (posix.system), not plain tensors, at byte "),
      saved("evaluation", "holds a Python object (builtins.eval), not plain tensors, at byte "),
      saved("module_itself", "holds a Python object (torch.nn.modules.linear.Linear), not plain tensors"),
      saved("float8", "holds a tensor of a type that Weft doesn't read"),
      saved("conjugate", "another form than torch.save writes"),
      saved("transposed", "tensor turned is not contiguous: shape [2, 3], strides [1, 2]; save its .contiguous()"),
      saved("every_second", "tensor a is not contiguous: shape [4], strides [2]"),
      saved("several", "holds several dicts of tensors (model, average)"),
      saved("beside", "holds several dicts of tensors (the outermost, model)"),
      saved("tensor_itself", "holds one tensor without a name"),
      saved("list", "holds no dict of tensors"),
      saved("numbers", "holds no tensors"),
      saved("seven_dimensions", "tensor a has 7 dimensions, Weft reads up to 6"),
  };
}

std::string good_pickle() {
  return pickle_of(pickled_dict("a", pickled_tensor({.shape = {4}, .strides = {1}})));
}

std::vector<ZipPart> good_parts() {
  return torch_parts(good_pickle());
}

/// The archive with one of its parts changed: 0 data.pkl, 1 byteorder, 2 data/0, 3 version.
template <typename Change>
std::string changed(size_t part, Change change) {
  std::vector<ZipPart> parts = good_parts();
  change(parts[part]);
  return zip_bytes(parts);
}

std::string without(size_t part) {
  std::vector<ZipPart> parts = good_parts();
  parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(part));
  return zip_bytes(parts);
}

std::string with(const ZipPart& part) {
  std::vector<ZipPart> parts = good_parts();
  parts.push_back(part);
  return zip_bytes(parts);
}

/// Says that it has one record more than it has, in a directory that has the room.
std::string long_directory() {
  std::vector<ZipPart> parts = good_parts();
  parts[3].extra = std::string(100, '\0');
  return zip_bytes(parts, {.num_records = 5});
}

std::string with_end(const ZipEnd& end) {
  return zip_bytes(good_parts(), end);
}

std::string with_end64(const ZipEnd64& end) {
  return with_end({.behind_directory = zip_end64(end)});
}

std::vector<Case> archive_cases() {
  return {
      {"Empty", "", "begin with PK"},
      {"OnlyTheMagic", "PK\x03\x04", "4 bytes are no zip archive"},
      {"NoEnd", "PK\x03\x04" + std::string(100, ' '), "does not end as"},
      {"Comment", with_end({.comment = "hello"}), "does not end as"},
      {"ManyRecords", with_end({.num_records = 65535}), "has 65535 entries"},
      {"OneRecordMore", with_end({.num_records = 5}), "222 bytes has 5 entries"},
      {"DirectoryTooShort", long_directory(), "entry 4 cannot be read"},
      {"OneRecordLess", with_end({.num_records = 3}), "something behind its entries"},
      {"HugeDirectory", with_end({.size = 0x7FFFFFFF}), "directory that is not before its end"},
      {"DirectoryElsewhere", with_end({.offset = 3}), "directory that is not before its end"},
      {"DirectoryOutside", with_end({.offset = 0xFFFFFFFF}), "directory that is not before its end"},
      {"SomethingBehindTheDirectory", with_end({.behind_directory = "x"}), "directory that is not before its end"},
      {"End64Elsewhere", with_end64({.position = 5}), "no 64-bit end where it says"},
      {"End64Disagrees",
       with_end64({.position = zip_bytes(good_parts()).size() - 22, .num_records = uint64_t{1} << 60}),
       "two ends that disagree"},
      {"Compressed", changed(2, [](ZipPart& part) { part.method = 8; }), "x/data/0 is compressed"},
      {"Encrypted", changed(2, [](ZipPart& part) { part.flags = 0x0809; }), "x/data/0 is encrypted"},
      {"OffsetOutside", changed(2, [](ZipPart& part) { part.offset = 0x7FFFFFFF; }), "x/data/0 lies outside"},
      {"OffsetElsewhere", changed(2, [](ZipPart& part) { part.offset = 7; }), "shares bytes with another record"},
      {"SizeOutside", changed(2, [](ZipPart& part) { part.size = 0x7FFFFFFF; }), "x/data/0 lies outside"},
      {"SizeOverTheNext", changed(2, [](ZipPart& part) { part.size = 100; }), "x/data/0 shares bytes with another"},
      {"No64BitSize", changed(2, [](ZipPart& part) { part.size = 0xFFFFFFFF; }), "x/data/0 lacks a 64-bit size"},
      {"Huge64BitSize",
       changed(2,
               [](ZipPart& part) {
                 part.size = 0xFFFFFFFF;
                 part.extra = ByteWriter().put<uint16_t>(1).put<uint16_t>(16).put<int64_t>(-1).put<int64_t>(-1).bytes();
               }),
       "x/data/0 lies outside"},
      {"TwoRecordsInOnePlace", with({.name = "y", .offset = 0}), "shares bytes with another record"},
      {"OtherLocalName", changed(2, [](ZipPart& part) { part.local_name = "x/data/1"; }), "something else than"},
      {"OtherLocalSize", changed(2, [](ZipPart& part) { part.local_size = 17; }), "something else than"},
      {"RecordTwice", with({.name = "x/data/0", .bytes = std::string(16, 'x')}), "x/data/0 is there twice"},
      {"NoPickle", without(0), "not of torch.save: it holds no data.pkl"},
      {"TwoPickles", with({.name = "y/data.pkl"}), "holds x/data.pkl and y/data.pkl"},
      {"NoStorage", without(2), "tensor a lies in x/data/0, which the archive lacks"},
      {"ShortStorage", changed(2, [](ZipPart& part) { part.bytes.resize(12); }), "x/data/0 has 12 bytes"},
      {"LongStorage", changed(2, [](ZipPart& part) { part.bytes.resize(20); }), "x/data/0 has 20 bytes"},
      {"BigEndian", changed(1, [](ZipPart& part) { part.bytes = "big"; }), "big-endian"},
      {"NoByteOrder", changed(1, [](ZipPart& part) { part.bytes = "middle"; }), "byte order of middle"},
      {"LongByteOrder", changed(1, [](ZipPart& part) { part.bytes.resize(10000); }), "byte order of"},
      {"WrongChecksum", changed(0, [](ZipPart& part) { part.crc_error = 4; }), "checksum of data.pkl is wrong"},
  };
}

Case pickled(const char* name, const std::string& pickle, const char* message) {
  return {name, zip_bytes(torch_parts(pickle)), message};
}

Case operations(const char* name, const std::string& ops, const char* message) {
  return pickled(name, pickle_of(ops), message);
}

/// The one tensor of a file.
Case tensor(const char* name, const PickledForm& form, const char* message) {
  return operations(name, pickled_dict("a", pickled_tensor(form)), message);
}

std::string repeated(const std::string& ops, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += ops;
  return all;
}

std::vector<Case> machine_cases() {
  return {
      pickled("NoPickle", "", "does not begin as a pickle"),
      pickled("Protocol0", "(dp0\n.", "does not begin as a pickle"),
      pickled("Protocol9", "\x80\x09}.", "does not begin as a pickle"),
      pickled("NoEnd", "\x80\x02}", "ends in the middle of an opcode"),
      pickled("GoesOn", good_pickle() + "}", "goes on after its end"),
      operations("Nothing", "", "ends in the middle of an object"),
      operations("TwoObjects", "}}", "ends in the middle of an object"),
      operations("OpenMark", "}(", "ends in the middle of an object"),
      operations("TextOutside",
                 "X\xFF\xFF\xFF\xFF"
                 "a",
                 "ends in the middle of an opcode"),
      operations("NumberOutside", "\x8a\xFF", "ends in the middle of an opcode"),
      operations("FrameOutside", "\x95" + std::string(8, '\xFF') + "}", "frame that is longer"),
      operations("NameWithoutEnd", "ctorch", "name without an end"),
      operations("Instance", "(iposix\nsystem\n", "opcode 0x69 at byte 3"),
      operations("NewObject", "}\x81", "opcode 0x81 at byte 3"),
      operations("Extension", "\x82\x01", "opcode 0x82 at byte 2"),
      operations("Duplicate", "}2", "opcode 0x32 at byte 3"),
      operations("Bytes", "C\x01x", "opcode 0x43 at byte 2"),
      operations("Executes", "cbuiltins\nexec\n(" + pickled_text("1") + "tR", "(builtins.exec), not plain tensors"),
      operations("NameWithDots", pickled_text("torch") + pickled_text("os.system") + "\x93", "(torch.os.system)"),
      operations("LineInName", pickled_text("a\nb") + pickled_text("c") + "\x93", "(a\\x0ab.c)"),
      operations("NameOfANumber", pickled_text("torch") + "K\x01\x93", "by something that is no text"),
      operations("CallsAText", pickled_text("a") + ")R", "calls something that is no function"),
      operations("CallsAStorage", "ctorch\nFloatStorage\n)R", "calls something that is no function"),
      operations("CallsWithoutTuple", "ccollections\nOrderedDict\n}R", "calls a function without a tuple"),
      operations("OrderedDictOfSomething", "ccollections\nOrderedDict\nN\x85R", "makes an OrderedDict of something"),
      operations("TensorOfNothing", "ctorch._utils\n_rebuild_tensor_v2\n)R", "another form than torch.save writes"),
      operations("ParameterOfNothing", "ctorch._utils\n_rebuild_parameter\nNNN\x87R", "parameter without a tensor"),
      operations("StorageOfNothing", ")Q", "storage of another form"),
      operations("StorageOfAText", pickled_text("0") + "Q", "storage that is no tuple"),
      operations("EmptyStack", "a", "takes from an empty stack"),
      operations("BelowTheMark", "}N(s", "takes from an empty stack"),
      operations("TupleWithoutMark", "t", "takes from an empty stack"),
      operations("TupleBelowTheMark", "NN(\x86", "takes from an empty stack"),
      operations("ItemOfAList", "]NNs", "sets an item of something that is no dict"),
      operations("ItemWithoutValue", "}(Nu", "item that has no value"),
      operations("AppendsToADict", "}Na", "appends to something that is no list"),
      operations("AttributesOfADict", "}}b", "attributes that no state dict has"),
      operations("AttributesOfATuple", ")}b", "attributes to something that is no dict"),
      operations("AttributesThatAreNone", "ccollections\nOrderedDict\n)RNb", "attributes that are no dict"),
      operations("OtherAttributes",
                 "ccollections\nOrderedDict\n)R" + pickled_dict("__class__", "N") + "b",
                 "attributes that no state dict has"),
      operations("MemoWithoutValue", "h\x07", "something that is not there"),
      operations("MemoWithAGap", "}q\x07", "leaves a gap in its memo"),
      operations("HugeMemo", "}r\xFF\xFF\xFF\xFF", "leaves a gap in its memo"),
      operations("MemoBomb", "}" + repeated("\x94", 3 << 20), "makes more than 2097152 objects"),
      operations("DeepMarks", repeated("(", 1 << 20), "nests too deep"),
      operations("LongStack", repeated("N", 1 << 20), "nests too deep"),
      operations("DeepTuples", ")" + repeated("\x85", 1 << 20), "holds no dict of tensors"),
      operations(
          "DeepDicts", repeated("}" + pickled_text("a"), 30000) + "}" + repeated("s", 30000), "holds no tensors"),
      operations("DictInItself",
                 "}q" + std::string(1, '\0') + pickled_text("a") + "h" + std::string(1, '\0') + "s",
                 "holds no tensors"),
  };
}

std::vector<Case> tensor_cases() {
  std::string good = pickled_tensor({.shape = {4}, .strides = {1}});
  std::string twice = "}(" + pickled_text("a") + good + pickled_text("a") + good + "u";
  constexpr int64_t huge = int64_t{1} << 62;
  return {
      operations("NameTwice", twice, "tensor a occurs twice"),
      tensor("Outside", {.shape = {5}, .strides = {1}}, "tensor a has 5 elements at 0 of a storage of 4"),
      tensor("OffsetOutside", {.shape = {4}, .strides = {1}, .offset = 1}, "4 elements at 1 of a storage of 4"),
      tensor("HugeOffset", {.shape = {1}, .strides = {1}, .offset = INT64_MAX}, "of a storage of 4"),
      tensor("NegativeOffset", {.shape = {1}, .strides = {1}, .offset = -1}, "1 elements at -1 of a storage"),
      tensor("EmptyOutside", {.shape = {0}, .strides = {1}, .offset = 5}, "0 elements at 5 of a storage of 4"),
      tensor("NegativeDimension", {.shape = {-4}, .strides = {1}}, "tensor a has a shape that cannot be"),
      tensor("Overflow", {.shape = {huge, 4}, .strides = {4, 1}}, "tensor a has a shape that cannot be"),
      tensor("OverflowOfBytes", {.shape = {huge}, .strides = {1}, .storage_elements = huge}, "x/data/0 has 16 bytes"),
      tensor("NegativeStorage", {.shape = {0}, .strides = {1}, .storage_elements = -4}, "of a storage of -4"),
      tensor("LargerThanTheStorage", {.shape = {4}, .strides = {1}, .storage_elements = 400}, "x/data/0 has 16 bytes"),
      tensor("OtherType", {.shape = {4}, .strides = {1}, .type = "DoubleStorage"}, "4 elements of F64"),
      tensor("OtherStorage", {.shape = {4}, .strides = {1}, .storage = "1"}, "x/data/1, which the archive lacks"),
      tensor("StorageOutside", {.shape = {4}, .strides = {1}, .storage = "../version"}, "archive lacks"),
      tensor("LongKey", {.shape = {4}, .strides = {1}, .storage = std::string(101, '0')}, "storage of another form"),
      tensor("StridesOfAnotherRank", {.shape = {4}, .strides = {1, 1}}, "tensor a has a shape that cannot be"),
      tensor("StrideZero", {.shape = {4}, .strides = {0}, .storage_elements = 4}, "not contiguous"),
      tensor("ExpandedFromOne", {.shape = {1000, 4}, .strides = {0, 1}}, "not contiguous"),
      tensor("NegativeStride", {.shape = {4}, .strides = {-1}}, "not contiguous"),
      tensor("Turned", {.shape = {2, 2}, .strides = {1, 2}}, "not contiguous"),
      operations("ShapeOfTexts",
                 pickled_dict("a",
                              "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled_text("storage") +
                                  "ctorch\nFloatStorage\n" + pickled_text("0") + pickled_text("cpu") + "K\x04tQK" +
                                  std::string(1, '\0') + pickled_text("4") + "\x85K\x01\x85\x89}tR"),
                 "tensor a has a shape that cannot be"),
  };
}

INSTANTIATE_TEST_SUITE_P(Saved, HostileTorchFile, testing::ValuesIn(saved_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Archive, HostileTorchFile, testing::ValuesIn(archive_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Machine, HostileTorchFile, testing::ValuesIn(machine_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Tensors, HostileTorchFile, testing::ValuesIn(tensor_cases()), case_name);

TEST(HostileTorchFiles, TheSameFilesWithoutLiesAreRead) {
  TempFolder folder;
  auto plain = zip_bytes(good_parts());
  uint64_t end = plain.size() - 22;
  uint32_t offset = 0;
  std::memcpy(&offset, plain.data() + end + 16, 4);
  auto wide = with_end64({.position = end, .num_records = 4, .size = end - offset, .offset = offset});
  for (const std::string& bytes :
       {plain, wide, changed(2, [](ZipPart& part) { part.local_size = 16; }), without(1), without(3)}) {
    auto reader = open_checkpoint(folder.write("x.pth", bytes));
    std::vector<float> values(4);
    reader->read("a", values.data(), DType::f32);
    EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3}));
  }
}

TEST(HostileTorchFiles, NothingInThemIsExecuted) {
  EXPECT_FALSE(std::filesystem::exists("/tmp/weft_executed_a_checkpoint"));
}

/// Opens a checkpoint and reads every tensor. True when all went well.
bool survives(const std::string& path) {
  try {
    auto reader = open_checkpoint(path);
    for (const std::string& name : reader->names()) {
      std::vector<float> values(static_cast<size_t>(reader->info(name).shape.num_elements()));
      if (reader->info(name).dtype == DType::f32) reader->read(name, values.data(), DType::f32);
    }
    reader->verify_checksums(0, 1);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input) << error.what();
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
    return false;
  }
}

class DamagedTorchFile : public testing::TestWithParam<const char*> {
 protected:
  TempFolder folder_;
  std::string whole_ = read_bytes(data_path(std::string("torch/") + GetParam() + ".pth"));
};

TEST_P(DamagedTorchFile, TruncatedAnywhereItIsRefused) {
  for (size_t length = 0; length < whole_.size(); ++length) {
    EXPECT_FALSE(survives(folder_.write("x.pth", std::string_view(whole_).substr(0, length)))) << length;
  }
}

TEST_P(DamagedTorchFile, FlippedBytesNeverDoWorseThanAnError) {
  int64_t before = peak_resident_bytes();
  std::mt19937 random(11);
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = whole_;
    for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips) {
      damaged[random() % damaged.size()] ^= static_cast<char>(1 + random() % 255);
    }
    survives(folder_.write("x.pth", damaged));
  }
  EXPECT_LT(peak_resident_bytes() - before, int64_t{50} << 20);
}

// The others have no checksums: what is damaged in their pickles reaches the machine.
INSTANTIATE_TEST_SUITE_P(Files,
                         DamagedTorchFile,
                         testing::Values("kinds", "unchecked", "legacy_kinds"),
                         [](const auto& parameter) { return std::string(parameter.param); });

}  // namespace
}  // namespace weft
