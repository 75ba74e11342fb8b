// Attention of many queries on CUDA against the CPU's: every head size, mask and layout, sequences of mixed lengths in
// one call. And the small kernels beside it.
#include "kernels/attention.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "cuda_test.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/attention_tiles.h"

namespace weft {
namespace {

template <typename T>
class CudaAttention : public ::testing::Test {};
TYPED_TEST_SUITE(CudaAttention, CudaDTypes);

struct Case {
  std::vector<std::pair<int64_t, int64_t>> lengths;  // queries, past (below zero: fewer keys than queries)
  int64_t num_heads = 2, num_kv_heads = 2, head_dim = 64;
  AttentionMask mask = {};
  bool has_limits = false;  // visible_keys
  bool has_bias = false;
  bool is_packed = false;  // keys and values [Tk, Hk, D]; else a cache a sequence with NaN behind its tokens
  int64_t shift = 0;       // elements by which q, out, keys and values are moved from their alignment
  bool has_log_sum_exp = true;
  float dropout = 0;
};

const std::vector<std::pair<int64_t, int64_t>> kMixedLengths = {
    {1, 0}, {7, 3}, {64, 0}, {65, 100}, {200, 0}, {513, 1}, {33, 300}, {1, 70}};

std::string describe(const Case& test) {
  return "heads " + std::to_string(test.num_heads) + "/" + std::to_string(test.num_kv_heads) + " dim " +
         std::to_string(test.head_dim) + " cap " + std::to_string(test.mask.soft_cap) + " window " +
         std::to_string(test.mask.window) + " scale " + std::to_string(test.mask.scale) +
         (test.mask.causal ? " causal" : " full") + (test.has_limits ? " limits" : "") +
         (test.has_bias ? " bias" : "") + (test.is_packed ? " packed" : " cache") + " shift " +
         std::to_string(test.shift) + " dropout " + std::to_string(test.dropout) + " sequences " +
         std::to_string(test.lengths.size());
}

std::vector<int32_t> random_limits(int64_t query_count, int64_t key_count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int32_t> limit(1, static_cast<int32_t>(key_count));
  std::vector<int32_t> limits(static_cast<size_t>(query_count));
  for (int32_t& keys : limits) keys = limit(generator);
  std::sort(limits.begin(), limits.end());
  return limits;
}

/// The arrays of a case on both sides.
template <typename T>
class Problem {
 public:
  explicit Problem(const Case& test)
      : test_(test),
        room_(test.is_packed ? 0 : 3),
        q_(Twin<T>::random(queries() * test.num_heads * test.head_dim + test.shift, 1)),
        keys_(tokens() * test.num_kv_heads * test.head_dim + test.shift),
        values_(keys_.size()),
        out_(q_.size()),
        log_sum_exp_(queries() * test.num_heads),
        bias_zero_(zero_of_bias()),
        bias_stride_(bias_zero_ + queries() + kAttentionBiasPadding),
        bias_(Twin<float>::random(test.num_heads * bias_stride_, 4)) {
    fill(keys_, 2);
    fill(values_, 3);
    // Nobody writes what lies before the shifted output.
    for (int64_t i = 0; i < test_.shift; ++i) out_.host()[static_cast<size_t>(i)] = static_cast<T>(0.0f);
    out_.send();
    for (size_t s = 0; s < test.lengths.size() && test.has_limits; ++s) {
      auto [count, past] = test.lengths[s];
      limits_.push_back(random_limits(count, count + past, static_cast<uint32_t>(10 + s)));
    }
  }

  AttentionForwardArgs args(const Side& side) {
    sequences_ = sequences(side);
    AttentionForwardArgs args{.q = q_.on(side) + test_.shift,
                              .out = out_.on(side) + test_.shift,
                              .log_sum_exp = test_.has_log_sum_exp ? log_sum_exp_.on(side) : nullptr,
                              .sequences = sequences_,
                              .num_heads = test_.num_heads,
                              .num_kv_heads = test_.num_kv_heads,
                              .head_dim = test_.head_dim,
                              .mask = test_.mask,
                              .dropout = dropout_of_a_rank(test_.dropout),
                              .dtype = DTypeOf<T>::value};
    if (test_.has_bias) args.bias = {.values = bias_.on(side), .stride = bias_stride_};
    return args;
  }

  Twin<T>& out() { return out_; }
  Twin<float>& log_sum_exp() { return log_sum_exp_; }

