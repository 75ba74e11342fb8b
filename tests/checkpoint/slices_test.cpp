// Slices in every position against the whole tensor, and the bytes they read.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <thread>
#include <vector>

#include "checkpoint/gguf.h"
#include "checkpoint/reader.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

using Index = std::vector<int64_t>;

template <typename T>
std::vector<T> read_whole(const CheckpointReader& reader, const std::string& name) {
  std::vector<T> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DTypeOf<T>::value);
  return values;
}

template <typename T>
std::vector<T> read_slice(const CheckpointReader& reader,
                          const std::string& name,
                          const Index& begin,
                          const Index& end) {
  int64_t count = 1;
  for (size_t i = 0; i < begin.size(); ++i) count *= end[i] - begin[i];
  std::vector<T> values(static_cast<size_t>(count));
  reader.read_slice(name, begin, end, values.data(), DTypeOf<T>::value);
  return values;
}

// The box [begin, end) of a three-dimensional array, one element at a time.
template <typename T>
std::vector<T> cut(const std::vector<T>& whole, const Shape& shape, const Index& begin, const Index& end) {
  std::vector<T> values;
  for (int64_t i = begin[0]; i < end[0]; ++i) {
    for (int64_t j = begin[1]; j < end[1]; ++j) {
      for (int64_t k = begin[2]; k < end[2]; ++k) {
        values.push_back(whole[static_cast<size_t>((i * shape[1] + j) * shape[2] + k)]);
      }
    }
  }
  return values;
}

class PlainSlices : public testing::Test {
 protected:
  PlainSlices() {
    std::vector<float> values(60);
    std::iota(values.begin(), values.end(), -7.0f);
    std::string header = R"({"x":{"dtype":"F32","shape":[3,4,5],"data_offsets":[0,240]}})";
    reader_ = open_safetensors(folder_.write("x.safetensors", safetensors_bytes(header, bytes_of(values))));
  }

  TempFolder folder_;
  std::unique_ptr<CheckpointReader> reader_;
};

template <typename Visit>
void for_each_box(const Shape& shape, Visit visit) {
  auto num_ranges = [](int64_t size) { return (size + 1) * (size + 1); };
  auto range = [](int64_t size, int64_t number) { return std::pair(number / (size + 1), number % (size + 1)); };
  for (int64_t a = 0; a < num_ranges(shape[0]); ++a) {
    for (int64_t b = 0; b < num_ranges(shape[1]); ++b) {
      for (int64_t c = 0; c < num_ranges(shape[2]); ++c) {
        auto [a0, a1] = range(shape[0], a);
        auto [b0, b1] = range(shape[1], b);
        auto [c0, c1] = range(shape[2], c);
        if (a0 <= a1 && b0 <= b1 && c0 <= c1) visit(Index{a0, b0, c0}, Index{a1, b1, c1});
      }
    }
  }
}

TEST_F(PlainSlices, EveryBoxEqualsThatPartOfTheWholeAndReadsNoByteMore) {
  const Shape& shape = reader_->info("x").shape;
  std::vector<float> whole = read_whole<float>(*reader_, "x");
  std::vector<double> whole_double = read_whole<double>(*reader_, "x");
  for_each_box(shape, [&](const Index& begin, const Index& end) {
    int64_t before = reader_->bytes_read();
    std::vector<float> slice = read_slice<float>(*reader_, "x", begin, end);
    ASSERT_EQ(slice, cut(whole, shape, begin, end));
    ASSERT_EQ(reader_->bytes_read() - before, static_cast<int64_t>(slice.size() * sizeof(float)));
    ASSERT_EQ(read_slice<double>(*reader_, "x", begin, end), cut(whole_double, shape, begin, end));
  });
}

TEST_F(PlainSlices, ABoxOutsideTheTensorIsAnErrorThatNamesBoth) {
  float value = 0;
  auto slice = [&](const Index& begin, const Index& end) {
    return error_of([&] { reader_->read_slice("x", begin, end, &value, DType::f32); });
  };
  EXPECT_NE(slice({0, 0, 0}, {3, 4, 6}).find("x is [3, 4, 5], a slice from [0, 0, 0] to [3, 4, 6]"), std::string::npos);
  slice({-1, 0, 0}, {0, 1, 1});
  slice({2, 0, 0}, {1, 1, 1});
  slice({0, 0}, {1, 1});
}

