// Weights of 8 and 4 bits: how far rounding goes, and products against a reference in double with the rounded weights.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <utility>
#include <vector>

#include "kernel_test.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/host_packing.h"

namespace weft {
namespace {

constexpr Layout kLayouts[] = {Layout::int8, Layout::int4};

std::string name_of(Layout layout) {
  return layout == Layout::int8 ? "int8" : "int4";
}

/// A quantized weight and what its codes stand for.
struct Quantized {
  int64_t out_features, in_features;
  Layout layout;
  Guarded<unsigned char> packed;

  Quantized(const Guarded<float>& weight, int64_t n, int64_t k, Layout kind, int num_threads = 1)
      : out_features(n),
        in_features(k),
        layout(kind),
        packed(static_cast<int64_t>(cpu_linear_kernels().packed_bytes(n, k, DType::f32, kind))) {
    for (int64_t row = 0; row < n; row += kPackRowBlock) {
      cpu_linear_kernels().pack({.rows = weight.data() + row * k,
                                 .packed = packed.data(),
                                 .row_begin = row,
                                 .num_rows = std::min(kPackRowBlock, n - row),
                                 .out_features = n,
                                 .in_features = k,
                                 .dtype = DType::f32,
                                 .layout = kind},
                                Stream{.device = {}, .num_threads = num_threads});
    }
  }

  template <typename T>
  void unpack(const std::vector<int32_t>& indices, Guarded<T>& rows) const {
    cpu_linear_kernels().unpack_rows({.packed = packed.data(),
                                      .indices = indices.data(),
                                      .rows = rows.data(),
                                      .num_indices = static_cast<int64_t>(indices.size()),
                                      .out_features = out_features,
                                      .in_features = in_features,
                                      .dtype = DTypeOf<T>::value,
                                      .layout = layout},
                                     Stream{.device = {}, .num_threads = 2});
  }

  std::vector<double> values() const {
    std::vector<int32_t> all;
    for (int64_t row = 0; row < out_features; ++row) all.push_back(static_cast<int32_t>(row));
    Guarded<float> rows(out_features * in_features);
    unpack(all, rows);
    EXPECT_TRUE(rows.intact());
    return rows.values();
  }
};

/// The largest rounding error of a group: half a step, and what the scale's and minimum's own rounding to f16 adds.
double largest_error(const float* group, int64_t count, Layout layout) {
  double least = group[0], largest = group[0], size = 0;
  for (int64_t i = 0; i < count; ++i) {
    least = std::min<double>(least, group[i]);
    largest = std::max<double>(largest, group[i]);
    size = std::max<double>(size, std::abs(group[i]));
  }
  constexpr double kSmallestHalf = 0x1p-24;
  if (layout == Layout::int8) return 0.5 * size / 127 * 1.13 + kSmallestHalf;
  return 0.5 * (largest - least) / 15 * 1.03 + size * 0x1p-11 + 2 * kSmallestHalf;
}

TEST(QuantizedWeights, errors_stay_within_half_a_step_of_each_group) {
  for (Layout layout : kLayouts) {
    for (double scale : {1.0, 0.02, 1e-4, 300.0}) {
      for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {16, 32}, {17, 33}, {70, 31}, {130, 200}}) {
        SCOPED_TRACE(name_of(layout) + " " + std::to_string(scale) + " " + std::to_string(k));
        Guarded<float> weight(n * k);
        fill_random(weight, 11, scale);
        Quantized quantized(weight, n, k, layout);
        EXPECT_TRUE(quantized.packed.intact());
        std::vector<double> values = quantized.values();
        for (int64_t row = 0; row < n; ++row) {
          for (int64_t begin = 0; begin < k; begin += kQuantizationGroup) {
            int64_t count = std::min(kQuantizationGroup, k - begin);
            double limit = largest_error(weight.data() + row * k + begin, count, layout);
            for (int64_t i = row * k + begin; i < row * k + begin + count; ++i) {
              ASSERT_NEAR(values[static_cast<size_t>(i)], weight[i], limit) << i;
            }
          }
        }
      }
    }
  }
}