 private:
  int64_t queries() const {
    int64_t total = 0;
    for (auto [count, past] : test_.lengths) total += count;
    return total;
  }
  int64_t tokens() const {
    int64_t total = 0;
    for (auto [count, past] : test_.lengths) total += count + past + room_;
    return total;
  }
  int64_t zero_of_bias() const {
    int64_t zero = 0;
    for (auto [count, past] : test_.lengths) zero = std::max(zero, count + past - 1);
    return zero;
  }

  /// Elements that belong to tokens; the room behind a cache's tokens stays NaN.
  void fill(Twin<T>& twin, uint32_t seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    int64_t at = test_.shift;
    for (auto [count, past] : test_.lengths) {
      int64_t used = (count + past) * test_.head_dim;
      for (int64_t head = 0; head < test_.num_kv_heads; ++head) {
        for (int64_t i = 0; i < used; ++i) twin.host()[static_cast<size_t>(at + i)] = static_cast<T>(normal(generator));
        at += used + room_ * test_.head_dim;
      }
    }
    twin.send();
  }

  std::vector<AttentionSequence> sequences(const Side& side) {
    std::vector<AttentionSequence> sequences;
    int64_t query_begin = 0, at = test_.shift;
    for (size_t s = 0; s < test_.lengths.size(); ++s) {
      auto [count, past] = test_.lengths[s];
      int64_t capacity = count + past + room_, head_dim = test_.head_dim;
      sequences.push_back({.query_begin = query_begin,
                           .query_count = count,
                           .key_count = count + past,
                           .keys = keys_.on(side) + at,
                           .values = values_.on(side) + at,
                           .key_token_stride = test_.is_packed ? test_.num_kv_heads * head_dim : head_dim,
                           .key_head_stride = test_.is_packed ? head_dim : capacity * head_dim,
                           .visible_keys = test_.has_limits ? limits_[s].data() : nullptr,
                           .bias_origin = bias_zero_ - past});
      query_begin += count;
      at += capacity * test_.num_kv_heads * head_dim;
    }
    return sequences;
  }

  const Case test_;
  int64_t room_;
  Twin<T> q_, keys_, values_, out_;
  Twin<float> log_sum_exp_;
  int64_t bias_zero_, bias_stride_;
  Twin<float> bias_;
  std::vector<std::vector<int32_t>> limits_;
  std::vector<AttentionSequence> sequences_;
};

/// The kernels for tiles of queries.
enum class Way : uint8_t { by_f32, by_mma, by_wgmma };

template <typename T>
void expect_as_on_cpu(const Case& test, Way way) {
  constexpr bool is_f32 = std::is_same_v<T, float>;
  SCOPED_TRACE(describe(test) + " way " + std::to_string(static_cast<int>(way)));
  Problem<T> problem(test);
  bool has_run = true;
  on_both([&](const Side& side) {
    AttentionForwardArgs args = problem.args(side);
    if (side.type == DeviceType::cpu) return side.kernels().attention.forward(args, side.stream);
    cuda::CudaDevice& device = cuda::device_of(side.stream);
    if (way == Way::by_wgmma) {
      has_run = cuda::attention_forward_wgmma(args, device);
      bool is_meant = device.architecture() == 90 && test.head_dim > 32 && test.head_dim % 8 == 0 && test.shift == 0;
      EXPECT_EQ(has_run, is_meant);
    } else {
      way == Way::by_mma ? cuda::attention_forward_mma(args, device) : cuda::attention_forward_f32(args, device);
    }
  });
  if (!has_run) return;
  expect_near_in_norm(problem.out(), norm_limit<T>());
  // No row is far off where the norm of all would hide it.
  double size = dropout_of_a_rank(test.dropout).kept_scale();
  expect_same(problem.out(), is_f32 ? 1e-4 : 0x1p-6, (is_f32 ? 1e-5 : 0x1p-6) * size);
  if (test.has_log_sum_exp) expect_same(problem.log_sum_exp(), 2e-6, is_f32 ? 1e-5 : 1e-4, "log_sum_exp");
}

/// Every sequence by tiles, also the short ones; by each of the kernels that the device has.
template <typename T>
void expect_tiles_as_on_cpu(Case test) {
  if (test.mask.scale == 1) test.mask.scale = 1 / std::sqrt(static_cast<float>(test.head_dim));
  if constexpr (std::is_same_v<T, float>) {
    expect_as_on_cpu<T>(test, Way::by_f32);
  } else {
    expect_as_on_cpu<T>(test, Way::by_mma);
    if (test.dropout == 0) expect_as_on_cpu<T>(test, Way::by_wgmma);
  }
}

TYPED_TEST(CudaAttention, OfEveryHeadSize) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256}) {
    expect_tiles_as_on_cpu<TypeParam>({.lengths = {{1, 0}, {7, 3}, {130, 20}, {65, 0}}, .head_dim = head_dim});
  }
}

