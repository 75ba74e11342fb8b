// Weights of 8 and 4 bits: the bits are the CPU's, rows come back as there, products are the CPU's up to rounding.
#include <string>

#include "cuda/cuda_test.h"
#include "cuda/linear_case.h"
#include "kernels/activation.h"
#include "kernels/linear.h"

namespace weft {
namespace {

/// A weight that each side packs for itself from the same rows on the host.
class PackedTwin {
 public:
  PackedTwin(int64_t n, int64_t k, Layout layout, uint32_t seed) : n_(n), k_(k), layout_(layout), packed_(bytes()) {
    std::vector<float> rows(static_cast<size_t>(n * k));
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(k)));
    for (float& value : rows) value = normal(generator);
    on_both([&](const Side& side) {
      for (int64_t row = 0; row < n; row += kPackRowBlock) {
        side.kernels().linear.pack({.rows = rows.data() + row * k,
                                    .packed = packed_.on(side),
                                    .row_begin = row,
                                    .num_rows = std::min(kPackRowBlock, n - row),
                                    .out_features = n,
                                    .in_features = k,
                                    .dtype = DType::f32,
                                    .layout = layout},
                                   side.stream);
      }
    });
  }

  LinearWeight view(const Side& side) { return {.weight = packed_.on(side), .out_features = n_, .layout = layout_}; }
  int64_t out_features() const { return n_; }
  bool is_same_on_both() { return packed_.device_values() == packed_.host(); }

 private:
  int64_t bytes() const {
    return static_cast<int64_t>(kernels(DeviceType::cuda).linear.packed_bytes(n_, k_, DType::f32, layout_));
  }

  int64_t n_, k_;
  Layout layout_;
  Twin<uint8_t> packed_;
};

constexpr Layout kLayouts[] = {Layout::int8, Layout::int4};

template <typename T, typename Y = T>
void check_forward(const LinearCase& test, Layout layout) {
  Twin<T> x = Twin<T>::random(test.offset + test.rows * test.in_features, 1);
  std::vector<PackedTwin> weights;
  std::vector<Twin<T>> biases;
  std::vector<Twin<Y>> results;
  for (int64_t n : test.out_features) {
    weights.emplace_back(n, test.in_features, layout, static_cast<uint32_t>(n));
    biases.push_back(Twin<T>::random(n, static_cast<uint32_t>(n) + 1));
    results.emplace_back(test.rows * n);
  }
  on_both([&](const Side& side) {
    std::vector<LinearWeight> group;
    for (size_t i = 0; i < weights.size(); ++i) {
      group.push_back(weights[i].view(side));
      group.back().bias = test.with_bias ? biases[i].on(side) : nullptr;
      group.back().y = results[i].on(side);
    }
    side.kernels().linear.forward({.x = x.on(side) + test.offset,
                                   .weights = group,
                                   .rows = test.rows,
                                   .in_features = test.in_features,
                                   .dtype = DTypeOf<T>::value,
                                   .y_dtype = DTypeOf<Y>::value,
                                   .activation = test.activation},
                                  side.stream);
  });
  bool is_f32 = std::is_same_v<T, float>;
  for (Twin<Y>& y : results) expect_same(y, is_f32 ? 1e-5 : 1.0 / 40, is_f32 ? 4e-5 : 1e-2, test.name().c_str());
}

template <typename T>
class CudaQuantizedLinear : public ::testing::Test {};
TYPED_TEST_SUITE(CudaQuantizedLinear, CudaDTypes);

constexpr int64_t kRows[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 40};

TYPED_TEST(CudaQuantizedLinear, every_number_of_rows) {
  WEFT_NEEDS_GPU();
  for (Layout layout : kLayouts) {
    for (int64_t rows : kRows) {
      for (int64_t depth : {32, 64, 576, 1056}) check_forward<TypeParam>({.rows = rows, .in_features = depth}, layout);
      check_forward<TypeParam>({.rows = rows, .in_features = 128, .out_features = {40}, .with_bias = true}, layout);
    }
  }
}

TYPED_TEST(CudaQuantizedLinear, odd_sizes) {
  WEFT_NEEDS_GPU();
  for (Layout layout : kLayouts) {
    for (int64_t rows : kRows) {
      for (int64_t depth : {1, 7, 31, 33, 100, 258}) {
        check_forward<TypeParam>(
            {.rows = rows, .in_features = depth, .out_features = {33}, .with_bias = true, .offset = 1}, layout);
      }
      check_forward<TypeParam>({.rows = rows, .in_features = 96, .out_features = {1}}, layout);
    }
  }
}

TYPED_TEST(CudaQuantizedLinear, groups_of_weights_with_activations) {
  WEFT_NEEDS_GPU();
  for (Layout layout : kLayouts) {
    for (int64_t rows : kRows) {
      check_forward<TypeParam>({.rows = rows,
                                .in_features = 576,
                                .out_features = {576, 192, 33},
                                .with_bias = true,
                                .activation = Activation::relu},
                               layout);
      check_forward<TypeParam>(
          {.rows = rows, .in_features = 64, .out_features = {8, 16, 24, 32, 40, 48, 56, 64, 72, 80}}, layout);
    }
  }
}

TEST(CudaQuantized, f32_results_of_bf16) {
  WEFT_NEEDS_GPU();
  for (Layout layout : kLayouts) {
    for (int64_t rows : kRows) {
      check_forward<bfloat16, float>({.rows = rows, .in_features = 320, .out_features = {700}}, layout);
    }
  }
}

/// More than the scratch that a weight is widened into.
TEST(CudaQuantized, a_large_output_head_in_parts) {
  WEFT_NEEDS_GPU();
  check_forward<bfloat16, float>({.rows = 20, .in_features = 1024, .out_features = {140001}}, Layout::int8);
}

TYPED_TEST(CudaQuantizedLinear, bits_and_unpacked_rows_are_the_cpus) {
  WEFT_NEEDS_GPU();
  constexpr int64_t kOut = 150;
  std::vector<int32_t> indices = {149, 0, -1, 17, 16, 15, 64};
  for (int i = 0; i < 300; ++i) indices.push_back(i % 150);
  for (Layout layout : kLayouts) {
    for (int64_t width : {1, 31, 64, 100, 256}) {
      PackedTwin weight(kOut, width, layout, 7);
      EXPECT_TRUE(weight.is_same_on_both()) << width;
      for (size_t count : {size_t{7}, indices.size()}) {
        Twin<TypeParam> rows(static_cast<int64_t>(count) * width);
        on_both([&](const Side& side) {
          side.kernels().linear.unpack_rows({.packed = weight.view(side).weight,
                                             .indices = indices.data(),
                                             .rows = rows.on(side),
                                             .num_indices = static_cast<int64_t>(count),
                                             .out_features = kOut,
                                             .in_features = width,
                                             .dtype = DTypeOf<TypeParam>::value,
                                             .layout = layout},
                                            side.stream);
        });
        expect_same(rows, 0, 0, "rows");
      }
    }
  }
}

}  // namespace
}  // namespace weft