TEST(QuantizedWeights, what_codes_can_say_comes_back_as_it_was) {
  constexpr int64_t kRows = 33, kWidth = 96;
  for (Layout layout : kLayouts) {
    Guarded<float> weight(kRows * kWidth);
    bool is_int4 = layout == Layout::int4;
    for (int64_t i = 0; i < weight.size(); ++i) {
      int64_t group = i / kQuantizationGroup;
      float scale = static_cast<float>(1 + group % 7) * 0x1p-9f;
      int64_t code = is_int4 ? (i * 7) % 16 : (i * 37) % 255 - 127;
      if (i % kQuantizationGroup == 0) code = is_int4 ? 0 : -127;
      if (i % kQuantizationGroup == 1) code = is_int4 ? 15 : 0;
      float minimum = is_int4 ? -static_cast<float>(group % 5) * 0x1p-6f : 0;
      weight[i] = scale * static_cast<float>(code) + minimum;
    }
    EXPECT_EQ(Quantized(weight, kRows, kWidth, layout).values(), weight.values()) << name_of(layout);
  }
}

TEST(QuantizedWeights, equal_numbers_zeros_and_huge_ones_keep_their_value) {
  for (Layout layout : kLayouts) {
    Guarded<float> weight(3 * 32);
    for (int64_t i = 0; i < 32; ++i) {
      weight[i] = 0.125f;
      weight[32 + i] = 0;
      weight[64 + i] = i % 2 == 0 ? 5e4f : -5e4f;
    }
    std::vector<double> values = Quantized(weight, 3, 32, layout).values();
    for (size_t i = 0; i < 32; ++i) {
      EXPECT_NEAR(values[i], 0.125, 1e-4);
      EXPECT_EQ(values[32 + i], 0);
      EXPECT_NEAR(values[64 + i], i % 2 == 0 ? 5e4 : -5e4, 60);
    }
  }
}

TEST(QuantizedWeights, a_number_that_is_not_finite_spoils_its_group_only) {
  for (Layout layout : kLayouts) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Guarded<float> weight(64);
      fill_random(weight, 3);
      weight[5] = bad;
      Quantized quantized(weight, 1, 64, layout);
      std::vector<double> values = quantized.values();
      for (size_t i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(values[i]), i < 32) << i;
      for_each_isa([&](const Stream& stream) {
        Guarded<float> x(64), y(1);
        fill_random(x, 4);
        LinearWeight view{.weight = quantized.packed.data(), .y = y.data(), .out_features = 1, .layout = layout};
        cpu_linear_kernels().forward({.x = x.data(), .weights = {&view, 1}, .rows = 1, .in_features = 64}, stream);
        EXPECT_TRUE(std::isnan(y[0]));
      });
    }
  }
}

TEST(QuantizedWeights, bits_do_not_depend_on_threads_or_blocks_of_rows) {
  constexpr int64_t kRows = 200, kWidth = 70;
  Guarded<float> weight(kRows * kWidth);
  fill_random(weight, 5);
  for (Layout layout : kLayouts) {
    Quantized blocks(weight, kRows, kWidth, layout), whole(weight, kRows, kWidth, layout);
    cpu_linear_kernels().pack({.rows = weight.data(),
                               .packed = whole.packed.data(),
                               .num_rows = kRows,
                               .out_features = kRows,
                               .in_features = kWidth,
                               .dtype = DType::f32,
                               .layout = layout},
                              Stream{.device = {}, .num_threads = 3});
    EXPECT_EQ(std::memcmp(blocks.packed.data(), whole.packed.data(), static_cast<size_t>(whole.packed.size())), 0);
  }
}

TEST(QuantizedWeights, packed_on_the_host_for_a_device_have_the_same_bits) {
  constexpr int64_t kRows = 150, kWidth = 70;
  std::shared_ptr<Allocator> device = make_cpu_allocator();
  Guarded<float> weight(kRows * kWidth);
  fill_random(weight, 8);
  for (Layout layout : kLayouts) {
    Quantized expected(weight, kRows, kWidth, layout);
    Guarded<unsigned char> packed(expected.packed.size());
    for (auto [begin, count] : {std::pair<int64_t, int64_t>{128, 22}, {0, 128}}) {
      pack_on_host({.rows = weight.data() + begin * kWidth,
                    .packed = packed.data(),
                    .row_begin = begin,
                    .num_rows = count,
                    .out_features = kRows,
                    .in_features = kWidth,
                    .dtype = DType::f32,
                    .layout = layout},
                   Stream{.device = {}, .num_threads = 1, .workspace = device.get()});
    }
    EXPECT_EQ(std::memcmp(packed.data(), expected.packed.data(), static_cast<size_t>(packed.size())), 0);
  }
}

