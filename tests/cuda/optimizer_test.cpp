#include "kernels/optimizer.h"

#include <bit>
#include <limits>
#include <string>

#include "cuda/cuda_test.h"

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

/// Elements, and how many the arrays begin after an aligned address.
struct Place {
  int64_t count, offset;
};
constexpr Place kPlaces[] = {{1, 0}, {6, 0}, {1024, 0}, {3001, 1}, {100003, 0}, {100003, 5}};

/// Rows that end within packs; rows without a gap; rows narrower than a pack.
constexpr ElementMap kMaps[] = {{.first = 5, .local_width = 70, .full_width = 200, .offset = 33},
                                {.first = 3, .local_width = 64, .full_width = 64, .offset = 0},
                                {.first = 1, .local_width = 3, .full_width = 10, .offset = 6},
                                {.first = int64_t{1} << 36, .local_width = 1, .full_width = 1, .offset = 0}};

/// Weights on both sides. bfloat16 stands for any 16 bits, the differences of low_bits too.
class Weights {
 public:
  Weights(KeptWeights kept, Place place, ElementMap map = kMaps[0])
      : kept_(kept),
        place_(place),
        map_(map),
        f32_(place.count + place.offset),
        bf16_(place.count + place.offset),
        low_(place.count + place.offset),
        master_(place.count + place.offset) {}

  OptimizerWeight on(const Side& side) {
    OptimizerWeight weight{.dtype = kept_.dtype, .storage = kept_.storage};
    weight.weight = kept_.dtype == DType::bf16 ? static_cast<void*>(bf16_.on(side)) : f32_.on(side);
    if (kept_.storage == WeightStorage::low_bits) weight.extra = low_.on(side);
    if (kept_.storage == WeightStorage::rounded) weight.extra = master_.on(side);
    weight.key = {.seed = 0x1234567890abcdef, .step = 3, .site = 77};
    weight = weight.from(place_.offset);
    weight.map = map_;
    return weight;
  }
  void store(Twin<float>& values) {
    on_both([&](const Side& side) {
      side.kernels().optimizer.store_master(
          {.weight = on(side), .values = values.on(side) + place_.offset, .count = place_.count}, side.stream);
    });
  }
  /// Masters and weights of the two sides within so many units in the last place.
  void expect_same_masters(double units) {
    Twin<float> masters(place_.count);
    on_both([&](const Side& side) {
      side.kernels().optimizer.load_master({.weight = on(side), .values = masters.on(side), .count = place_.count},
                                           side.stream);
    });
    bool keeps_f32 = kept_.storage == WeightStorage::low_bits || kept_.dtype == DType::f32;
    expect_same(masters, units * (keeps_f32 ? 0x1p-23 : 0x1p-7), units * 1e-7, "masters");
    double weight_unit = kept_.storage == WeightStorage::own && keeps_f32 ? 0x1p-23 : 0x1p-7;
    expect_same(f32_, units * weight_unit, units * 1e-7, "weights");
    if (kept_.storage == WeightStorage::low_bits && units > 0) return expect_same(bf16_, 0x1p-7, units * 1e-7);
    expect_same_bits();
  }
  /// 16-bit arrays; of a thousand elements one may be rounded to the other side. A NaN is any NaN.
  void expect_same_bits() {
    for (Twin<bfloat16>* twin : {&bf16_, &low_}) {
      std::vector<bfloat16> actual = twin->device_values();
      size_t num_different = 0;
      for (size_t i = 0; i < actual.size(); ++i) {
        bfloat16 expected = twin->host()[i];
        bool is_nan = twin == &bf16_ && std::isnan(as_float(actual[i])) && std::isnan(as_float(expected));
        if (!is_nan) num_different += actual[i].bits != expected.bits;
      }
      EXPECT_LE(num_different, actual.size() / 1000);
    }
  }

 private:
  KeptWeights kept_;
  Place place_;
  ElementMap map_;
  Twin<float> f32_;
  Twin<bfloat16> bf16_, low_;
  Twin<float> master_;
};