TEST_F(PlainSlices, AMissingTensorIsAnErrorThatNamesTheNearest) {
  std::string error = error_of([&] { reader_->info("y.weight"); });
  EXPECT_NE(error.find("y.weight"), std::string::npos);
  TempFolder folder;
  std::string header = R"({"model.norm.weight":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})";
  auto reader = open_safetensors(folder.write("x", safetensors_bytes(header, "a")));
  EXPECT_NE(error_of([&] { reader->info("model.norms.weight"); }).find("nearest is model.norm.weight"),
            std::string::npos);
}

TEST(ConvertedSlices, RunsLongerThanTheBufferAreWhole) {
  TempFolder folder;
  std::vector<float> values(3 * 100003);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  std::string header = R"({"x":{"dtype":"F32","shape":[1,3,100003],"data_offsets":[0,1200036]}})";
  auto reader = open_safetensors(folder.write("x", safetensors_bytes(header, bytes_of(values))));
  std::vector<double> expected(values.begin(), values.end());
  EXPECT_EQ(read_whole<double>(*reader, "x"), expected);
  EXPECT_EQ(read_slice<double>(*reader, "x", {0, 0, 2}, {1, 3, 100001}),
            cut(expected, reader->info("x").shape, {0, 0, 2}, {1, 3, 100001}));
}

class QuantisedSlices : public testing::TestWithParam<const char*> {};

TEST_P(QuantisedSlices, AnyColumnsEqualThatPartOfTheWhole) {
  auto reader = open_gguf(data_path("quantised.gguf"));
  std::string name = GetParam();
  std::vector<float> whole = read_whole<float>(*reader, name);
  Shape shape = {1, 3, 512};
  std::array<int64_t, 11> cuts = {0, 1, 31, 32, 33, 255, 256, 257, 300, 480, 512};
  for (int64_t first : cuts) {
    for (int64_t last : cuts) {
      if (first > last) continue;
      ASSERT_EQ(read_slice<float>(*reader, name, {0, first}, {3, last}),
                cut(whole, shape, {0, 0, first}, {1, 3, last}));
      ASSERT_EQ(read_slice<float>(*reader, name, {1, first}, {2, last}),
                cut(whole, shape, {0, 1, first}, {1, 2, last}));
    }
  }
}

TEST_P(QuantisedSlices, ConvertsToTheDtypeAskedFor) {
  auto reader = open_gguf(data_path("quantised.gguf"));
  std::vector<float> whole = read_whole<float>(*reader, GetParam());
  std::vector<bfloat16> slice = read_slice<bfloat16>(*reader, GetParam(), {0, 40}, {1, 333});
  for (size_t i = 0; i < slice.size(); ++i) ASSERT_EQ(slice[i].bits, bfloat16(whole[40 + i]).bits);
}

TEST_P(QuantisedSlices, ReadsOnlyTheBlocksOfTheBox) {
  auto reader = open_gguf(data_path("quantised.gguf"));
  int64_t row_bytes = reader->info(GetParam()).stored_bytes / 3;
  read_slice<float>(*reader, GetParam(), {1, 256}, {3, 512});
  EXPECT_EQ(reader->bytes_read(), row_bytes);
}

TEST(ConcurrentSlices, ThreadsReadTheSameCheckpoint) {
  auto reader = open_gguf(data_path("quantised.gguf"));
  std::vector<float> whole = read_whole<float>(*reader, "real.Q4_1");
  int64_t row_bytes = reader->bytes_read() / 3;
  std::vector<std::vector<float>> rows(3);
  std::vector<std::thread> threads;
  for (size_t row = 0; row < rows.size(); ++row) {
    threads.emplace_back([&, row] {
      int64_t first = static_cast<int64_t>(row);
      for (int i = 0; i < 100; ++i) rows[row] = read_slice<float>(*reader, "real.Q4_1", {first, 0}, {first + 1, 512});
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t row = 0; row < rows.size(); ++row) {
    EXPECT_TRUE(std::equal(rows[row].begin(), rows[row].end(), whole.begin() + static_cast<std::ptrdiff_t>(row * 512)));
  }
  EXPECT_EQ(reader->bytes_read(), 3 * row_bytes + 300 * row_bytes);
}

INSTANTIATE_TEST_SUITE_P(
    Types,
    QuantisedSlices,
    testing::Values(
        "real.Q4_0", "real.Q4_1", "real.Q5_0", "real.Q5_1", "real.Q8_0", "random.Q4_K", "random.Q5_K", "random.Q6_K"),
    [](const auto& parameter) {
      return std::string(parameter.param).substr(std::string(parameter.param).find('.') + 1);
    });

}  // namespace
}  // namespace weft
