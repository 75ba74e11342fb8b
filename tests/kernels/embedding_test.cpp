#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class EmbeddingOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(EmbeddingOfDType, KernelDTypes);

// A rank that holds rows 10 to 16 of a table.
constexpr int64_t kRowBegin = 10, kRows = 7;
const std::vector<int32_t> kIds = {10, 16, 9, 17, 12, 12, -1, 0, 16};

TYPED_TEST(EmbeddingOfDType, ForwardScalesOwnRowsAndZeroesOthers) {
  using T = TypeParam;
  for (int64_t width : odd_widths()) {
    for (float scale : {1.0f, 24.0f, 1.7f}) {
      for_each_isa([&](const Stream& stream) {
        Guarded<T> table(kRows * width, 1), y(static_cast<int64_t>(kIds.size()) * width, 1, from_double<T>(9));
        fill_random(table, 1);
        cpu().embedding.forward({.table = table.data(),
                                 .ids = kIds.data(),
                                 .y = y.data(),
                                 .num_ids = static_cast<int64_t>(kIds.size()),
                                 .width = width,
                                 .row_begin = kRowBegin,
                                 .rows = kRows,
                                 .scale = scale,
                                 .dtype = DTypeOf<T>::value},
                                stream);
        std::vector<double> expected;
        for (int32_t id : kIds) {
          for (int64_t i = 0; i < width; ++i) {
            bool is_here = id >= kRowBegin && id < kRowBegin + kRows;
            expected.push_back(
                is_here ? to_double(from_double<T>(to_double(table[(id - kRowBegin) * width + i]) * scale)) : 0);
          }
        }
        expect_close(y, expected, {1e-7, 0});
      });
    }
  }
}

TEST(Embedding, BackwardEqualsCentredDifferences) {
  constexpr int64_t kWidth = 5;
  for_each_isa([&](const Stream& stream) {
    Guarded<double> table(kRows * kWidth), y(static_cast<int64_t>(kIds.size()) * kWidth), dy(y.size()),
        dtable(table.size());
    fill_random(table, 1);
    fill_random(dy, 2);
    auto loss = [&] {
      cpu().embedding.forward({.table = table.data(),
                               .ids = kIds.data(),
                               .y = y.data(),
                               .num_ids = static_cast<int64_t>(kIds.size()),
                               .width = kWidth,
                               .row_begin = kRowBegin,
                               .rows = kRows,
                               .scale = 1.5f,
                               .dtype = DType::f64},
                              stream);
      return weighted_sum(dy, y);
    };
    cpu().embedding.backward({.ids = kIds.data(),
                              .dy = dy.data(),
                              .dtable = dtable.data(),
                              .num_ids = static_cast<int64_t>(kIds.size()),
                              .width = kWidth,
                              .row_begin = kRowBegin,
                              .rows = kRows,
                              .scale = 1.5f,
                              .dtype = DType::f64},
                             stream);
    expect_gradient(table, dtable, loss);
  });
}

TYPED_TEST(EmbeddingOfDType, BackwardAddsToTheTable) {
  using T = TypeParam;
  constexpr int64_t kWidth = 576, kNumIds = 64;
  std::vector<int32_t> ids(kNumIds);
  for (int64_t i = 0; i < kNumIds; ++i) ids[i] = static_cast<int32_t>(8 + i % 11);
  for_each_isa([&](const Stream& stream) {
    Guarded<T> dy(kNumIds * kWidth);
    Guarded<SumOf<T>> dtable(kRows * kWidth, 0, 2);
    fill_random(dy, 1);
    std::vector<double> expected(kRows * kWidth, 2.0);
    for (int64_t row = 0; row < kNumIds; ++row) {
      int64_t index = ids[row] - kRowBegin;
      for (int64_t i = 0; i < kWidth && index >= 0 && index < kRows; ++i) {
        expected[index * kWidth + i] += 0.5 * to_double(dy[row * kWidth + i]);
      }
    }
    cpu().embedding.backward({.ids = ids.data(),
                              .dy = dy.data(),
                              .dtable = dtable.data(),
                              .num_ids = kNumIds,
                              .width = kWidth,
                              .row_begin = kRowBegin,
                              .rows = kRows,
                              .scale = 0.5f,
                              .dtype = DTypeOf<T>::value},
                             stream);
    expect_close(dtable, expected, tolerance<SumOf<T>>(), 4);
  });
}

TYPED_TEST(EmbeddingOfDType, GatherRowsAndItsScatter) {
  using T = TypeParam;
  constexpr int64_t kTableRows = 6;
  const std::vector<int32_t> indices = {5, 0, 3, 3};
  for (int64_t width : {1, 17, 64, 576}) {
    for_each_isa([&](const Stream& stream) {
      Guarded<T> x(kTableRows * width, 1), y(4 * width, 1);
      fill_random(x, 1);
      GatherRowsArgs args{.x = x.data(),
                          .indices = indices.data(),
                          .y = y.data(),
                          .num_indices = 4,
                          .width = width,
                          .dtype = DTypeOf<T>::value};
      cpu().embedding.gather_rows(args, stream);
      for (int64_t i = 0; i < 4 * width; ++i)
        ASSERT_EQ(to_double(y[i]), to_double(x[indices[i / width] * width + i % width]));
      std::vector<double> expected = x.values();
      for (int64_t i = 0; i < 4 * width; ++i) {
        double& cell = expected[indices[i / width] * width + i % width];
        cell = to_double(from_double<T>(cell + to_double(y[i])));
      }
      args.scatter_add = true;
      cpu().embedding.gather_rows(args, stream);
      expect_close(x, expected, tolerance<T>());
    });
  }
}

}  // namespace
}  // namespace weft
