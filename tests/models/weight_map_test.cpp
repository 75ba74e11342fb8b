#include "models/weight_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "checkpoint/reader.h"
#include "core/error.h"

namespace weft {
namespace {

/// A checkpoint of one tensor, in memory.
class OneTensor final : public CheckpointReader {
 public:
  OneTensor(Shape shape, std::vector<float> values) : values_(std::move(values)), names_{"theirs"} {
    info_.name = "theirs";
    info_.shape = shape;
    info_.file = "memory";
  }
  std::string_view format() const override { return "memory"; }
  const std::string& path() const override { return names_[0]; }
  const std::vector<std::string>& names() const override { return names_; }
  const TensorInfo* find(std::string_view name) const override { return name == "theirs" ? &info_ : nullptr; }
  int64_t bytes_read() const override { return 0; }

  void read_slice(std::string_view,
                  std::span<const int64_t> begin,
                  std::span<const int64_t> end,
                  void* into,
                  DType dtype) const override {
    std::vector<float> box;
    collect(0, 0, begin, end, box);
    convert_dtype(box.data(), DType::f32, into, dtype, static_cast<int64_t>(box.size()));
  }

 private:
  void collect(int dim,
               int64_t offset,
               std::span<const int64_t> begin,
               std::span<const int64_t> end,
               std::vector<float>& box) const {
    if (dim == info_.shape.rank()) {
      box.push_back(values_[static_cast<size_t>(offset)]);
      return;
    }
    for (int64_t i = begin[static_cast<size_t>(dim)]; i < end[static_cast<size_t>(dim)]; ++i) {
      collect(dim + 1, offset * info_.shape[dim] + i, begin, end, box);
    }
  }