TYPED_TEST(CudaAttention, OfOddHeadSizes) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {1, 3, 20, 33, 63, 65, 77, 127, 129, 190, 255}) {
    expect_tiles_as_on_cpu<TypeParam>({.lengths = {{2, 0}, {70, 20}, {9, 0}}, .head_dim = head_dim});
  }
}

TYPED_TEST(CudaAttention, OfMixedLengths) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {16, 64, 80, 128, 256}) {
    for (bool is_packed : {false, true}) {
      expect_tiles_as_on_cpu<TypeParam>(
          {.lengths = kMixedLengths, .head_dim = head_dim, .is_packed = is_packed, .has_log_sum_exp = is_packed});
    }
  }
}

TYPED_TEST(CudaAttention, OfGroupedQueries) {
  WEFT_NEEDS_GPU();
  for (int64_t group : {2, 3, 8}) {
    expect_tiles_as_on_cpu<TypeParam>(
        {.lengths = {{100, 30}, {9, 1}}, .num_heads = 2 * group, .num_kv_heads = 2, .head_dim = 64});
    expect_tiles_as_on_cpu<TypeParam>(
        {.lengths = {{100, 0}}, .num_heads = group, .num_kv_heads = 1, .head_dim = 128, .is_packed = true});
  }
}

TYPED_TEST(CudaAttention, UnderEveryMask) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 96, 128, 256}) {
    for (bool causal : {true, false}) {
      for (int64_t window : {0, 1, 17, 64, 100, 1000}) {
        expect_tiles_as_on_cpu<TypeParam>({.lengths = {{150, 0}, {70, 200}, {5, 90}},
                                           .head_dim = head_dim,
                                           .mask = {.window = window, .causal = causal}});
      }
    }
  }
}

TYPED_TEST(CudaAttention, WithSoftCapAndBias) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {16, 64, 96, 128, 256}) {
    for (bool has_bias : {true, false}) {
      for (float soft_cap : {0.0f, 2.0f, 50.0f}) {
        for (bool causal : {true, false}) {
          expect_tiles_as_on_cpu<TypeParam>({.lengths = {{150, 0}, {70, 100}, {1, 40}},
                                             .head_dim = head_dim,
                                             .mask = {.soft_cap = soft_cap, .causal = causal},
                                             .has_bias = has_bias});
        }
      }
    }
  }
}

TYPED_TEST(CudaAttention, OfVisibleKeysThatOverrideTheMask) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (bool causal : {true, false}) {
      for (bool has_bias : {true, false}) {
        expect_tiles_as_on_cpu<TypeParam>({.lengths = {{150, 0}, {70, 200}, {1, 5}, {300, 0}},
                                           .head_dim = head_dim,
                                           .mask = {.window = 20, .causal = causal},
                                           .has_limits = true,
                                           .has_bias = has_bias,
                                           .is_packed = causal});
      }
    }
  }
}

TYPED_TEST(CudaAttention, OfMoreQueriesThanKeys) {
  WEFT_NEEDS_GPU();
  expect_tiles_as_on_cpu<TypeParam>({.lengths = {{150, -100}, {70, -69}, {20, 200}}, .mask = {.causal = false}});
}

TYPED_TEST(CudaAttention, OfOtherScales) {
  WEFT_NEEDS_GPU();
  for (float scale : {-0.1f, 0.0f, 0.5f}) {
    for (float soft_cap : {0.0f, 5.0f}) {
      expect_tiles_as_on_cpu<TypeParam>(
          {.lengths = {{100, 20}}, .head_dim = 64, .mask = {.scale = scale, .soft_cap = soft_cap}});
    }
  }
}

TYPED_TEST(CudaAttention, OfPointersWithoutAlignment) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 80, 128, 256}) {
    expect_tiles_as_on_cpu<TypeParam>({.lengths = {{130, 20}, {65, 0}}, .head_dim = head_dim, .shift = 1});
  }
}

