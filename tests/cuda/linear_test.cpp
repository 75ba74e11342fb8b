// Products with a weight: few rows (small_product.cu), many rows (cuBLASLt), both gradients.
#include "kernels/linear.h"

#include <cstring>
#include <string>

#include "cuda/cuda_test.h"
#include "cuda/linear_case.h"
#include "kernels/activation.h"

namespace weft {
namespace {

/// Weights that keep results near 1, so that what rounding allows is the same for every K.
template <typename T>
Twin<T> random_weight(int64_t count, int64_t in_features, uint32_t seed) {
  return Twin<T>::random(count, seed, 1 / std::sqrt(static_cast<float>(std::max<int64_t>(1, in_features))));
}

/// bf16 may have been rounded before the activation as well; a tail of GELU multiplies what that changes.
template <typename Y>
void expect_products(Twin<Y>& y, const std::string& what) {
  bool is_f32 = std::is_same_v<Y, float>;
  // A bias or a former value that cancels leaves the rounding of what was there before it.
  expect_same(y, is_f32 ? 1e-5 : 1.0 / 40, is_f32 ? 4e-5 : 1e-2, what.c_str());
}

template <typename T, typename Y = T>
void check_forward(const LinearCase& test) {
  int64_t offset = test.offset;
  Twin<T> x = Twin<T>::random(offset + test.rows * test.in_features, 1);
  std::vector<Twin<T>> weights, biases;
  std::vector<Twin<Y>> results;
  for (int64_t n : test.out_features) {
    weights.push_back(random_weight<T>(offset + n * test.in_features, test.in_features, static_cast<uint32_t>(n)));
    biases.push_back(Twin<T>::random(offset + n, static_cast<uint32_t>(n) + 1));
    results.emplace_back(offset + std::max<int64_t>(1, test.rows) * n);
  }
  on_both([&](const Side& side) {
    std::vector<LinearWeight> group;
    for (size_t i = 0; i < weights.size(); ++i) {
      group.push_back({.weight = weights[i].on(side) + offset,
                       .bias = test.with_bias ? biases[i].on(side) + offset : nullptr,
                       .y = results[i].on(side) + offset,
                       .out_features = test.out_features[i]});
    }
    side.kernels().linear.forward({.x = x.on(side) + offset,
                                   .weights = group,
                                   .rows = test.rows,
                                   .in_features = test.in_features,
                                   .dtype = DTypeOf<T>::value,
                                   .y_dtype = DTypeOf<Y>::value,
                                   .activation = test.activation},
                                  side.stream);
  });
  for (Twin<Y>& y : results) expect_products(y, test.name());
}

template <typename T>
class CudaLinear : public ::testing::Test {};
TYPED_TEST_SUITE(CudaLinear, CudaDTypes);

constexpr int64_t kRows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 128, 300};

TYPED_TEST(CudaLinear, every_number_of_rows) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : kRows) {
    for (int64_t depth : {64, 576, 1000}) check_forward<TypeParam>({.rows = rows, .in_features = depth});
    check_forward<TypeParam>({.rows = rows, .in_features = 136, .out_features = {40}, .with_bias = true});
  }
}

TYPED_TEST(CudaLinear, odd_sizes) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : kRows) {
    for (int64_t depth : {1, 7, 77, 100, 258}) {
      check_forward<TypeParam>({.rows = rows, .in_features = depth, .out_features = {33}, .with_bias = depth > 7});
    }
    check_forward<TypeParam>({.rows = rows, .in_features = 64, .out_features = {1}, .with_bias = true});
    check_forward<TypeParam>({.rows = rows, .in_features = 8, .out_features = {17}});
  }
}

TYPED_TEST(CudaLinear, groups_of_weights) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : kRows) {
    for (bool with_bias : {false, true}) {
      check_forward<TypeParam>(
          {.rows = rows, .in_features = 576, .out_features = {576, 192, 192}, .with_bias = with_bias});
      check_forward<TypeParam>({.rows = rows, .in_features = 96, .out_features = {65, 3, 130}, .with_bias = with_bias});
    }
    check_forward<TypeParam>(
        {.rows = rows, .in_features = 64, .out_features = {8, 16, 24, 32, 40, 48, 56, 64, 72, 80}});
  }
}

