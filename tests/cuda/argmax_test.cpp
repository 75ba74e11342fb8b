#include <cmath>
#include <limits>
#include <numbers>

#include "core/random.h"
#include "cuda/cuda_test.h"

namespace weft {
namespace {

template <typename T>
class CudaArgmax : public ::testing::Test {};
TYPED_TEST_SUITE(CudaArgmax, CudaDTypes);

/// The ids that the GPU finds.
template <typename T>
std::vector<int32_t> argmax_of(Twin<T>& x, int64_t rows) {
  Tensor ids = Tensor::empty(gpu(), {rows}, DType::i32);
  Stream stream{.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()};
  kernels(DeviceType::cuda)
      .elementwise.argmax({.x = x.on(Side{DeviceType::cuda, stream}),
                           .ids = ids.pointer<int32_t>(),
                           .rows = rows,
                           .width = x.size() / rows,
                           .dtype = DTypeOf<T>::value},
                          stream);
  std::vector<int32_t> result(static_cast<size_t>(rows));
  ids.copy_to_host(result.data());
  return result;
}

TYPED_TEST(CudaArgmax, FindsTheFirstLargestValueOfEachRow) {
  WEFT_NEEDS_GPU();
  for (int64_t width : {1, 5, 1000, 256000}) {
    auto x = Twin<TypeParam>::random(3 * width, 7);
    std::vector<int32_t> ids = argmax_of(x, 3);
    for (int64_t row = 0; row < 3; ++row) {
      auto begin = x.host().begin() + row * width;
      auto less = [](TypeParam a, TypeParam b) { return as_float(a) < as_float(b); };
      EXPECT_EQ(ids[static_cast<size_t>(row)], std::max_element(begin, begin + width, less) - begin) << width;
    }
  }
}

TYPED_TEST(CudaArgmax, PassesOverNotANumberAndFindsNothingWhereNothingIsFinite) {
  WEFT_NEEDS_GPU();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  auto x = Twin<TypeParam>::constant(12, kNan);
  x.host()[2] = static_cast<TypeParam>(-3.0f);
  for (size_t i = 4; i < 8; ++i) x.host()[i] = static_cast<TypeParam>(-kInfinity);
  x.send();
  EXPECT_EQ(argmax_of(x, 3), (std::vector<int32_t>{2, -1, -1}));
}

TYPED_TEST(CudaArgmax, RandomNormalsAreThoseOfTheFormula) {
  WEFT_NEEDS_GPU();
  constexpr int64_t kRows = 33, kWidth = 70, kGlobalWidth = 200;
  Twin<TypeParam> y(kRows * kWidth);
  Stream stream{.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()};
  RandomKey key{.seed = 5, .step = 1, .site = 9};
  kernels(DeviceType::cuda)
      .elementwise.random_normal({.y = y.on(Side{DeviceType::cuda, stream}),
                                  .rows = kRows,
                                  .width = kWidth,
                                  .global_width = kGlobalWidth,
                                  .row_begin = 4,
                                  .column_begin = 100,
                                  .deviation = 0.5f,
                                  .centre = 2,
                                  .key = key,
                                  .dtype = DTypeOf<TypeParam>::value},
                                 stream);
  for (int64_t i = 0; i < y.size(); ++i) {
    auto index = static_cast<uint64_t>((4 + i / kWidth) * kGlobalWidth + 100 + i % kWidth);
    float radius = std::sqrt(-2 * std::log(1 - key.uniform(2 * index)));
    float angle = 2 * std::numbers::pi_v<float> * key.uniform(2 * index + 1);
    y.host()[static_cast<size_t>(i)] = static_cast<TypeParam>(0.5f * radius * std::cos(angle) + 2);
  }
  bool is_f32 = std::is_same_v<TypeParam, float>;
  expect_same(y, is_f32 ? 2e-6 : 0x1p-7, 1e-6);
}

TEST(CudaSquares, SumOverManyArrays) {
  WEFT_NEEDS_GPU();
  std::vector<Twin<float>> arrays;
  for (int64_t count : {1, 1000, 65536, 200003}) arrays.push_back(Twin<float>::random(count, 3));
  std::vector<double> sums;
  on_both([&](const Side& side) {
    std::vector<SquaredArray> all;
    all.reserve(arrays.size());
    for (Twin<float>& array : arrays) all.push_back({array.on(side), array.size()});
    sums.push_back(side.kernels().optimizer.sum_of_all_squares(all, side.stream));
    EXPECT_EQ(side.kernels().optimizer.sum_of_all_squares({}, side.stream), 0);
  });
  EXPECT_NEAR(sums[0], sums[1], 1e-9 * sums[0]);
}

}  // namespace
}  // namespace weft