TYPED_TEST(CudaAttention, OfManySequences) {
  WEFT_NEEDS_GPU();
  std::vector<std::pair<int64_t, int64_t>> lengths;
  for (int64_t i = 0; i < 70; ++i) lengths.push_back({1 + i * 13 % 90, i * 7 % 50});
  for (int64_t head_dim : {64, 128}) {
    expect_tiles_as_on_cpu<TypeParam>({.lengths = lengths, .head_dim = head_dim, .is_packed = true});
    expect_tiles_as_on_cpu<TypeParam>({.lengths = lengths, .head_dim = head_dim, .mask = {.causal = false}});
  }
}

/// Enough tiles for the kernels with two tiles of rows a warp.
TYPED_TEST(CudaAttention, OfManyTiles) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128}) {
    for (float soft_cap : {0.0f, 20.0f}) {
      for (bool causal : {true, false}) {
        expect_tiles_as_on_cpu<TypeParam>({.lengths = {{300, 0}, {129, 50}, {200, 20}, {513, 0}, {3, 0}, {90, 0}},
                                           .num_heads = 24,
                                           .num_kv_heads = 6,
                                           .head_dim = head_dim,
                                           .mask = {.soft_cap = soft_cap, .window = causal ? 150 : 0, .causal = causal},
                                           .has_bias = soft_cap > 0,
                                           .is_packed = true});
      }
    }
  }
}

/// Many tiles of keys, which kernels keep on their way.
TYPED_TEST(CudaAttention, OfLongSequences) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (bool causal : {true, false}) {
      expect_tiles_as_on_cpu<TypeParam>({.lengths = {{1000, 0}, {300, 817}},
                                         .num_kv_heads = 1,
                                         .head_dim = head_dim,
                                         .mask = {.causal = causal},
                                         .is_packed = causal});
    }
    expect_tiles_as_on_cpu<TypeParam>({.lengths = {{900, 100}},
                                       .head_dim = head_dim,
                                       .mask = {.soft_cap = 30, .window = 333},
                                       .has_bias = head_dim != 128});
    expect_tiles_as_on_cpu<TypeParam>({.lengths = {{700, 300}}, .head_dim = head_dim, .has_limits = true});
  }
}

/// Blocks that stay go through several tiles of queries.
TYPED_TEST(CudaAttention, OfManyRounds) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (int64_t window : {40, 200}) {
      std::vector<std::pair<int64_t, int64_t>> lengths = {{700, 0}, {300, 60}, {5, 0}, {129, 500}, {1000, 0}};
      if (window == 40) lengths.insert(lengths.end(), 9, {192, 0});
      expect_tiles_as_on_cpu<TypeParam>({.lengths = lengths,
                                         .num_heads = 16,
                                         .num_kv_heads = 2,
                                         .head_dim = head_dim,
                                         .mask = {.window = window},
                                         .is_packed = window == 40});
    }
  }
}

TYPED_TEST(CudaAttention, WithDroppedWeights) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {24, 64, 77, 128, 256}) {
    for (float dropout : {0.1f, 0.5f}) {
      for (bool causal : {true, false}) {
        Case test{.lengths = {{1, 0}, {7, 3}, {130, 21}, {65, 0}, {1, 70}},
                  .head_dim = head_dim,
                  .mask = {.causal = causal},
                  .is_packed = causal,
                  .dropout = dropout};
        expect_tiles_as_on_cpu<TypeParam>(test);
        test.num_heads = 6;
        test.mask.soft_cap = 2;
        test.has_bias = true;
        expect_tiles_as_on_cpu<TypeParam>(test);
      }
      expect_tiles_as_on_cpu<TypeParam>(
          {.lengths = {{150, 0}, {70, 200}, {1, 5}}, .head_dim = head_dim, .has_limits = true, .dropout = dropout});
      expect_tiles_as_on_cpu<TypeParam>(
          {.lengths = {{130, 20}, {65, 0}}, .num_kv_heads = 1, .head_dim = head_dim, .shift = 1, .dropout = dropout});
    }
  }
}

