#include "kernels/optimizer.h"

#include <bit>
#include <limits>

#include "kernel_test.h"

namespace weft {
namespace {

/// A run of weights in one way of keeping them.
struct KeptWeights {
  WeightStorage storage;
  DType dtype;
};
constexpr KeptWeights kAllKept[] = {{WeightStorage::own, DType::f32},
                                    {WeightStorage::own, DType::bf16},
                                    {WeightStorage::low_bits, DType::bf16},
                                    {WeightStorage::rounded, DType::f32},
                                    {WeightStorage::stochastic, DType::bf16}};

class WeightBuffer {
 public:
  WeightBuffer(KeptWeights kept, int64_t count)
      : kept_(kept), f32_(count, 1), bf16_(count, 3), low_(count, 1), master_(count, 3) {}

  OptimizerWeight view() {
    OptimizerWeight weight{.dtype = kept_.dtype, .storage = kept_.storage};
    weight.weight = kept_.dtype == DType::bf16 ? static_cast<void*>(bf16_.data()) : f32_.data();
    if (kept_.storage == WeightStorage::low_bits) weight.extra = low_.data();
    if (kept_.storage == WeightStorage::rounded) weight.extra = master_.data();
    weight.map = {.first = 5, .local_width = 7, .full_width = 20, .offset = 3};
    weight.key = {.seed = 0x1234567890abcdef, .step = 3, .site = 77};
    return weight;
  }
  void store(Guarded<float>& values, const Stream& stream) {
    cpu().optimizer.store_master({.weight = view(), .values = values.data(), .count = values.size()}, stream);
  }
  std::vector<double> masters(const Stream& stream) {
    Guarded<float> values(f32_.size(), 2);
    cpu().optimizer.load_master({.weight = view(), .values = values.data(), .count = values.size()}, stream);
    return values.values();
  }
  std::vector<double> weights() const { return kept_.dtype == DType::bf16 ? bf16_.values() : f32_.values(); }

