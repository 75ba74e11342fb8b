// TensorFlow checkpoints that are damaged or lie: one clear line each, and never worse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "checkpoint/bundle_files.h"
#include "checkpoint/reader.h"
#include "checkpoint/tensor_bundle.pb.h"
#include "checkpoint/tensorflow_bundle.h"
#include "checkpoint/tensorflow_bundle_format.h"
#include "checkpoint/test_files.h"
#include "support/paths.h"

namespace weft {
namespace {

using tensor_bundle::Entry;
using tensor_bundle::Header;
using testing::HasSubstr;

std::string header(int num_shards = 1, int endianness = 0) {
  Header message;
  message.set_num_shards(num_shards);
  message.set_endianness(endianness);
  return block_entry(0, "", message.SerializeAsString());
}

Entry f32(const std::vector<int64_t>& dims, int64_t offset, int64_t size, int shard = 0) {
  Entry entry;
  entry.set_dtype(1);
  entry.mutable_shape();
  for (int64_t dim : dims) entry.mutable_shape()->add_dim()->set_size(dim);
  entry.set_offset(offset);
  entry.set_size(size);
  entry.set_shard_id(shard);
  return entry;
}

std::string named(std::string_view name, const Entry& entry) {
  return block_entry(0, name, entry.SerializeAsString());
}

/// An index of one block.
std::string index_of(const std::string& entries) {
  return index_file({block_contents(entries)});
}

Entry partitioned(const std::vector<int64_t>& dims,
                  const std::vector<std::vector<std::pair<int64_t, int64_t>>>& slices) {
  Entry entry = f32(dims, 0, 0);
  for (const auto& slice : slices) {
    tensor_bundle::TensorSlice* message = entry.add_slices();
    for (auto [start, length] : slice) {
      tensor_bundle::Extent* extent = message->add_extent();
      if (length < 0) continue;
      extent->set_start(start);
      extent->set_length(length);
    }
  }
  return entry;
}

/// The entries of the slices of v, 8 bytes each, one after the other.
std::string slices_of(const Entry& entry) {
  std::vector<std::string> keys;
  for (const tensor_bundle::TensorSlice& slice : entry.slices()) keys.push_back(bundle_slice_key("v", slice));
  std::sort(keys.begin(), keys.end());
  std::string entries;
  for (size_t i = 0; i < keys.size(); ++i) entries += named(keys[i], f32({1, 2}, 8 * static_cast<int64_t>(i), 8));
  return entries;
}

std::string with_slices(const Entry& entry) {
  return index_of(header() + slices_of(entry) + named("v", entry));
}

struct Case {
  const char* name;
  std::string index;
  const char* message;
  size_t data_bytes = 64;
};

class HostileBundle : public testing::TestWithParam<Case> {};

TEST_P(HostileBundle, IsRefusedWithALineThatSaysWhy) {
  TempFolder folder;
  folder.write("x.index", GetParam().index);
  folder.write("x.data-00000-of-00001", std::string(GetParam().data_bytes, '\0'));
  std::string error = error_of([&] { open_checkpoint(folder.path() + "/x"); });
  EXPECT_NE(error.find(folder.path() + "/x."), std::string::npos) << error;
  EXPECT_NE(error.find(GetParam().message), std::string::npos) << error;
}

std::vector<Case> index_cases() {
  std::string good = named("a", f32({2}, 0, 8));
  std::string whole = index_of(header() + good);
  std::string flipped = whole, magic = whole;
  flipped[9] ^= 1;
  magic.back() ^= 1;
  std::string block = block_contents(header() + good);
  std::string huge = header() + varint(0) + std::string(9, '\xFF') + "\x01" + "a";
  std::string endless = header() + std::string(64, '\xFF');
  // Names that repeat a long beginning: much longer together than the file.
  std::string long_names = header() + block_entry(0, std::string(2000, 'a'), "");
  for (int i = 0; i < 2000; ++i) long_names += block_entry(2000, "b", "");
  return {
      {"Empty", "", "shorter than its footer"},
      {"WrongMagic", magic, "does not end as the index"},
      {"FlippedBit", flipped, "checksum is wrong"},
      {"Compressed", index_file({block}, 1), "compressed"},
      {"UnknownKind", index_file({block}, 7), "unknown kind"},
      {"BlocksOverlap", whole.substr(0, 0) + index_file({block, block}), "keys out of order"},
      {"SharedBeyondTheKey", index_of(header() + block_entry(1, "a", "")), "entry that cannot be"},
      {"HugeLength", index_of(huge), "longer than its block"},
      {"EndlessNumber", index_of(endless), "entry that cannot be"},
      {"ManyRestarts", index_file({header() + fixed32(0x40000000)}), "more restarts than bytes"},
      {"RestartInsideAnEntry", index_file({block_contents(header() + good, {0, 3})}), "no entry's start"},
      {"RestartOutside", index_file({block_contents(header() + good, {0, 4000})}), "no entry's start"},
      {"RestartInsideAName",
       index_file({block_contents(header() + good + block_entry(1, "b", ""),
                                  {0, static_cast<uint32_t>(header().size() + good.size())})}),
       "restart inside of a name"},
      {"SameNameTwice", index_of(header() + good + good), "keys out of order"},
      {"NamesTooLong", index_of(long_names), "names that are too long"},
      {"NoHeader", index_of(good), "has no header"},
      {"NoEntries", index_file({}), "has no header"},
      {"BigEndian", index_of(header(1, 1) + good), "big-endian"},
      {"NoShards", index_of(header(0) + good), "0 data files"},
      {"NegativeShards", index_of(header(-1) + good), "-1 data files"},
      {"TooManyShards", index_of(header(2'000'000'000) + good), "2000000000 data files"},
      {"MissingShard", index_of(header(2) + good), "x.data-00000-of-00002"},
  };
}

std::vector<Case> entry_cases() {
  Entry rankless = f32({}, 0, 4);
  rankless.mutable_shape()->set_unknown_rank(true);
  auto one = [](const Entry& entry) { return index_of(header() + named("a", entry)); };
  return {
      {"NoMessage",
       index_of(header() + block_entry(0, "a", "\xFF\xFF")),
       "variable a has an entry that cannot be read"},
      {"ShardOutside", one(f32({2}, 0, 8, 3)), "variable a lies in data file 3 of 1"},
      {"NegativeShard", one(f32({2}, 0, 8, -1)), "variable a lies in data file -1"},
      {"SizeOfAnotherShape", one(f32({2}, 0, 12)), "variable a is [2] and takes 12 bytes"},
      {"NegativeDimension", one(f32({-2}, 0, 8)), "variable a has a shape that cannot be"},
      {"Overflow", one(f32({int64_t{1} << 40, int64_t{1} << 40}, 0, 0)), "variable a has a shape that cannot be"},
      {"OverflowOfBytes", one(f32({int64_t{1} << 62}, 0, 0)), "variable a is [4611686018427387904] and takes 0 bytes"},
      {"ManyDimensions", one(f32({1, 1, 1, 1, 1, 1, 1}, 0, 4)), "variable a has 7 dimensions"},
      {"UnknownRank", one(rankless), "variable a has an unknown number of dimensions"},
      {"NegativeOffset", one(f32({2}, -8, 8)), "variable a lies before"},
      {"OffsetOutside", one(f32({2}, int64_t{1} << 62, 8)), "tensor a lies at byte 4611686018427387904"},
      {"TruncatedData", one(f32({16}, 0, 64)), "tensor a lies at byte 0 and takes 64 bytes, the file has 63", 63},
      {"SharedBytes",
       index_of(header() + named("a", f32({4}, 0, 16)) + named("b", f32({4}, 8, 16))),
       "tensor b shares bytes with another"},
  };
}

std::vector<Case> slice_cases() {
  Entry good = partitioned({2, 2}, {{{0, 1}, {0, -1}}, {{1, 1}, {0, -1}}});
  Entry other_type = good;
  other_type.set_dtype(3);
  return {
      {"SliceMissing", index_of(header() + named("v", good)), "variable v names a slice that is not there"},
      {"SliceOfAnotherType", index_of(header() + slices_of(good) + named("v", other_type)), "slice of another type"},
      {"SlicesLeaveAGap", with_slices(partitioned({3, 2}, {{{0, 1}, {0, -1}}, {{2, 1}, {0, -1}}})), "leave a gap"},
      {"SlicesEndEarly", with_slices(partitioned({3, 2}, {{{0, 1}, {0, -1}}, {{1, 1}, {0, -1}}})), "leave a gap"},
      {"SliceTwice",
       index_of(header() + named("v", partitioned({1, 2}, {{{0, -1}, {0, -1}}, {{0, -1}, {0, -1}}}))),
       "overlap"},
      {"SliceOutside", with_slices(partitioned({2, 2}, {{{0, 1}, {0, -1}}, {{2, 1}, {0, -1}}})), "slice outside of it"},
      {"SliceOverflows",
       with_slices(partitioned({2, 2}, {{{INT64_MAX, INT64_MAX}, {0, -1}}, {{1, 1}, {0, -1}}})),
       "slice outside of it"},
      {"SliceOfAnotherRank", with_slices(partitioned({2, 2}, {{{0, 1}}})), "slice of another rank"},
      {"SlicesOfAScalar", with_slices(partitioned({}, {{}})), "slice of another rank"},
      {"SlicesAlongTwo", with_slices(partitioned({2, 4}, {{{0, 1}, {0, 2}}, {{1, 1}, {2, 2}}})), "several dimensions"},
      {"SliceOfAnotherSize", with_slices(partitioned({3, 2}, {{{0, 2}, {0, -1}}, {{2, 1}, {0, -1}}})), "takes 8 bytes"},
  };
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Index, HostileBundle, testing::ValuesIn(index_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Entries, HostileBundle, testing::ValuesIn(entry_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Slices, HostileBundle, testing::ValuesIn(slice_cases()), case_name);

TEST(HostileBundles, TheSameFilesWithoutLiesAreRead) {
  TempFolder folder;
  folder.write("x.data-00000-of-00001", std::string(64, '\0'));
  Entry columns = partitioned({1, 4}, {{{0, -1}, {2, 2}}, {{0, -1}, {0, 2}}});
  for (const std::string& index : {index_of(header() + named("v", f32({2}, 0, 8))),
                                   with_slices(partitioned({2, 2}, {{{0, 1}, {0, -1}}, {{1, 1}, {0, -1}}})),
                                   with_slices(columns)}) {
    folder.write("x.index", index);
    auto reader = open_checkpoint(folder.path());
    std::vector<float> values(4, 1.0f);
    reader->read("v", values.data(), DType::f32);
    EXPECT_EQ(values[1], 0.0f);
  }
}

TEST(HostileBundles, AShapeOfStringsThatCannotBeBelievedIsNotTold) {
  Entry strings = f32({1000}, 0, 8), sliced = partitioned({1 << 30, 2}, {{{0, 1 << 30}, {0, -1}}});
  strings.set_dtype(7);
  sliced.set_dtype(7);
  TempFolder folder;
  folder.write("x.data-00000-of-00001", std::string(64, '\0'));
  folder.write("x.index", index_of(header() + named("a", strings)));
  EXPECT_EQ(open_checkpoint(folder.path())->info("a").shape, Shape());
  Entry slice = f32({}, 0, 8);
  slice.set_dtype(7);
  folder.write("x.index",
               index_of(header() + named(bundle_slice_key("v", sliced.slices(0)), slice) + named("v", sliced)));
  auto reader = open_checkpoint(folder.path());
  EXPECT_EQ(reader->info("v").shape, Shape());
  reader->verify_checksums(0, 1);
}

TEST(HostileBundles, BlocksReadAgainAndAgainAreRefused) {
  std::string block = block_contents(header());
  std::string file = block + trailer(block), handles;
  for (int i = 0; i < 2; ++i) handles += block_entry(0, std::to_string(i), varint(0) + varint(block.size()));
  std::string footer;
  for (const std::string& contents : {block_contents(""), block_contents(handles)}) {
    footer += varint(file.size()) + varint(contents.size());
    file += contents + trailer(contents);
  }
  footer.resize(40, '\0');
  TempFolder folder;
  folder.write("x.index", file + footer + "\x57\xfb\x80\x8b\x24\x75\x47\xdb");
  std::string error = error_of([&] { open_checkpoint(folder.path()); });
  EXPECT_NE(error.find("blocks that overlap"), std::string::npos) << error;
}

class DamagedBundle : public testing::Test {
 protected:
  DamagedBundle() {
    folder_.write("x.data-00000-of-00002", read_bytes(prefix_ + ".data-00000-of-00002"));
    folder_.write("x.data-00001-of-00002", read_bytes(prefix_ + ".data-00001-of-00002"));
  }

  std::string prefix_ = test_data() + "/seed/bert-mlm/ckpt/model.ckpt";
  TempFolder folder_;
};

TEST_F(DamagedBundle, AnIndexThatIsTruncatedAnywhereIsRefused) {
  std::string whole = read_bytes(prefix_ + ".index");
  for (size_t length = 0; length < whole.size(); ++length) {
    folder_.write("x.index", std::string_view(whole).substr(0, length));
    std::string error = error_of([&] { open_checkpoint(folder_.path()); });
    EXPECT_NE(error.find("/x.index: "), std::string::npos) << error;
  }
}

TEST_F(DamagedBundle, EveryFlippedBitOfAnIndexIsFound) {
  std::string whole = read_bytes(prefix_ + ".index");
  for (size_t bit = 0; bit < 8 * whole.size(); bit += 3) {
    std::string damaged = whole;
    damaged[bit / 8] ^= static_cast<char>(1u << (bit % 8));
    // Six bytes of the footer are handles, then come zeros that say nothing.
    if (bit / 8 >= whole.size() - 42 && bit / 8 < whole.size() - 8) continue;
    folder_.write("x.index", damaged);
    error_of([&] { open_checkpoint(folder_.path()); });
  }
}

TEST_F(DamagedBundle, TruncatedDataAreRefusedWhenOpened) {
  folder_.write("x.index", read_bytes(prefix_ + ".index"));
  std::string whole = read_bytes(prefix_ + ".data-00001-of-00002");
  for (size_t length = 0; length < whole.size(); length += 509) {
    folder_.write("x.data-00001-of-00002", std::string_view(whole).substr(0, length));
    std::string error = error_of([&] { open_checkpoint(folder_.path()); });
    EXPECT_NE(error.find("x.data-00001-of-00002: tensor "), std::string::npos) << error;
  }
}

TEST_F(DamagedBundle, MessagesWithFlippedBitsAndRightChecksumsNeverDoWorseThanAnError) {
  TempFolder folder;
  folder.write("x.data-00000-of-00001", std::string(4096, '\1'));
  std::string block = block_contents(header() + named("a", f32({2, 3}, 0, 24)) + named("b", f32({4}, 24, 16)));
  std::mt19937 random(5);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = block;
    for (int flips = 0; flips < 3; ++flips)
      damaged[random() % damaged.size()] ^= static_cast<char>(1u << (random() % 8));
    folder.write("x.index", index_file({damaged}));
    try {
      auto reader = open_checkpoint(folder.path());
      for (const std::string& name : reader->names()) {
        std::vector<float> values(static_cast<size_t>(reader->info(name).shape.num_elements()));
        reader->read(name, values.data(), DType::f32);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_input) << error.what();
    }
  }
}

/// a/b = [1, 2] and global_step = 7, and values that its checksums are not of.
class DamagedExample : public testing::Test {
 protected:
  static std::string example_index() {
    TempFolder folder;
    auto writer =
        make_tensorflow_writer(folder.path() + "/x", {{"global_step", {}, DType::i64}, {"a/b", {2}, DType::f32}});
    float values[] = {1, 2};
    int64_t step = 7;
    writer->write("global_step", 0, 1, &step, DType::i64);
    writer->write("a/b", 0, 2, values, DType::f32);
    writer->finish();
    return read_bytes(folder.path() + "/x.index");
  }

  /// What opening and checking says of an index beside a data file.
  std::string message(const std::string& index, const std::string& data = std::string(16, '\0')) {
    folder_.write("m.index", index);
    folder_.write("m.data-00000-of-00001", data);
    return error_of([&] { open_checkpoint(folder_.path() + "/m")->verify_checksums(0, 1); });
  }

  TempFolder folder_;
  std::string good_ = example_index();
};

TEST_F(DamagedExample, IsRefusedWithOneLine) {
  EXPECT_THAT(message(good_.substr(0, 20)), HasSubstr("shorter than its footer"));
  EXPECT_THAT(message(good_.substr(0, good_.size() - 1)), HasSubstr("does not end as"));
  EXPECT_THAT(message(good_, ""), HasSubstr("tensor a/b lies at byte 0 and takes 8 bytes"));
  EXPECT_THAT(message(good_), HasSubstr("the checksum of tensor a/b is wrong"));
  std::string far = good_;
  far.replace(far.size() - 48, 20, 20, '\xff');
  EXPECT_THAT(message(far), HasSubstr("outside of it"));
  message(good_.substr(1));
}

TEST_F(DamagedExample, EveryFlippedBitIsNoticedOrHarmless) {
  folder_.write("m.data-00000-of-00001", std::string("\0\0\x80?\0\0\0@\7\0\0\0\0\0\0\0", 16));
  size_t padding = good_.size() - 48 + 4;
  for (size_t i = 0; i < good_.size(); ++i) {
    for (int bit = 0; bit < 8; bit += 3) {
      std::string broken = good_;
      broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
      folder_.write("m.index", broken);
      auto open = [&] { open_checkpoint(folder_.path() + "/m")->verify_checksums(0, 1); };
      if (i >= padding && i < good_.size() - 8) {
        EXPECT_NO_THROW(open());
      } else {
        error_of(open);
      }
    }
  }
}

}  // namespace
}  // namespace weft