/// Keys that begin anywhere, while random numbers come for four of them.
TYPED_TEST(CudaAttention, WithDroppedWeightsInWindows) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (int64_t window : {1, 2, 3, 17, 64, 130}) {
      for (bool has_bias : {false, true}) {
        expect_tiles_as_on_cpu<TypeParam>({.lengths = {{150, 0}, {70, 201}, {5, 90}, {1, 301}},
                                           .head_dim = head_dim,
                                           .mask = {.window = window, .causal = has_bias},
                                           .has_bias = has_bias,
                                           .dropout = 0.3f});
      }
    }
  }
}

/// Also sequences of one query, which would go their own way without dropout.
TYPED_TEST(CudaAttention, WithDroppedWeightsThroughTheTable) {
  WEFT_NEEDS_GPU();
  for (int64_t window : {0, 50}) {
    Problem<TypeParam> problem({.lengths = kMixedLengths,
                                .num_heads = 4,
                                .num_kv_heads = 2,
                                .mask = {.scale = 0.1f, .window = window},
                                .dropout = 0.1f});
    on_both([&](const Side& side) { side.kernels().attention.forward(problem.args(side), side.stream); });
    expect_near_in_norm(problem.out(), norm_limit<TypeParam>());
    expect_same(problem.log_sum_exp(), 2e-6, 1e-4, "log_sum_exp");
  }
}

/// One key weighs almost all, a later one again and again; and all weigh almost the same.
TYPED_TEST(CudaAttention, OfLargeAndSmallScores) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (float scale : {1.5f, 0.001f}) {
      expect_tiles_as_on_cpu<TypeParam>({.lengths = {{520, 0}}, .head_dim = head_dim, .mask = {.scale = scale}});
    }
  }
}

/// Short and long sequences of one call by the table, which gives them to different kernels.
TYPED_TEST(CudaAttention, ThroughTheTable) {
  WEFT_NEEDS_GPU();
  Problem<TypeParam> problem(
      {.lengths = kMixedLengths, .num_heads = 4, .head_dim = 128, .mask = {.scale = 0.09f}, .has_bias = true});
  on_both([&](const Side& side) { side.kernels().attention.forward(problem.args(side), side.stream); });
  expect_near_in_norm(problem.out(), norm_limit<TypeParam>());
  expect_same(problem.log_sum_exp(), 2e-6, 1e-4, "log_sum_exp");
}

TYPED_TEST(CudaAttention, OfNothing) {
  WEFT_NEEDS_GPU();
  on_both([&](const Side& side) {
    AttentionForwardArgs args;
    args.num_heads = args.num_kv_heads = 2;
    args.head_dim = 64;
    args.dtype = DTypeOf<TypeParam>::value;
    side.kernels().attention.forward(args, side.stream);
    side.kernels().attention.cache_write({}, side.stream);
  });
}

/// Queries before the first key: zeros, and the logarithm of nothing.
TYPED_TEST(CudaAttention, OfQueriesThatSeeNoKey) {
  WEFT_NEEDS_GPU();
  Problem<TypeParam> problem({.lengths = {{150, -100}}, .mask = {.scale = 0.1f}});
  on_both([&](const Side& side) {
    if (side.type == DeviceType::cpu) return;
    cuda::CudaDevice& device = cuda::device_of(side.stream);
    AttentionForwardArgs args = problem.args(side);
    bool has_run = std::is_same_v<TypeParam, bfloat16> && cuda::attention_forward_wgmma(args, device);
    if (!has_run) cuda::attention_forward_tiles(args, device);
  });
  std::vector<TypeParam> out = problem.out().device_values();
  std::vector<float> log_sum_exp = problem.log_sum_exp().device_values();
  for (size_t i = 0; i < 100 * 2; ++i) ASSERT_EQ(log_sum_exp[i], -INFINITY) << i;
  for (size_t i = 0; i < 100 * 2 * 64; ++i) ASSERT_EQ(as_float(out[i]), 0.0f) << i;
  for (size_t i = 100 * 2; i < log_sum_exp.size(); ++i) ASSERT_TRUE(std::isfinite(log_sum_exp[i])) << i;
  for (size_t i = 100 * 2 * 64; i < out.size(); ++i) ASSERT_TRUE(std::isfinite(as_float(out[i]))) << i;
}