std::string describe(KeptWeights kept, Place place) {
  return "storage " + std::to_string(static_cast<int>(kept.storage)) + ", " + std::to_string(place.count) +
         " elements from " + std::to_string(place.offset);
}

template <typename Body>
void for_each_case(const Body& body) {
  for (KeptWeights kept : kAllKept) {
    for (Place place : kPlaces) {
      SCOPED_TRACE(describe(kept, place));
      body(kept, place);
    }
  }
}

struct AdamBuffers {
  explicit AdamBuffers(Place place)
      : offset(place.offset),
        count(place.count),
        grad(Twin<float>::random(count + offset, 1)),
        exp_avg(Twin<float>::random(count + offset, 2, 0.1f)),
        exp_avg_sq(Twin<float>::random(count + offset, 3, 0.1f)),
        start(Twin<float>::random(count + offset, 4)) {
    for (float& value : exp_avg_sq.host()) value = std::abs(value);
    exp_avg_sq.send();
  }
  AdamArgs on(const Side& side, Weights& weights) {
    return {.weight = weights.on(side),
            .grad = grad.on(side) + offset,
            .exp_avg = exp_avg.on(side) + offset,
            .exp_avg_sq = exp_avg_sq.on(side) + offset,
            .count = count,
            .gradient_scale = 0.37,
            .beta1 = 0.9,
            .beta2 = 0.95,
            .epsilon = 1e-3,
            .root_scale = 1.3,
            .rate = 0.1,
            .decay = 0.013};
  }
  void expect_same_moments() {
    expect_same(exp_avg, 4e-7, 1e-7, "exp_avg");
    expect_same(exp_avg_sq, 4e-7, 1e-7, "exp_avg_sq");
  }
  int64_t offset, count;
  Twin<float> grad, exp_avg, exp_avg_sq, start;
};

TEST(CudaOptimizer, Adam) {
  WEFT_NEEDS_GPU();
  for_each_case([](KeptWeights kept, Place place) {
    for (bool update_moments : {true, false}) {
      AdamBuffers buffers(place);
      Weights weights(kept, place);
      weights.store(buffers.start);
      on_both([&](const Side& side) {
        AdamArgs args = buffers.on(side, weights);
        args.update_moments = update_moments;
        if (!update_moments) args.grad = nullptr;
        side.kernels().optimizer.adam(args, side.stream);
      });
      weights.expect_same_masters(4);
      buffers.expect_same_moments();
    }
  });
}

TEST(CudaOptimizer, AdamNormsMoveTheMomentsAndNotTheWeights) {
  WEFT_NEEDS_GPU();
  for_each_case([](KeptWeights kept, Place place) {
    AdamBuffers buffers(place);
    Weights weights(kept, place);
    weights.store(buffers.start);
    std::vector<AdamNorms> norms;
    on_both([&](const Side& side) {
      norms.push_back(side.kernels().optimizer.adam_norms(buffers.on(side, weights), side.stream));
    });
    EXPECT_NEAR(norms[1].weight, norms[0].weight, 1e-12 * norms[0].weight);
    EXPECT_NEAR(norms[1].update, norms[0].update, 1e-6 * norms[0].update);
    weights.expect_same_masters(0);
    buffers.expect_same_moments();
  });
}

TEST(CudaOptimizer, Lion) {
  WEFT_NEEDS_GPU();
  for_each_case([](KeptWeights kept, Place place) {
    AdamBuffers buffers(place);
    buffers.grad.host().back() = buffers.exp_avg.host().back() = 0;
    if (place.count > 10) {
      buffers.grad.host()[static_cast<size_t>(place.offset) + 7] = std::numeric_limits<float>::quiet_NaN();
    }
    buffers.grad.send();
    buffers.exp_avg.send();
    Weights weights(kept, place);
    weights.store(buffers.start);
    on_both([&](const Side& side) {
      side.kernels().optimizer.lion({.weight = weights.on(side),
                                     .grad = buffers.grad.on(side) + place.offset,
                                     .exp_avg = buffers.exp_avg.on(side) + place.offset,
                                     .count = place.count,
                                     .gradient_scale = 0.37,
                                     .rate = 0.1,
                                     .decay = 0.013},
                                    side.stream);
    });
    weights.expect_same_masters(2);
    buffers.expect_same_moments();
  });
}