TYPED_TEST(CudaLinear, every_activation) {
  WEFT_NEEDS_GPU();
  for (Activation activation : {Activation::silu,
                                Activation::gelu_tanh,
                                Activation::gelu_erf,
                                Activation::relu,
                                Activation::identity,
                                Activation::tanh,
                                Activation::sigmoid,
                                Activation::squared_relu}) {
    for (int64_t rows : {1, 4, 12, 40}) {
      for (int64_t n : {72, 51}) {
        LinearCase test{
            .rows = rows, .in_features = 128, .out_features = {n}, .with_bias = true, .activation = activation};
        check_forward<TypeParam>(test);
        test.with_bias = false;
        check_forward<TypeParam>(test);
      }
    }
  }
}

TYPED_TEST(CudaLinear, gated_products) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  struct Shape {
    int64_t rows, in_features, out_features;
  };
  for (const Shape& shape :
       std::vector<Shape>{{1, 2304, 9216}, {2, 576, 1536}, {1, 64, 5}, {2, 8, 1}, {1, 4096, 700}}) {
    SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.in_features) + " x " +
                 std::to_string(shape.out_features));
    int64_t weight_count = shape.in_features * shape.out_features, count = shape.rows * shape.out_features;
    float scale = 1 / std::sqrt(static_cast<float>(shape.in_features));
    Twin<T> x = Twin<T>::random(shape.rows * shape.in_features, 1);
    Twin<T> gate = Twin<T>::random(weight_count, 2, scale), up = Twin<T>::random(weight_count, 3, scale);
    for (Activation kind : {Activation::silu, Activation::gelu_tanh}) {
      Twin<T> opened(count), raised(count), y(count);
      on_both([&](const Side& side) {
        const LinearKernels& linear = side.kernels().linear;
        if (linear.gated_forward != nullptr) {
          EXPECT_TRUE(linear.gated_forward({.x = x.on(side),
                                            .gate = gate.on(side),
                                            .up = up.on(side),
                                            .y = y.on(side),
                                            .rows = shape.rows,
                                            .in_features = shape.in_features,
                                            .out_features = shape.out_features,
                                            .activation = kind,
                                            .dtype = DTypeOf<T>::value},
                                           side.stream));
          return;
        }
        const LinearWeight weights[] = {
            {.weight = gate.on(side), .y = opened.on(side), .out_features = shape.out_features},
            {.weight = up.on(side), .y = raised.on(side), .out_features = shape.out_features}};
        linear.forward({.x = x.on(side),
                        .weights = weights,
                        .rows = shape.rows,
                        .in_features = shape.in_features,
                        .dtype = DTypeOf<T>::value,
                        .y_dtype = DTypeOf<T>::value},
                       side.stream);
        side.kernels().activation.gated_forward({.gate = opened.on(side),
                                                 .up = raised.on(side),
                                                 .y = y.on(side),
                                                 .count = count,
                                                 .activation = kind,
                                                 .dtype = DTypeOf<T>::value},
                                                side.stream);
      });
      expect_near_in_norm(y, norm_limit<T>());
    }
  }
}

TYPED_TEST(CudaLinear, misaligned_arrays) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : kRows) {
    check_forward<TypeParam>(
        {.rows = rows, .in_features = 64, .out_features = {48, 64}, .with_bias = true, .offset = 1});
    check_forward<TypeParam>({.rows = rows,
                              .in_features = 64,
                              .out_features = {48},
                              .with_bias = true,
                              .activation = Activation::silu,
                              .offset = 2});
  }
}

/// So many rows of a weight that no two warps share them, and such long ones that all do.
TYPED_TEST(CudaLinear, long_and_wide_weights) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : {1, 2, 4, 8, 16}) {
    check_forward<TypeParam>({.rows = rows, .in_features = 32, .out_features = {20000, 90001}});
    check_forward<TypeParam>({.rows = rows, .in_features = 8200, .out_features = {24}});
    check_forward<TypeParam>({.rows = rows, .in_features = 2048, .out_features = {640}, .with_bias = true});
  }
}

/// Several tiles for each warp, whose loads run on from tile to tile; parts of rows that are no whole steps.
TYPED_TEST(CudaLinear, several_tiles_for_each_warp) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : {1, 2, 3, 4, 8, 16}) {
    check_forward<TypeParam>({.rows = rows, .in_features = 1160, .out_features = {3001, 1500}, .with_bias = true});
    check_forward<TypeParam>({.rows = rows, .in_features = 4104, .out_features = {700}});
    check_forward<TypeParam>({.rows = rows, .in_features = 40, .out_features = {9001, 5, 7003}});
  }
}