TEST(QuantizedWeights, take_so_many_bytes) {
  auto bytes = cpu_linear_kernels().packed_bytes;
  for (DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_EQ(bytes(64, 128, dtype, Layout::int8), 64u * 128 * 34 / 32);
    EXPECT_EQ(bytes(64, 128, dtype, Layout::int4), 64u * 128 * 20 / 32);
  }
  EXPECT_EQ(bytes(64, 128, DType::f64, Layout::int8), 0u);
}

TEST(QuantizedWeights, rows_come_back_in_any_order_and_absent_ones_as_zeros) {
  constexpr int64_t kRows = 70, kWidth = 45;
  Guarded<float> weight(kRows * kWidth);
  fill_random(weight, 6);
  std::vector<int32_t> indices = {69, 0, -1, 16, 15};
  for (Layout layout : kLayouts) {
    Quantized quantized(weight, kRows, kWidth, layout);
    std::vector<double> values = quantized.values();
    Guarded<bfloat16> rows(static_cast<int64_t>(indices.size()) * kWidth);
    quantized.unpack(indices, rows);
    EXPECT_TRUE(rows.intact());
    for (int64_t i = 0; i < rows.size(); ++i) {
      int32_t index = indices[static_cast<size_t>(i / kWidth)];
      double expected = index < 0 ? 0 : values[static_cast<size_t>(index * kWidth + i % kWidth)];
      EXPECT_EQ(static_cast<float>(rows[i]), static_cast<float>(bfloat16(static_cast<float>(expected)))) << i;
    }
  }
}

struct Shape {
  int64_t rows, out_features, in_features;
  bool has_bias = false;
};

/// Sums are f32 in any order; beyond few rows bf16 products round the weights to bf16 first.
template <typename T, typename Y>
void check_product(const Shape& shape, Layout layout, const Stream& stream) {
  auto [rows, n, k, has_bias] = shape;
  SCOPED_TRACE(name_of(layout) + " M " + std::to_string(rows) + " N " + std::to_string(n) + " K " + std::to_string(k));
  Guarded<float> weight(n * k);
  Guarded<T> x(rows * k, 1), bias(n, 1);
  Guarded<Y> y(rows * n, 1);
  fill_random(weight, 21);
  fill_random(x, 22);
  fill_random(bias, 23);
  Quantized quantized(weight, n, k, layout);
  std::vector<double> values = quantized.values(), inputs = x.values(), biases = bias.values(), found;
  LinearWeight view{.weight = quantized.packed.data(),
                    .bias = has_bias ? bias.data() : nullptr,
                    .y = y.data(),
                    .out_features = n,
                    .layout = layout};
  cpu_linear_kernels().forward({.x = x.data(),
                                .weights = {&view, 1},
                                .rows = rows,
                                .in_features = k,
                                .dtype = DTypeOf<T>::value,
                                .y_dtype = DTypeOf<Y>::value},
                               stream);
  EXPECT_TRUE(y.intact());
  found = y.values();
  double weight_rounding = DTypeOf<T>::value == DType::bf16 ? 0x1p-9 : 0;
  double result_rounding = DTypeOf<Y>::value == DType::bf16 ? 0x1p-8 : 0x1p-24;
  for (int64_t i = 0; i < rows * n; ++i) {
    double sum = has_bias ? biases[static_cast<size_t>(i % n)] : 0, magnitude = std::abs(sum);
    for (int64_t j = 0; j < k; ++j) {
      double input = inputs[static_cast<size_t>(i / n * k + j)];
      sum += input * values[static_cast<size_t>(i % n * k + j)];
      // Codes and minimum are multiplied apart: both are as large as the group's largest weight.
      magnitude += std::abs(input) * 8;
    }
    double limit =
        magnitude * (weight_rounding + static_cast<double>(k + 4) * 0x1p-24) + std::abs(sum) * result_rounding;
    ASSERT_NEAR(found[static_cast<size_t>(i)], sum, limit) << "element " << i;
  }
}

void check_all_types(const Shape& shape, Layout layout, const Stream& stream) {
  check_product<float, float>(shape, layout, stream);
  check_product<bfloat16, bfloat16>(shape, layout, stream);
  check_product<bfloat16, float>(shape, layout, stream);
}