TEST(CudaOptimizer, ApplyUpdate) {
  WEFT_NEEDS_GPU();
  for_each_case([](KeptWeights kept, Place place) {
    auto start = Twin<float>::random(place.count + place.offset, 1);
    auto update = Twin<float>::random(place.count + place.offset, 2, 1e-2f);
    Weights weights(kept, place);
    weights.store(start);
    weights.expect_same_masters(0);
    on_both([&](const Side& side) {
      side.kernels().optimizer.apply_update({.weight = weights.on(side),
                                             .update = update.on(side) + place.offset,
                                             .count = place.count,
                                             .rate = 0.7,
                                             .decay = 0.013},
                                            side.stream);
    });
    weights.expect_same_masters(2);
  });
}

/// With a rate of one and no decay nothing is rounded but the difference: every bit must agree.
TEST(CudaOptimizer, StochasticRoundingIsByTheElementsPlaceInTheParameter) {
  WEFT_NEEDS_GPU();
  constexpr KeptWeights kKept{WeightStorage::stochastic, DType::bf16};
  for (const ElementMap& map : kMaps) {
    for (Place place : kPlaces) {
      SCOPED_TRACE(::testing::Message() << "rows of " << map.local_width << ", " << describe(kKept, place));
      auto start = Twin<float>::random(place.count + place.offset, 1);
      auto update = Twin<float>::random(place.count + place.offset, 2, 1e-3f);
      Weights weights(kKept, place, map);
      weights.store(start);
      on_both([&](const Side& side) {
        side.kernels().optimizer.apply_update(
            {.weight = weights.on(side), .update = update.on(side) + place.offset, .count = place.count, .rate = 1},
            side.stream);
      });
      weights.expect_same_masters(0);
    }
  }
}

TEST(CudaOptimizer, AverageIsOfTheMasters) {
  WEFT_NEEDS_GPU();
  for_each_case([](KeptWeights kept, Place place) {
    auto start = Twin<float>::random(place.count + place.offset, 1);
    auto average = Twin<float>::random(place.count + place.offset, 2);
    Weights weights(kept, place);
    weights.store(start);
    on_both([&](const Side& side) {
      side.kernels().optimizer.average({.weight = weights.on(side),
                                        .average = average.on(side) + place.offset,
                                        .count = place.count,
                                        .momentum = 0.93},
                                       side.stream);
    });
    expect_same(average, 4e-7, 1e-7);
  });
}

TEST(CudaOptimizer, MastersAtTheEdgesOfRoundingAreKeptToTheBit) {
  WEFT_NEEDS_GPU();
  auto values = Twin<float>::constant(26, 0);
  size_t place = 0;
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
                        0x7f800000u,
                        0x7fffffffu}) {
    values.host()[place++] = std::bit_cast<float>(bits);
    values.host()[place++] = std::bit_cast<float>(bits | 0x80000000u);
  }
  values.send();
  for (KeptWeights kept : kAllKept) {
    SCOPED_TRACE(describe(kept, {26, 0}));
    Weights weights(kept, {26, 0});
    weights.store(values);
    weights.expect_same_masters(0);
    if (kept.storage != WeightStorage::low_bits) continue;
    Twin<float> back(26);
    on_both([&](const Side& side) {
      side.kernels().optimizer.load_master({.weight = weights.on(side), .values = back.on(side), .count = 26},
                                           side.stream);
    });
    std::vector<float> device = back.device_values();
    for (size_t i = 0; i < 24; ++i) {  // all but the NaNs
      EXPECT_EQ(std::bit_cast<uint32_t>(device[i]), std::bit_cast<uint32_t>(values.host()[i])) << i;
    }
  }
}