  std::vector<float> values_;
  std::vector<std::string> names_;
  TensorInfo info_;
};

class Transforms : public ::testing::TestWithParam<std::tuple<WeightTransform, ShardKind, int>> {};

TEST_P(Transforms, EverySliceOfWhatToFormatWroteReadsBack) {
  auto [transform, kind, size] = GetParam();
  bool by_columns = kind == ShardKind::head_columns;
  Shape full = by_columns ? Shape{5, 24} : Shape{24, 5};
  std::vector<float> values(static_cast<size_t>(full.num_elements()));
  std::iota(values.begin(), values.end(), 1.0f);
  for (int rank = 0; rank < size; ++rank) {
    ParameterStore store({rank, size});
    Parameter& parameter = store.add("ours", full, {kind, 4, 4});
    OneTensor reader(format_shape({.theirs = "x", .transform = transform}, parameter),
                     to_format(transform, parameter, values, false));
    int64_t rows = parameter.local_shape[0];
    int64_t columns = parameter.local_shape[1];
    for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, rows}, {1, rows}, {rows / 2, rows / 2 + 1}}) {
      std::vector<float> read(static_cast<size_t>((end - begin) * columns));
      read_rows(reader, {"theirs", transform}, parameter, begin, end, read.data(), DType::f32);
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
          int64_t row = i + (by_columns ? 0 : parameter.range.begin);
          int64_t column = j + (by_columns ? parameter.range.begin : 0);
          ASSERT_EQ(read[static_cast<size_t>((i - begin) * columns + j)],
                    values[static_cast<size_t>(row * full[1] + column)]);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows,
                         Transforms,
                         ::testing::Combine(::testing::Values(WeightTransform::none,
                                                              WeightTransform::transpose,
                                                              WeightTransform::heads_in,
                                                              WeightTransform::rotary_permuted),
                                            ::testing::Values(ShardKind::heads, ShardKind::kv_heads),
                                            ::testing::Values(1, 2, 3, 4)));
INSTANTIATE_TEST_SUITE_P(
    Columns,
    Transforms,
    ::testing::Combine(::testing::Values(WeightTransform::none, WeightTransform::transpose, WeightTransform::heads_out),
                       ::testing::Values(ShardKind::head_columns),
                       ::testing::Values(1, 2, 3, 4)));

TEST(WeightMap, MinusOneTakesTheOneOff) {
  ParameterStore store({});
  Parameter& parameter = store.add("ours", {4});
  std::vector<float> values = {0.5f, -0.25f, 0.0f, 1.0f};
  OneTensor reader({4}, to_format(WeightTransform::minus_one, parameter, values, false));
  std::vector<float> read(4);
  read_rows(reader, {"theirs", WeightTransform::minus_one}, parameter, 0, 4, read.data(), DType::f32);
  EXPECT_EQ(read, values);
  EXPECT_EQ(to_format(WeightTransform::minus_one, parameter, values, true), values);
}

TEST(WeightMap, VectorsLieInTensorsOfThreeDimensions) {
  for (int rank : {0, 1}) {
    ParameterStore store({rank, 2});
    Parameter& parameter = store.add("ours", {6}, {ShardKind::heads, 2, 2});
    std::vector<float> values = {1, 2, 3, 4, 5, 6};
    WeightSource source{"theirs", WeightTransform::flat_vector};
    EXPECT_EQ(format_shape(source, parameter), (Shape{1, 1, 6}));
    OneTensor reader({1, 1, 6}, to_format(WeightTransform::flat_vector, parameter, values, false));
    std::vector<float> read(3);
    read_rows(reader, source, parameter, 0, 3, read.data(), DType::f32);
    EXPECT_TRUE(std::equal(read.begin(), read.end(), values.begin() + 3 * rank));
    read_rows(reader, source, parameter, 1, 3, read.data(), DType::f32);
    EXPECT_EQ(read[0], values[static_cast<size_t>(3 * rank + 1)]);
  }
}

/// Ours is [out 4, in 3]; theirs holds five such matrices, each [in, out], one after the other.
TEST(WeightMap, MatricesAreStackedTransposed) {
  constexpr int64_t kOut = 4, kIn = 3, kCount = 5;
  std::vector<float> theirs(kCount * kIn * kOut);
  std::iota(theirs.begin(), theirs.end(), 0.0f);
  OneTensor reader({kCount, kIn, kOut}, theirs);
  for (ShardKind kind : {ShardKind::replicated, ShardKind::heads}) {
    std::vector<float> written(theirs.size());
    for (int64_t number = 0; number < kCount; ++number) {
      for (int rank : {0, 1}) {
        ParameterStore store({rank, 2});
        Parameter& parameter = store.add("ours", {kOut, kIn}, {kind, 2, 2});
        WeightSource source{"theirs", WeightTransform::stacked, {number, kCount}};
        EXPECT_EQ(format_shape(source, parameter), (Shape{kCount, kIn, kOut}));
        int64_t rows = parameter.local_shape[0];
        for (int64_t first : {int64_t{0}, int64_t{1}}) {
          std::vector<float> read(static_cast<size_t>((rows - first) * kIn));
          read_rows(reader, source, parameter, first, rows, read.data(), DType::f32);
          for (int64_t i = first; i < rows; ++i) {
            int64_t row = parameter.range.begin + i;
            for (int64_t j = 0; j < kIn; ++j) {
              ASSERT_EQ(read[static_cast<size_t>((i - first) * kIn + j)],
                        theirs[static_cast<size_t>((number * kIn + j) * kOut + row)]);
            }
          }
        }
        std::vector<float> ours(kOut * kIn);
        copy_part_back(source, parameter, theirs.data(), ours.data());
        EXPECT_EQ(ours[1], theirs[static_cast<size_t>((number * kIn + 1) * kOut)]);
        copy_part(source, parameter, ours.data(), written.data());
      }
    }
    EXPECT_EQ(written, theirs);
  }
}

TEST(WeightMap, NamesAreFilledIn) {
  WeightMap map{.rows = {{"layers.{i}.a", "x{#4i+3}/{i}"}, {"norm", "n{#2L}"}, {"first", "n{#i}"}},
                .ignored = {"*.inv_freq", "head"}};
  ParameterStore store({});
  EXPECT_EQ(find_source(map, store.add("layers.0.a", {1}), 3).theirs, "x_3/0");
  EXPECT_EQ(find_source(map, store.add("layers.12.a", {1}), 3).theirs, "x_51/12");
  EXPECT_EQ(find_source(map, store.add("norm", {1}), 3).theirs, "n_6");
  EXPECT_EQ(find_source(map, store.add("first", {1}), 3).theirs, "n");
  EXPECT_THROW(find_source(map, store.add("layers.x.a", {1}), 3), Error);
  EXPECT_TRUE(is_ignored(map, "a.b.inv_freq"));
  EXPECT_FALSE(is_ignored(map, "heads"));
}

}  // namespace
}  // namespace weft