/// A weight that takes so long that blocks share multiprocessors and come in turns.
TEST(CudaLinearTest, blocks_in_turns) {
  WEFT_NEEDS_GPU();
  constexpr int64_t kDepth = 4096, kFeatures = 48001, kPattern = 1 << 20;
  Twin<bfloat16> x = Twin<bfloat16>::random(4 * kDepth, 1), pattern = random_weight<bfloat16>(kPattern, kDepth, 2);
  Twin<bfloat16> weight(kDepth * kFeatures);
  for (int64_t i = 0; i < weight.size(); ++i) {  // each row of the pattern comes later by one
    weight.host()[static_cast<size_t>(i)] = pattern.host()[static_cast<size_t>((i + i / kPattern) % kPattern)];
  }
  weight.send();
  for (int64_t rows : {1, 2, 4}) {
    Twin<bfloat16> y(rows * kFeatures);
    on_both([&](const Side& side) {
      LinearWeight one{.weight = weight.on(side), .y = y.on(side), .out_features = kFeatures};
      side.kernels().linear.forward({.x = x.on(side),
                                     .weights = {&one, 1},
                                     .rows = rows,
                                     .in_features = kDepth,
                                     .dtype = DType::bf16,
                                     .y_dtype = DType::bf16},
                                    side.stream);
    });
    expect_products(y, "rows " + std::to_string(rows));
  }
}

/// Calls that follow each other without a pause, each on what the one before it wrote, over memory that is used again.
TYPED_TEST(CudaLinear, chains_of_products) {
  WEFT_NEEDS_GPU();
  constexpr int64_t kWidth = 1024, kCalls = 40;
  for (int64_t rows : {1, 2, 4, 12}) {
    Twin<TypeParam> x = Twin<TypeParam>::random(rows * kWidth, 1), y(rows * kWidth);
    Twin<TypeParam> weight = random_weight<TypeParam>(kWidth * kWidth, kWidth, 2);
    on_both([&](const Side& side) {
      for (int64_t call = 0; call < kCalls; ++call) {
        LinearWeight one{.weight = weight.on(side), .y = (call % 2 == 0 ? y : x).on(side), .out_features = kWidth};
        side.kernels().linear.forward({.x = (call % 2 == 0 ? x : y).on(side),
                                       .weights = {&one, 1},
                                       .rows = rows,
                                       .in_features = kWidth,
                                       .dtype = DTypeOf<TypeParam>::value,
                                       .y_dtype = DTypeOf<TypeParam>::value},
                                      side.stream);
      }
    });
    expect_near_in_norm(x, std::is_same_v<TypeParam, float> ? 1e-4 : 0.05, "chain");
  }
}

TYPED_TEST(CudaLinear, no_inputs_give_the_bias) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : {1, 5, 20}) {
    Twin<TypeParam> x(1), bias = Twin<TypeParam>::random(24, 3), y(rows * 24);
    on_both([&](const Side& side) {
      LinearWeight weight{.weight = x.on(side), .bias = bias.on(side), .y = y.on(side), .out_features = 24};
      // The CPU's packed products want at least one input: what they would give is written down instead.
      if (side.type == DeviceType::cpu) {
        for (int64_t i = 0; i < rows * 24; ++i) y.host()[i] = bias.host()[i % 24];
        return;
      }
      side.kernels().linear.forward({.x = x.on(side),
                                     .weights = {&weight, 1},
                                     .rows = rows,
                                     .in_features = 0,
                                     .dtype = DTypeOf<TypeParam>::value,
                                     .y_dtype = DTypeOf<TypeParam>::value},
                                    side.stream);
    });
    expect_same(y, 0, 0, "bias");
  }
}

TEST(CudaLinearTest, f32_results_of_bf16) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : kRows) {
    for (bool with_bias : {false, true}) {
      check_forward<bfloat16, float>(
          {.rows = rows, .in_features = 576, .out_features = {200, 33}, .with_bias = with_bias});
      check_forward<bfloat16, float>({.rows = rows, .in_features = 77, .out_features = {64}, .with_bias = with_bias});
    }
    check_forward<bfloat16, float>({.rows = rows,
                                    .in_features = 64,
                                    .out_features = {64},
                                    .with_bias = true,
                                    .activation = Activation::gelu_tanh});
  }
}