TEST(CudaOptimizer, SumOfSquaresIsTheSameWhereverTheArrayBegins) {
  WEFT_NEEDS_GPU();
  for_each_case([](KeptWeights kept, Place place) {
    auto start = Twin<float>::random(place.count + place.offset, 1);
    Weights weights(kept, place);
    weights.store(start);
    std::vector<double> sums;
    on_both([&](const Side& side) {
      sums.push_back(side.kernels().optimizer.sum_of_squares(weights.on(side), place.count, side.stream));
    });
    EXPECT_NEAR(sums[1], sums[0], 1e-12 * sums[0]);
  });
  constexpr int64_t kCount = 5000003;
  auto values = Twin<float>::random(kCount + 1, 2);
  std::vector<double> sums;
  for (int64_t offset : {0, 1}) {
    for (int64_t i = 0; i < kCount; ++i) {
      values.host()[static_cast<size_t>(i + offset)] = static_cast<float>(i % 1013) * 0.37f - 150;
    }
    values.send();
    on_both([&](const Side& side) {
      sums.push_back(
          side.kernels().optimizer.sum_of_squares({.weight = values.on(side) + offset}, kCount, side.stream));
    });
  }
  EXPECT_NEAR(sums[1], sums[0], 1e-12 * sums[0]);
  EXPECT_EQ(sums[1], sums[3]);
  values.host()[77777] = std::numeric_limits<float>::quiet_NaN();
  values.send();
  on_both([&](const Side& side) {
    EXPECT_TRUE(std::isnan(side.kernels().optimizer.sum_of_squares({.weight = values.on(side)}, kCount, side.stream)));
    EXPECT_EQ(side.kernels().optimizer.sum_of_squares({.weight = values.on(side)}, 0, side.stream), 0);
  });
}

TEST(CudaOptimizer, RmsUpdate) {
  WEFT_NEEDS_GPU();
  for (Place place : kPlaces) {
    AdamBuffers buffers(place);
    Twin<float> update(place.count + place.offset);
    for (bool update_moments : {true, false}) {
      on_both([&](const Side& side) {
        side.kernels().optimizer.rms_update({.grad = buffers.grad.on(side) + place.offset,
                                             .exp_avg_sq = buffers.exp_avg_sq.on(side) + place.offset,
                                             .update = update.on(side) + place.offset,
                                             .count = place.count,
                                             .gradient_scale = 0.37,
                                             .beta2 = 0.75,
                                             .epsilon = 1e-3,
                                             .update_moments = update_moments},
                                            side.stream);
      });
      buffers.expect_same_moments();
      expect_same(update, 1e-6, 0, "update");
    }
  }
}

TEST(CudaOptimizer, NothingIsDoneToNoElements) {
  WEFT_NEEDS_GPU();
  on_both([](const Side& side) {
    const OptimizerKernels& kernels = side.kernels().optimizer;
    kernels.adam({}, side.stream);
    EXPECT_EQ(kernels.adam_norms({}, side.stream).update, 0);
    kernels.lion({}, side.stream);
    kernels.apply_update({}, side.stream);
    kernels.average({}, side.stream);
    kernels.load_master({}, side.stream);
    kernels.store_master({}, side.stream);
    kernels.factored_sums({}, side.stream);
    kernels.factored_update({}, side.stream);
    kernels.rms_update({}, side.stream);
  });
}

TEST(CudaOptimizer, WeightsThatNoStorageHoldsAreRefused) {
  WEFT_NEEDS_GPU();
  on_both([](const Side& side) {
    for (OptimizerWeight weight : {OptimizerWeight{.dtype = DType::f32, .storage = WeightStorage::stochastic},
                                   OptimizerWeight{.dtype = DType::bf16, .storage = WeightStorage::low_bits},
                                   OptimizerWeight{.dtype = DType::f32, .storage = WeightStorage::rounded},
                                   OptimizerWeight{.dtype = DType::f16}}) {
      EXPECT_ANY_THROW(side.kernels().optimizer.apply_update({.weight = weight}, side.stream));
    }
  });
}

}  // namespace
}  // namespace weft