 private:
  KeptWeights kept_;
  Guarded<float> f32_;
  Guarded<bfloat16> bf16_;
  Guarded<int16_t> low_;
  Guarded<float> master_;
};

/// How far from the exact master a weight may be after an update: f32 arithmetic, and one rounding where bf16 is the
/// master.
double allowed_error(KeptWeights kept, double expected) {
  bool keeps_f32 = kept.storage == WeightStorage::low_bits || kept.dtype == DType::f32;
  double roundings = kept.storage == WeightStorage::stochastic ? 2 : 1;
  return 1e-6 + (keeps_f32 ? 0 : roundings * std::ldexp(std::abs(expected), -8));
}

struct AdamBuffers {
  explicit AdamBuffers(int64_t count) : grad(count, 1), exp_avg(count, 2), exp_avg_sq(count, 3), start(count) {
    fill_random(grad, 1);
    fill_random(exp_avg, 2, 0.1);
    fill_random(exp_avg_sq, 3, 0.1);
    fill_random(start, 4);
    for (int64_t i = 0; i < count; ++i) exp_avg_sq[i] = std::abs(exp_avg_sq[i]);
  }
  AdamArgs args(WeightBuffer& weights) {
    return {.weight = weights.view(),
            .grad = grad.data(),
            .exp_avg = exp_avg.data(),
            .exp_avg_sq = exp_avg_sq.data(),
            .count = grad.size(),
            .gradient_scale = 0.5,
            .beta1 = 0.9,
            .beta2 = 0.95,
            .epsilon = 1e-3,
            .root_scale = 1.5,
            .rate = 0.1,
            .decay = 0.01};
  }
  Guarded<float> grad, exp_avg, exp_avg_sq, start;
};

TEST(OptimizerKernels, AdamEqualsReferenceHoweverWeightsAreKept) {
  for (KeptWeights kept : kAllKept) {
    for (int64_t count : odd_widths()) {
      SCOPED_TRACE(count);
      for_each_isa([&](const Stream& stream) {
        AdamBuffers buffers(count);
        WeightBuffer weights(kept, count);
        weights.store(buffers.start, stream);
        std::vector<double> w = weights.masters(stream), m = buffers.exp_avg.values(), v = buffers.exp_avg_sq.values();
        cpu().optimizer.adam(buffers.args(weights), stream);
        std::vector<double> actual = weights.masters(stream);
        for (size_t i = 0; i < w.size(); ++i) {
          double g = 0.5 * buffers.grad[static_cast<int64_t>(i)];
          m[i] = 0.9 * m[i] + 0.1 * g;
          v[i] = 0.95 * v[i] + 0.05 * g * g;
          double expected = w[i] - 0.1 * m[i] / (1.5 * std::sqrt(v[i]) + 1e-3) - 0.01 * w[i];
          ASSERT_NEAR(actual[i], expected, allowed_error(kept, expected)) << i;
        }
        expect_close(buffers.exp_avg, m, {2e-6, 1e-6});
        expect_close(buffers.exp_avg_sq, v, {2e-6, 1e-6});
      });
    }
  }
}

TEST(OptimizerKernels, AdamNormsAreThoseOfTheUpdateThatFollows) {
  for_each_isa([&](const Stream& stream) {
    AdamBuffers buffers(40000);
    WeightBuffer weights({WeightStorage::own, DType::f32}, 40000);
    weights.store(buffers.start, stream);
    AdamArgs args = buffers.args(weights);
    args.decay = 0.3;
    AdamNorms norms = cpu().optimizer.adam_norms(args, stream);
    args.update_moments = false;
    args.rate = 1;
    cpu().optimizer.adam(args, stream);
    double weight_sum = 0, update_sum = 0;
    std::vector<double> after = weights.masters(stream);
    for (int64_t i = 0; i < 40000; ++i) {
      double w = buffers.start[i], step = w - after[static_cast<size_t>(i)];
      weight_sum += w * w;
      update_sum += step * step;
    }
    EXPECT_NEAR(norms.weight, weight_sum, 1e-9 * weight_sum);
    EXPECT_NEAR(norms.update, update_sum, 1e-5 * update_sum);
  });
}

TEST(OptimizerKernels, LionTakesSigns) {
  for (KeptWeights kept : kAllKept) {
    for_each_isa([&](const Stream& stream) {
      AdamBuffers buffers(1000);
      buffers.grad[7] = buffers.exp_avg[7] = 0;
      WeightBuffer weights(kept, 1000);
      weights.store(buffers.start, stream);
      std::vector<double> w = weights.masters(stream), m = buffers.exp_avg.values();
      cpu().optimizer.lion({.weight = weights.view(),
                            .grad = buffers.grad.data(),
                            .exp_avg = buffers.exp_avg.data(),
                            .count = 1000,
                            .gradient_scale = 0.5,
                            .rate = 0.1,
                            .decay = 0.01},
                           stream);
      std::vector<double> actual = weights.masters(stream);
      for (size_t i = 0; i < w.size(); ++i) {
        double g = 0.5 * buffers.grad[static_cast<int64_t>(i)], mixed = 0.9 * m[i] + 0.1 * g;
        double expected = w[i] - 0.1 * (mixed > 0 ? 1 : mixed < 0 ? -1 : 0) - 0.01 * w[i];
        ASSERT_NEAR(actual[i], expected, allowed_error(kept, expected)) << i;
        m[i] = 0.99 * m[i] + 0.01 * g;
      }
      expect_close(buffers.exp_avg, m, {2e-6, 1e-6});
    });
  }
}

TEST(OptimizerKernels, AverageIsOfTheMasters) {
  for_each_isa([&](const Stream& stream) {
    Guarded<float> start(100), average(100, 3);
    fill_random(start, 1);
    fill_random(average, 2);
    WeightBuffer weights({WeightStorage::low_bits, DType::bf16}, 100);
    weights.store(start, stream);
    std::vector<double> expected = average.values();
    for (int64_t i = 0; i < 100; ++i)
      expected[static_cast<size_t>(i)] = 0.9 * expected[static_cast<size_t>(i)] + 0.1 * start[i];
    cpu().optimizer.average({.weight = weights.view(), .average = average.data(), .count = 100, .momentum = 0.9},
                            stream);
    expect_close(average, expected, {2e-6, 1e-6});
  });
}

/// Masters at the edges of rounding, for one of which only its sign differs.
std::vector<float> edge_values() {
  std::vector<float> values;
  for (uint32_t bits : {0x00000000u,
                        0x00000001u,
                        0x00008000u,
                        0x3f800000u,
                        0x3f807fffu,
                        0x3f808000u,
                        0x3f808001u,
                        0x3f818000u,
                        0x3fffffffu,
                        0x7f7f7fffu,
                        0x7f7fffffu,
                        0x7f800000u}) {
    values.push_back(std::bit_cast<float>(bits));
    values.push_back(std::bit_cast<float>(bits | 0x80000000u));
  }
  return values;
}

TEST(OptimizerKernels, LowBitsKeepEveryMasterAndWeightsAreItsNearestBf16) {
  std::vector<float> edges = edge_values();
  for_each_isa([&](const Stream& stream) {
    auto count = static_cast<int64_t>(edges.size());
    Guarded<float> values(count), back(count);
    std::copy(edges.begin(), edges.end(), values.data());
    WeightBuffer weights({WeightStorage::low_bits, DType::bf16}, count);
    weights.store(values, stream);
    cpu().optimizer.load_master({.weight = weights.view(), .values = back.data(), .count = count}, stream);
    EXPECT_EQ(std::memcmp(back.data(), values.data(), edges.size() * sizeof(float)), 0);
    std::vector<double> rounded = weights.weights();
    for (size_t i = 0; i < edges.size(); ++i) {
      bool is_tie = (std::bit_cast<uint32_t>(edges[i]) & 0xffffu) == 0x8000u;
      if (!is_tie) {
        EXPECT_EQ(rounded[i], to_double(bfloat16(edges[i]))) << edges[i];
      }
    }
  });
}

TEST(OptimizerKernels, NanStaysNanHoweverWeightsAreKept) {
  for (KeptWeights kept : kAllKept) {
    for_each_isa([&](const Stream& stream) {
      for (uint32_t bits : {0x7fffffffu, 0xffffffffu, 0x7f800001u, 0x7fc00000u}) {
        Guarded<float> values(40, 0, 1.0f), updates(40, 0, 0.0f);
        WeightBuffer weights(kept, 40);
        weights.store(values, stream);
        updates[33] = updates[2] = std::bit_cast<float>(bits);
        cpu().optimizer.apply_update({.weight = weights.view(), .update = updates.data(), .count = 40, .rate = 1},
                                     stream);
        std::vector<double> masters = weights.masters(stream), seen = weights.weights();
        for (size_t i = 0; i < 40; ++i) {
          EXPECT_EQ(std::isnan(masters[i]), i == 2 || i == 33);
          EXPECT_EQ(std::isnan(seen[i]), i == 2 || i == 33);
        }
      }
    });
  }
}

TEST(OptimizerKernels, StochasticRoundingIsByTheElementsPlaceInTheParameter) {
  constexpr int64_t kCount = 3000;
  for_each_isa([&](const Stream& stream) {
    Guarded<float> start(kCount), updates(kCount);
    fill_random(start, 1);
    fill_random(updates, 2, 1e-3);
    WeightBuffer weights({WeightStorage::stochastic, DType::bf16}, kCount);
    weights.store(start, stream);
    std::vector<double> before = weights.masters(stream);
    OptimizerWeight view = weights.view();
    cpu().optimizer.apply_update({.weight = view, .update = updates.data(), .count = kCount, .rate = 1}, stream);
    std::vector<double> after = weights.weights();
    for (int64_t i = 0; i < kCount; ++i) {
      float exact = static_cast<float>(before[static_cast<size_t>(i)]) - updates[i];
      auto element = static_cast<uint64_t>(view.map.full_index(i));
      uint32_t random = view.key.bits(element / 2) >> (element % 2 * 16) & 0xffffu;
      uint32_t expected = (std::bit_cast<uint32_t>(exact) + random) & 0xffff0000u;
      ASSERT_EQ(static_cast<float>(after[static_cast<size_t>(i)]), std::bit_cast<float>(expected)) << i;
    }
  });
}

TEST(OptimizerKernels, SumOfSquaresIsTheSameOnEveryNumberOfThreads) {
  Guarded<float> values(100003, 1);
  fill_random(values, 1);
  double expected = 0;
  for (double value : values.values()) expected += value * value;
  OptimizerWeight view{.weight = values.data()};
  auto sum = [&](int num_threads) {
    return cpu().optimizer.sum_of_squares(view, values.size(), {.device = {}, .num_threads = num_threads});
  };
  double once = sum(1);
  EXPECT_NEAR(once, expected, 1e-12 * expected);
  for (int num_threads : {2, 3, 5}) EXPECT_EQ(sum(num_threads), once);
  values[99999] = HUGE_VALF;
  EXPECT_TRUE(std::isinf(sum(2)));
  values[5] = std::nanf("");
  EXPECT_TRUE(std::isnan(sum(2)));
  EXPECT_EQ(cpu().optimizer.sum_of_squares(view, 0, {.device = {}}), 0);
}

/// Columns 30 … 129 of two matrices [rows, 200], from their fifth element on.
struct FactoredCase {
  static constexpr int64_t kRows = 331, kColumns = 200, kLocalColumns = 100, kFirst = 5;
  static constexpr int64_t kCount = 2 * kRows * kLocalColumns - 11;
  ElementMap map{.first = kFirst, .local_width = kLocalColumns, .full_width = kColumns, .offset = 30};
  int64_t row(int64_t i) const { return map.full_index(i) / kColumns; }
  int64_t column(int64_t i) const {
    int64_t full = map.full_index(i);
    return full / (kRows * kColumns) * kColumns + full % kColumns;
  }
};

TEST(OptimizerKernels, FactoredSumsAreByRowAndColumn) {
  FactoredCase part;
  for_each_isa([&](const Stream& stream) {
    Guarded<float> grad(FactoredCase::kCount, 1);
    fill_random(grad, 1);
    Guarded<double> rows(2 * FactoredCase::kRows, 0, 1.0), columns(2 * FactoredCase::kColumns, 0, 2.0);
    std::vector<double> expected_rows = rows.values(), expected_columns = columns.values();
    for (int64_t i = 0; i < FactoredCase::kCount; ++i) {
      double square = 0.25 * grad[i] * grad[i] + 0.125;
      expected_rows[static_cast<size_t>(part.row(i))] += square;
      expected_columns[static_cast<size_t>(part.column(i))] += square;
    }
    cpu().optimizer.factored_sums({.grad = grad.data(),
                                   .map = part.map,
                                   .count = FactoredCase::kCount,
                                   .rows = FactoredCase::kRows,
                                   .columns = FactoredCase::kColumns,
                                   .gradient_scale = 0.5,
                                   .epsilon = 0.125,
                                   .row_sums = rows.data(),
                                   .column_sums = columns.data()},
                                  stream);
    expect_close(rows, expected_rows, tolerance<double>());
    expect_close(columns, expected_columns, tolerance<double>());
  });
}

TEST(OptimizerKernels, FactoredUpdateTakesItsRowsAndColumnsFactor) {
  FactoredCase part;
  for_each_isa([&](const Stream& stream) {
    Guarded<float> grad(FactoredCase::kCount, 1), update(FactoredCase::kCount, 2);
    Guarded<float> rows(2 * FactoredCase::kRows), columns(2 * FactoredCase::kColumns);
    fill_random(grad, 1);
    fill_random(rows, 2);
    fill_random(columns, 3);
    cpu().optimizer.factored_update({.grad = grad.data(),
                                     .update = update.data(),
                                     .map = part.map,
                                     .count = FactoredCase::kCount,
                                     .rows = FactoredCase::kRows,
                                     .columns = FactoredCase::kColumns,
                                     .gradient_scale = 0.5,
                                     .row_factors = rows.data(),
                                     .column_factors = columns.data()},
                                    stream);
    std::vector<double> expected;
    for (int64_t i = 0; i < FactoredCase::kCount; ++i) {
      expected.push_back(0.5 * grad[i] * to_double(rows[part.row(i)]) * columns[part.column(i)]);
    }
    expect_close(update, expected, tolerance<float>());
  });
}

TEST(OptimizerKernels, RmsUpdateDividesByTheRoot) {
  for (int64_t count : odd_widths()) {
    for_each_isa([&](const Stream& stream) {
      Guarded<float> grad(count, 1), v(count, 2), update(count, 3);
      fill_random(grad, 1);
      fill_random(v, 2);
      for (int64_t i = 0; i < count; ++i) v[i] = std::abs(v[i]);
      std::vector<double> expected_v = v.values(), expected;
      for (int64_t i = 0; i < count; ++i) {
        double g = 0.5 * grad[i];
        double& moment = expected_v[static_cast<size_t>(i)];
        moment = 0.75 * moment + 0.25 * (g * g + 0.125);
        expected.push_back(g / std::sqrt(moment));
      }
      RmsUpdateArgs args{.grad = grad.data(),
                         .exp_avg_sq = v.data(),
                         .update = update.data(),
                         .count = count,
                         .gradient_scale = 0.5,
                         .beta2 = 0.75,
                         .epsilon = 0.125};
      for (bool update_moments : {true, false}) {
        args.update_moments = update_moments;
        cpu().optimizer.rms_update(args, stream);
        expect_close(update, expected, tolerance<float>());
        expect_close(v, expected_v, tolerance<float>());
      }
    });
  }
}

}  // namespace
}  // namespace weft