TYPED_TEST(CudaAttention, KeepsNumbersThatAreNone) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  Twin<T> q = Twin<T>::random(20 * 64, 1), kv = Twin<T>::random(20 * 64, 2), out(20 * 64);
  q.host()[3 * 64 + 5] = static_cast<T>(std::nanf(""));
  q.send();
  on_both([&](const Side& side) {
    AttentionSequence sequence{.query_count = 20,
                               .key_count = 20,
                               .keys = kv.on(side),
                               .values = kv.on(side),
                               .key_token_stride = 64,
                               .key_head_stride = 64};
    side.kernels().attention.forward({.q = q.on(side),
                                      .out = out.on(side),
                                      .sequences = {&sequence, 1},
                                      .num_heads = 1,
                                      .num_kv_heads = 1,
                                      .head_dim = 64,
                                      .mask = {.scale = 0.1f},
                                      .dtype = DTypeOf<T>::value},
                                     side.stream);
  });
  std::vector<T> values = out.device_values();
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(std::isnan(as_float(values[i])), i / 64 == 3) << i;
}

TYPED_TEST(CudaAttention, WritesItsCache) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  constexpr int64_t kCapacity = 50;
  for (int64_t head_dim : {1, 7, 64, 80, 128}) {
    for (int64_t num_kv_heads : {1, 3}) {
      for (int64_t count_of_slots : {1, 3, 150}) {
        Twin<T> source = Twin<T>::random(count_of_slots * 40 * num_kv_heads * head_dim, 1);
        Twin<T> cache = Twin<T>::constant(count_of_slots * num_kv_heads * kCapacity * head_dim, 0.5f);
        on_both([&](const Side& side) {
          std::vector<CacheWriteArgs> writes;
          for (int64_t slot = 0; slot < count_of_slots; ++slot) {
            writes.push_back({.source = source.on(side) + slot * 40 * num_kv_heads * head_dim,
                              .cache = cache.on(side) + slot * num_kv_heads * kCapacity * head_dim,
                              .past = slot % 9,
                              .count = slot % 41,
                              .num_kv_heads = num_kv_heads,
                              .head_dim = head_dim,
                              .head_stride = kCapacity * head_dim,
                              .dtype = DTypeOf<T>::value});
          }
          side.kernels().attention.cache_write(writes, side.stream);
        });
        expect_same(cache, 0, 0, "cache");
      }
    }
  }
}

cuda::CudnnAttention& cudnn() {
  return cuda::cudnn_attention(static_cast<cuda::CudaDevice&>(*gpu()));
}

#define WEFT_NEEDS_CUDNN() \
  WEFT_NEEDS_GPU();        \
  if (!cudnn().is_available()) GTEST_SKIP() << "SKIPPED, not checked: " << cudnn().reason()

void expect_by_cudnn_as_on_cpu(Case test) {
  if (test.mask.scale == 1) test.mask.scale = 1 / std::sqrt(static_cast<float>(test.head_dim));
  SCOPED_TRACE(describe(test) + " by cuDNN");
  Problem<bfloat16> problem(test);
  bool has_run = true;
  on_both([&](const Side& side) {
    AttentionForwardArgs args = problem.args(side);
    if (side.type == DeviceType::cpu) return side.kernels().attention.forward(args, side.stream);
    has_run = cudnn().forward(args, cuda::device_of(side.stream));
  });
  ASSERT_TRUE(has_run) << cudnn().reason();
  expect_near_in_norm(problem.out(), norm_limit<bfloat16>());
  expect_same(problem.out(), 0x1p-6, 0x1p-6);
  // Its tanh is the processor's, of 11 bits.
  double absolute = test.mask.soft_cap > 0 ? 2e-2 : 1e-3;
  if (test.has_log_sum_exp) expect_same(problem.log_sum_exp(), 1e-4, absolute, "log_sum_exp");
}

TEST(CudnnAttention, OfHeadSizes) {
  WEFT_NEEDS_CUDNN();
  for (int64_t head_dim : {8, 72, 128, 256}) {
    for (bool causal : {true, false}) {
      expect_by_cudnn_as_on_cpu(
          {.lengths = {{150, 0}, {150, 0}}, .head_dim = head_dim, .mask = {.causal = causal}, .is_packed = true});
    }
  }
}

TEST(CudnnAttention, OfGroupsInCaches) {
  WEFT_NEEDS_CUDNN();
  for (bool is_packed : {true, false}) {
    for (bool has_log_sum_exp : {true, false}) {
      expect_by_cudnn_as_on_cpu({.lengths = {{257, 0}, {257, 0}, {257, 0}},
                                 .num_heads = 6,
                                 .head_dim = 128,
                                 .is_packed = is_packed,
                                 .has_log_sum_exp = has_log_sum_exp});
    }
  }
}