struct BackwardCase {
  int64_t rows, out_features, in_features;
};
constexpr BackwardCase kBackwardCases[] = {{0, 24, 16},
                                           {1, 64, 64},
                                           {2, 33, 77},
                                           {5, 576, 192},
                                           {9, 1, 40},
                                           {17, 40, 1},
                                           {64, 65, 66},
                                           {128, 576, 576},
                                           {300, 264, 136},
                                           {333, 99, 101},
                                           {700, 1000, 24}};

TYPED_TEST(CudaLinear, gradient_of_the_input) {
  WEFT_NEEDS_GPU();
  for (const BackwardCase& test : kBackwardCases) {
    for (bool accumulate : {false, true}) {
      Twin<TypeParam> dy = Twin<TypeParam>::random(std::max<int64_t>(1, test.rows) * test.out_features, 1);
      Twin<TypeParam> weight =
          random_weight<TypeParam>(test.out_features * test.in_features, test.out_features, /*seed=*/2);
      int64_t count = std::max<int64_t>(1, test.rows) * test.in_features;
      Twin<TypeParam> dx = accumulate ? Twin<TypeParam>::random(count, 3) : Twin<TypeParam>(count);
      on_both([&](const Side& side) {
        side.kernels().linear.backward_input({.dy = dy.on(side),
                                              .weight = weight.on(side),
                                              .dx = dx.on(side),
                                              .rows = test.rows,
                                              .out_features = test.out_features,
                                              .in_features = test.in_features,
                                              .dtype = DTypeOf<TypeParam>::value,
                                              .accumulate = accumulate},
                                             side.stream);
      });
      expect_products(dx, "dx, rows " + std::to_string(test.rows));
    }
  }
}

/// The gradients of weight and bias, each wanted or not, overwritten or added to.
template <typename T>
void check_backward_weight(const BackwardCase& test, bool accumulate, bool wants_weight, bool wants_bias) {
  float scale = 1 / std::sqrt(static_cast<float>(std::max<int64_t>(1, test.rows)));
  Twin<T> dy = Twin<T>::random(std::max<int64_t>(1, test.rows) * test.out_features, 1, scale);
  Twin<T> x = Twin<T>::random(std::max<int64_t>(1, test.rows) * test.in_features, 2);
  int64_t count = test.out_features * test.in_features;
  Twin<float> dw = accumulate ? Twin<float>::random(count, 3) : Twin<float>(count);
  Twin<float> dbias = accumulate ? Twin<float>::random(test.out_features, 4) : Twin<float>(test.out_features);
  on_both([&](const Side& side) {
    side.kernels().linear.backward_weight({.dy = dy.on(side),
                                           .x = x.on(side),
                                           .dw = wants_weight ? dw.on(side) : nullptr,
                                           .dbias = wants_bias ? dbias.on(side) : nullptr,
                                           .rows = test.rows,
                                           .out_features = test.out_features,
                                           .in_features = test.in_features,
                                           .dtype = DTypeOf<T>::value,
                                           .accumulate_weight = accumulate,
                                           .accumulate_bias = accumulate},
                                          side.stream);
  });
  std::string rows = ", rows " + std::to_string(test.rows);
  expect_products(dw, "dw" + rows);
  expect_products(dbias, "dbias" + rows);
}

TYPED_TEST(CudaLinear, gradients_of_the_weight_and_the_bias) {
  WEFT_NEEDS_GPU();
  for (const BackwardCase& test : kBackwardCases) {
    for (bool accumulate : {false, true}) check_backward_weight<TypeParam>(test, accumulate, true, true);
  }
  check_backward_weight<TypeParam>({40, 48, 56}, true, true, false);
  check_backward_weight<TypeParam>({40, 48, 56}, false, false, true);
}

/// Many rows and few columns: the sums of a bias's gradient go through several blocks.
TYPED_TEST(CudaLinear, gradient_of_a_bias_over_many_rows) {
  WEFT_NEEDS_GPU();
  check_backward_weight<TypeParam>({20011, 72, 8}, true, false, true);
  check_backward_weight<TypeParam>({20011, 71, 8}, false, false, true);
}

TYPED_TEST(CudaLinear, weights_that_are_not_quantized_stay_row_major) {
  WEFT_NEEDS_GPU();
  on_both([](const Side& side) {
    if (side.type != DeviceType::cuda) return;
    EXPECT_EQ(side.kernels().linear.packed_bytes(64, 64, DTypeOf<TypeParam>::value, Layout::packed), 0u);
  });
}

}  // namespace
}  // namespace weft