TEST(QuantizedLinear, is_right_at_every_edge_of_n_and_k) {
  for_each_isa([](const Stream& stream) {
    for (Layout layout : kLayouts) {
      for (int64_t n : {1, 2, 15, 16, 17, 33, 64, 65}) {
        check_all_types({.rows = 2, .out_features = n, .in_features = 40, .has_bias = n % 2 == 1}, layout, stream);
      }
      for (int64_t k = 1; k <= 70; k += k < 34 ? 1 : 9) {
        check_all_types({.rows = 3, .out_features = 20, .in_features = k, .has_bias = true}, layout, stream);
        check_all_types({.rows = 20, .out_features = 35, .in_features = k}, layout, stream);
      }
    }
  });
}

TEST(QuantizedLinear, is_right_at_every_number_of_rows) {
  for_each_isa([](const Stream& stream) {
    for (Layout layout : kLayouts) {
      for (int64_t rows = 1; rows <= 40; ++rows) {
        check_all_types({.rows = rows, .out_features = 35, .in_features = 75, .has_bias = true}, layout, stream);
      }
      check_all_types({.rows = 1, .out_features = 700, .in_features = 300}, layout, stream);
      check_all_types({.rows = 301, .out_features = 70, .in_features = 97}, layout, stream);
      check_all_types({.rows = 130, .out_features = 35, .in_features = 2048}, layout, stream);
    }
  });
}

TEST(QuantizedLinear, is_the_same_on_any_number_of_threads) {
  constexpr int64_t kOut = 330, kIn = 190;
  Guarded<float> weight(kOut * kIn);
  fill_random(weight, 31);
  for_each_isa([&](const Stream& stream) {
    for (Layout layout : kLayouts) {
      Quantized quantized(weight, kOut, kIn, layout);
      for (int64_t rows : {1, 3, 7, 37}) {
        Guarded<bfloat16> x(rows * kIn), first(rows * kOut), y(rows * kOut);
        fill_random(x, 32);
        for (int num_threads : {1, 2, 3}) {
          LinearWeight view{.weight = quantized.packed.data(), .y = y.data(), .out_features = kOut, .layout = layout};
          Stream threads = stream;
          threads.num_threads = num_threads;
          cpu_linear_kernels().forward({.x = x.data(),
                                        .weights = {&view, 1},
                                        .rows = rows,
                                        .in_features = kIn,
                                        .dtype = DType::bf16,
                                        .y_dtype = DType::bf16},
                                       threads);
          if (num_threads == 1) std::memcpy(first.data(), y.data(), static_cast<size_t>(y.size()) * sizeof(bfloat16));
          EXPECT_EQ(first.values(), y.values()) << rows << " rows, " << num_threads << " threads";
        }
      }
    }
  });
}

TEST(QuantizedLinear, weights_that_share_an_input_may_differ_in_layout_and_take_an_activation) {
  constexpr int64_t kIn = 64, kRows = 2;
  std::vector<int64_t> widths = {20, 33, 48};
  Guarded<float> weight(48 * kIn), x(kRows * kIn);
  fill_random(weight, 41);
  fill_random(x, 42);
  for_each_isa([&](const Stream& stream) {
    Quantized int8(weight, 20, kIn, Layout::int8), int4(weight, 33, kIn, Layout::int4);
    std::deque<Guarded<float>> together, alone;
    std::vector<LinearWeight> views;
    for (size_t i = 0; i < 3; ++i) {
      together.emplace_back(kRows * widths[i]);
      alone.emplace_back(kRows * widths[i]);
    }
    auto views_on = [&](std::deque<Guarded<float>>& y) {
      return std::vector<LinearWeight>{
          {.weight = int8.packed.data(), .y = y[0].data(), .out_features = 20, .layout = Layout::int8},
          {.weight = int4.packed.data(), .y = y[1].data(), .out_features = 33, .layout = Layout::int4},
          {.weight = weight.data(), .y = y[2].data(), .out_features = 48}};
    };
    auto run = [&](std::span<const LinearWeight> span) {
      cpu_linear_kernels().forward(
          {.x = x.data(), .weights = span, .rows = kRows, .in_features = kIn, .activation = Activation::relu}, stream);
    };
    run(views_on(together));
    for (const LinearWeight& one : views_on(alone)) run({&one, 1});
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(together[i].values(), alone[i].values()) << i;
      bool has_zero = false;
      for (double value : together[i].values()) {
        EXPECT_GE(value, 0);
        has_zero = has_zero || value == 0;
      }
      EXPECT_TRUE(has_zero) << i;
    }
  });
}

}  // namespace
}  // namespace weft
