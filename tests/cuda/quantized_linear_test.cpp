// Weights of 8 and 4 bits: the bits are the CPU's, rows come back as there, products are the CPU's up to rounding.
#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda/cuda_test.h"
#include "cuda/linear_case.h"
#include "kernels/activation.h"
#include "kernels/linear.h"

namespace weft {
namespace {

// Before the first product reads it: the kernels that have to be asked for are the ones to be compared.
[[maybe_unused]] const int kAsksForStream = setenv("WEFT_QUANTIZED_STREAM", "1", 0);

/// Element i of a sequence of normal numbers that repeats, but at no length of a row: to draw each of a large weight
/// would take most of a test's time.
float normal_number(uint64_t i) {
  constexpr uint64_t kPeriod = 65537;
  static const std::vector<float> numbers = [] {
    std::vector<float> values(kPeriod);
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(generator);
    return values;
  }();
  return numbers[i % kPeriod];
}

enum class Packing { on_cpu, on_both };

/// A weight in its packed form: made by the CPU and copied, or by each side for itself from the same rows on the host.
class PackedTwin {
 public:
  PackedTwin(int64_t n, int64_t k, Layout layout, uint32_t seed, Packing packing = Packing::on_cpu)
      : n_(n), k_(k), layout_(layout), packed_(bytes()) {
    std::vector<float> rows(static_cast<size_t>(std::min(kPackRowBlock, n) * k));
    float scale = 1 / std::sqrt(static_cast<float>(k));
    for (int64_t row = 0; row < n; row += kPackRowBlock) {
      int64_t count = std::min(kPackRowBlock, n - row);
      uint64_t first = uint64_t{seed} * 7919 + static_cast<uint64_t>(row * k);
      for (size_t i = 0; i < static_cast<size_t>(count * k); ++i) rows[i] = scale * normal_number(first + i);
      on_both([&](const Side& side) {
        if (packing == Packing::on_cpu && side.type != DeviceType::cpu) return;
        side.kernels().linear.pack({.rows = rows.data(),
                                    .packed = packed_.on(side),
                                    .row_begin = row,
                                    .num_rows = count,
                                    .out_features = n,
                                    .in_features = k,
                                    .dtype = DType::f32,
                                    .layout = layout},
                                   side.stream);
      });
    }
    if (packing == Packing::on_cpu) packed_.send();
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

/// Weights of whole panels and not, of an odd number of groups, that the warps of a block share in all sorts of ways.
TYPED_TEST(CudaQuantizedLinear, each_number_of_few_rows) {
  WEFT_NEEDS_GPU();
  for (Layout layout : kLayouts) {
    for (int64_t rows = 1; rows <= 17; ++rows) {
      for (int64_t depth : {8, 200, 2312}) {
        check_forward<TypeParam>({.rows = rows, .in_features = depth, .out_features = {300, 33}, .with_bias = true},
                                 layout);
      }
    }
  }
}

/// So many panels that blocks have several, or that several blocks take turns; and the rows of Gemma 2 2B's.
TYPED_TEST(CudaQuantizedLinear, several_panels_for_each_warp) {
  WEFT_NEEDS_GPU();
  for (Layout layout : kLayouts) {
    for (int64_t rows : {1, 2, 3, 7, 16}) {
      check_forward<TypeParam>({.rows = rows, .in_features = 96, .out_features = {20000, 3000}}, layout);
      check_forward<TypeParam>({.rows = rows, .in_features = 32, .out_features = {40, 70001}}, layout);
      check_forward<TypeParam>({.rows = rows, .in_features = 4104, .out_features = {16}}, layout);
    }
    check_forward<TypeParam>({.rows = 1, .in_features = 9216, .out_features = {2304}}, layout);
    check_forward<TypeParam>({.rows = 3, .in_features = 2304, .out_features = {2048, 1024, 1024}}, layout);
  }
}

struct GatedShape {
  int64_t rows, in_features, out_features;
};

/// By the kernel of gated products where there is one for these arrays, else by two products and an activation.
template <typename T>
void multiply_gated(const Side& side, const GatedLinearArgs& args, T* opened, T* raised, bool& was_fused) {
  const LinearKernels& linear = side.kernels().linear;
  was_fused = linear.gated_forward != nullptr && linear.gated_forward(args, side.stream);
  if (was_fused) return;
  const LinearWeight weights[] = {
      {.weight = args.gate, .y = opened, .out_features = args.out_features, .layout = args.layout},
      {.weight = args.up, .y = raised, .out_features = args.out_features, .layout = args.layout}};
  linear.forward({.x = args.x,
                  .weights = weights,
                  .rows = args.rows,
                  .in_features = args.in_features,
                  .dtype = args.dtype,
                  .y_dtype = args.dtype},
                 side.stream);
  side.kernels().activation.gated_forward({.gate = opened,
                                           .up = raised,
                                           .y = args.y,
                                           .count = args.rows * args.out_features,
                                           .activation = args.activation,
                                           .dtype = args.dtype},
                                          side.stream);
}

template <typename T>
void check_gated(const GatedShape& shape, Layout layout, Activation kind) {
  SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.in_features) + " x " +
               std::to_string(shape.out_features) + (layout == Layout::int4 ? " int4" : " int8"));
  int64_t count = shape.rows * shape.out_features;
  Twin<T> x = Twin<T>::random(shape.rows * shape.in_features, 1);
  PackedTwin gate(shape.out_features, shape.in_features, layout, 2);
  PackedTwin up(shape.out_features, shape.in_features, layout, 3);
  Twin<T> opened(count), raised(count), y(count);
  bool was_fused = false;
  on_both([&](const Side& side) {
    multiply_gated(side,
                   {.x = x.on(side),
                    .gate = gate.view(side).weight,
                    .up = up.view(side).weight,
                    .y = y.on(side),
                    .rows = shape.rows,
                    .in_features = shape.in_features,
                    .out_features = shape.out_features,
                    .activation = kind,
                    .dtype = DTypeOf<T>::value,
                    .layout = layout},
                   opened.on(side),
                   raised.on(side),
                   was_fused);
  });
  if (std::is_same_v<T, float> || shape.rows > 16) {
    EXPECT_FALSE(was_fused);
  }
  expect_near_in_norm(y, norm_limit<T>());
}

TYPED_TEST(CudaQuantizedLinear, gated_products) {
  WEFT_NEEDS_GPU();
  for (Layout layout : kLayouts) {
    for (int64_t rows : kRows) {
      check_gated<TypeParam>({rows, 576, 1536}, layout, Activation::silu);
      check_gated<TypeParam>({rows, 72, 51}, layout, Activation::gelu_tanh);
    }
    check_gated<TypeParam>({1, 2304, 9216}, layout, Activation::gelu_tanh);
    check_gated<TypeParam>({4, 32, 20000}, layout, Activation::silu);
    check_gated<TypeParam>({16, 32, 20000}, layout, Activation::silu);
  }
}

/// As a graph, where weights are read before the kernels before have ended, to the same bits.
TEST(CudaQuantized, products_in_a_step_that_runs_as_a_graph) {
  WEFT_NEEDS_GPU();
  constexpr int64_t kWidth = 1056, kHidden = 3000;
  Side side{DeviceType::cuda, {.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()}};
  for (Layout layout : kLayouts) {
    for (int64_t rows : {1, 4, 16}) {
      Twin<bfloat16> x = Twin<bfloat16>::random(rows * kWidth, 1);
      PackedTwin gate(kHidden, kWidth, layout, 2), up(kHidden, kWidth, layout, 3), down(kWidth, kHidden, layout, 4);
      Twin<bfloat16> opened(rows * kHidden), raised(rows * kHidden), hidden(rows * kHidden), y(rows * kWidth);
      auto step = [&] {
        bool was_fused = false;
        multiply_gated(side,
                       {.x = x.on(side),
                        .gate = gate.view(side).weight,
                        .up = up.view(side).weight,
                        .y = hidden.on(side),
                        .rows = rows,
                        .in_features = kWidth,
                        .out_features = kHidden,
                        .dtype = DType::bf16,
                        .layout = layout},
                       opened.on(side),
                       raised.on(side),
                       was_fused);
        LinearWeight weight = down.view(side);
        weight.y = y.on(side);
        side.kernels().linear.forward({.x = hidden.on(side),
                                       .weights = {&weight, 1},
                                       .rows = rows,
                                       .in_features = kHidden,
                                       .dtype = DType::bf16,
                                       .y_dtype = DType::bf16},
                                      side.stream);
      };
      step();
      std::vector<bfloat16> expected = y.device_values();
      for (int i = 0; i < 6; ++i) {
        gpu()->run_step(200 + static_cast<uint64_t>(layout) * 20 + static_cast<uint64_t>(rows), step, {});
        std::vector<bfloat16> values = y.device_values();
        EXPECT_EQ(std::memcmp(values.data(), expected.data(), values.size() * sizeof(bfloat16)), 0)
            << "step " << i << ", rows " << rows;
      }
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
      PackedTwin weight(kOut, width, layout, 7, Packing::on_both);
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