TEST(CudnnAttention, OfMoreKeysThanQueries) {
  WEFT_NEEDS_CUDNN();
  for (int64_t window : {0, 50}) {
    for (bool causal : {true, false}) {
      if (window > 0 && !causal) continue;
      expect_by_cudnn_as_on_cpu({.lengths = {{100, 233}, {100, 233}},
                                 .num_heads = 4,
                                 .head_dim = 128,
                                 .mask = {.window = window, .causal = causal},
                                 .is_packed = true});
    }
  }
}

TEST(CudnnAttention, InWindows) {
  WEFT_NEEDS_CUDNN();
  for (int64_t head_dim : {64, 256}) {
    for (int64_t window : {2, 100, 1000}) {
      expect_by_cudnn_as_on_cpu(
          {.lengths = {{300, 0}, {300, 0}}, .head_dim = head_dim, .mask = {.window = window}, .is_packed = true});
    }
  }
}

TEST(CudnnAttention, WithSoftCap) {
  WEFT_NEEDS_CUDNN();
  for (int64_t head_dim : {128, 256}) {
    for (int64_t window : {0, 100}) {
      for (bool causal : {true, false}) {
        if (window > 0 && !causal) continue;
        expect_by_cudnn_as_on_cpu({.lengths = {{300, 0}, {300, 0}},
                                   .num_heads = 4,
                                   .head_dim = head_dim,
                                   .mask = {.soft_cap = 5, .window = window, .causal = causal},
                                   .is_packed = true});
      }
    }
  }
}

TEST(CudnnAttention, LeavesOtherCallsAlone) {
  WEFT_NEEDS_CUDNN();
  const std::vector<Case> others = {{.lengths = {{100, 0}, {90, 0}}, .is_packed = true},
                                    {.lengths = {{100, 0}}, .has_limits = true},
                                    {.lengths = {{100, 0}}, .has_bias = true},
                                    {.lengths = {{100, 0}}, .dropout = 0.1f},
                                    {.lengths = {{100, 0}}, .head_dim = 20},
                                    {.lengths = {{100, 0}}, .shift = 1},
                                    {.lengths = {{100, -40}}}};
  for (const Case& test : others) {
    SCOPED_TRACE(describe(test));
    Problem<bfloat16> problem(test);
    cuda::CudaDevice& device = static_cast<cuda::CudaDevice&>(*gpu());
    Side side{DeviceType::cuda, {.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()}};
    EXPECT_FALSE(cudnn().forward(problem.args(side), device));
    EXPECT_NE(cudnn().reason(), "");
  }
}

std::vector<int32_t> random_rows(int64_t count, int32_t num_rows) {
  std::mt19937 generator(static_cast<uint32_t>(count));
  std::uniform_int_distribution<int32_t> row(0, num_rows - 1);
  std::vector<int32_t> rows(static_cast<size_t>(count));
  for (int32_t& one : rows) one = row(generator);
  return rows;
}

TYPED_TEST(CudaAttention, ExpandsAndReducesBiases) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (int64_t count : {0, 1, 63, 1025, 5000}) {
    for (int64_t num_heads : {1, 12}) {
      int64_t stride = count + kAttentionBiasPadding;
      std::vector<int32_t> rows = random_rows(count, 32);
      Twin<T> table = Twin<T>::random(32 * num_heads, 1);
      Twin<float> bias(num_heads * stride), dbias = Twin<float>::random(num_heads * stride, 2),
                                            dtable = Twin<float>::random(32 * num_heads, 3);
      on_both([&](const Side& side) {
        side.kernels().attention.bias_expand({.table = table.on(side),
                                              .rows = rows.data(),
                                              .bias = bias.on(side),
                                              .count = count,
                                              .num_heads = num_heads,
                                              .stride = stride,
                                              .dtype = DTypeOf<T>::value},
                                             side.stream);
        side.kernels().attention.bias_reduce({.dbias = dbias.on(side),
                                              .rows = rows.data(),
                                              .dtable = dtable.on(side),
                                              .count = count,
                                              .num_heads = num_heads,
                                              .stride = stride,
                                              .dtype = DTypeOf<T>::value},
                                             side.stream);
      });
      expect_same(bias, 0, 0, "bias");
      expect_near_in_norm(dtable, 2e-6, "dtable");
    }
  }
}

}  // namespace
}  // namespace weft
