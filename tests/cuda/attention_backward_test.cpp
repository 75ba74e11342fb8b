// Backward of attention on CUDA and on the CPU, from what the CPU's forward left.
#include <algorithm>
#include <string>

#include "cuda_test.h"

namespace weft {
namespace {

struct Length {
  int64_t queries = 1, keys = 1;
};

struct Case {
  std::vector<Length> lengths;
  int64_t num_heads = 2, num_kv_heads = 2, head_dim = 64;
  AttentionMask mask = {.scale = 0.2f};
  bool has_limits = false;  // visible_keys, at random
  bool has_bias = false, wants_dbias = true;
  int64_t misalignment = 0;  // elements before the arrays begin
  float dropout = 0;
};

std::vector<Length> self(std::initializer_list<int64_t> counts) {
  std::vector<Length> lengths;
  for (int64_t count : counts) lengths.push_back({count, count});
  return lengths;
}

std::string describe(const Case& test) {
  std::string text = "heads " + std::to_string(test.num_heads) + "/" + std::to_string(test.num_kv_heads) + " dim " +
                     std::to_string(test.head_dim) + " cap " + std::to_string(test.mask.soft_cap) + " window " +
                     std::to_string(test.mask.window) + (test.mask.causal ? " causal" : " full") +
                     (test.has_limits ? " limits" : "") + (test.has_bias ? " bias" : "") + " dropout " +
                     std::to_string(test.dropout) + " lengths";
  for (const Length& one : test.lengths) text += " " + std::to_string(one.queries) + "x" + std::to_string(one.keys);
  return text;
}

int64_t total(const Case& test, int64_t Length::*count) {
  int64_t sum = 0;
  for (const Length& one : test.lengths) sum += one.*count;
  return sum;
}

/// Query 0 of each sequence stands where its key 0 does; biases reach as far as any sequence.
struct BiasRange {
  explicit BiasRange(const Case& test) {
    for (const Length& one : test.lengths) {
      zero = std::max(zero, one.queries - 1);
      ahead = std::max(ahead, one.keys - 1);
    }
  }
  int64_t stride() const { return zero + ahead + 1 + kAttentionBiasPadding; }
  int64_t zero = 0, ahead = 0;
};

template <typename T>
class Problem {
 public:
  explicit Problem(const Case& test_case)
      : test(test_case),
        range(test),
        q(Twin<T>::random(query_size(), 1)),
        k(Twin<T>::random(key_size(), 2)),
        v(Twin<T>::random(key_size(), 3)),
        out(query_size()),
        dout(Twin<T>::random(query_size(), 4)),
        dq(query_size()),
        dk(key_size()),
        dv(key_size()),
        log_sum_exp(total(test, &Length::queries) * test.num_heads),
        bias(Twin<float>::random(test.num_heads * range.stride(), 5)),
        dbias(Twin<float>::constant(test.num_heads * range.stride(), 1)) {
    uint32_t seed = 10;
    for (const Length& one : test.lengths) limits_.push_back(random_limits(one, ++seed));
  }

  /// On both sides; forward on the CPU only, so that both read the same.
  void run() {
    on_both([&](const Side& side) {
      std::vector<AttentionSequence> sequences = sequences_on(side);
      if (side.type == DeviceType::cpu) {
        forward(side, sequences);
        out.send();
        log_sum_exp.send();
      }
      backward(side, sequences);
    });
  }

  void expect_equal(double limit) {
    expect_near_in_norm(dq, limit, "dq");
    expect_near_in_norm(dk, limit, "dk");
    expect_near_in_norm(dv, limit, "dv");
    if (test.has_bias) expect_near_in_norm(dbias, limit, "dbias");
  }

  Case test;
  BiasRange range;
  Twin<T> q, k, v, out, dout, dq, dk, dv;
  Twin<float> log_sum_exp, bias, dbias;

 private:
  int64_t query_size() const {
    return total(test, &Length::queries) * test.num_heads * test.head_dim + test.misalignment;
  }
  int64_t key_size() const {
    return total(test, &Length::keys) * test.num_kv_heads * test.head_dim + test.misalignment;
  }

  static std::vector<int32_t> random_limits(const Length& one, uint32_t seed) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int32_t> limit(1, static_cast<int32_t>(std::max<int64_t>(one.keys, 1)));
    std::vector<int32_t> limits(static_cast<size_t>(one.queries));
    for (int32_t& keys : limits) keys = limit(generator);
    std::sort(limits.begin(), limits.end());
    return limits;
  }

  /// Where an array of T begins, behind the elements that misalign it. These stay as they were made.
  T* begin(Twin<T>& twin, const Side& side) const { return twin.on(side) + test.misalignment; }

  std::vector<AttentionSequence> sequences_on(const Side& side) {
    std::vector<AttentionSequence> sequences;
    int64_t query_begin = 0, key_begin = 0, width = test.num_kv_heads * test.head_dim;
    for (size_t i = 0; i < test.lengths.size(); ++i) {
      const Length& one = test.lengths[i];
      sequences.push_back({.query_begin = query_begin,
                           .query_count = one.queries,
                           .key_count = one.keys,
                           .keys = begin(k, side) + key_begin * width,
                           .values = begin(v, side) + key_begin * width,
                           .key_token_stride = width,
                           .key_head_stride = test.head_dim,
                           .visible_keys = test.has_limits ? limits_[i].data() : nullptr,
                           .bias_origin = range.zero});
      query_begin += one.queries;
      key_begin += one.keys;
    }
    return sequences;
  }

  AttentionBias bias_on(const Side& side) {
    if (!test.has_bias) return {};
    return {.values = bias.on(side), .stride = range.stride()};
  }

  void forward(const Side& side, std::span<const AttentionSequence> sequences) {
    side.kernels().attention.forward({.q = begin(q, side),
                                      .out = begin(out, side),
                                      .log_sum_exp = log_sum_exp.on(side),
                                      .sequences = sequences,
                                      .num_heads = test.num_heads,
                                      .num_kv_heads = test.num_kv_heads,
                                      .head_dim = test.head_dim,
                                      .mask = test.mask,
                                      .bias = bias_on(side),
                                      .dropout = dropout_of_a_rank(test.dropout),
                                      .dtype = DTypeOf<T>::value},
                                     side.stream);
  }

  void backward(const Side& side, std::span<const AttentionSequence> sequences) {
    side.kernels().attention.backward({.q = begin(q, side),
                                       .k = begin(k, side),
                                       .v = begin(v, side),
                                       .out = begin(out, side),
                                       .dout = begin(dout, side),
                                       .log_sum_exp = log_sum_exp.on(side),
                                       .dq = begin(dq, side),
                                       .dk = begin(dk, side),
                                       .dv = begin(dv, side),
                                       .sequences = sequences,
                                       .num_heads = test.num_heads,
                                       .num_kv_heads = test.num_kv_heads,
                                       .head_dim = test.head_dim,
                                       .mask = test.mask,
                                       .bias = bias_on(side),
                                       .dropout = dropout_of_a_rank(test.dropout),
                                       .dbias = test.has_bias && test.wants_dbias ? dbias.on(side) : nullptr,
                                       .dtype = DTypeOf<T>::value},
                                      side.stream);
  }

  std::vector<std::vector<int32_t>> limits_;
};

/// Weights and their gradients are rounded to bf16 on the way to the sums.
template <typename T>
double allowed() {
  return std::is_same_v<T, float> ? norm_limit<T>() : 1.5e-2;
}

template <typename T>
void expect_equal(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test);
  // What misaligns an array is never written, and NaN there would hide everything.
  for (Twin<T>* twin : {&problem.dq, &problem.dk, &problem.dv}) {
    for (int64_t i = 0; i < test.misalignment; ++i) twin->host()[static_cast<size_t>(i)] = static_cast<T>(3.0f);
    twin->send();
  }
  problem.run();
  problem.expect_equal(allowed<T>());
}

template <typename T>
class AttentionBackwardOnCuda : public ::testing::Test {};
TYPED_TEST_SUITE(AttentionBackwardOnCuda, CudaDTypes);

TYPED_TEST(AttentionBackwardOnCuda, OfHeadDims) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {1, 3, 16, 20, 64, 66, 80, 96, 128, 160, 200, 256}) {
    float scale = 1 / std::sqrt(static_cast<float>(head_dim));
    expect_equal<TypeParam>({.lengths = self({65, 7, 130}), .head_dim = head_dim, .mask = {.scale = scale}});
    expect_equal<TypeParam>(
        {.lengths = self({100, 1}), .head_dim = head_dim, .mask = {.scale = scale, .causal = false}});
  }
}

TYPED_TEST(AttentionBackwardOnCuda, OfSequencesOfDifferentLength) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (bool causal : {true, false}) {
      expect_equal<TypeParam>({.lengths = self({1, 7, 400, 64, 65, 200, 63, 128, 129}),
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f, .causal = causal}});
    }
  }
}

TYPED_TEST(AttentionBackwardOnCuda, OfGroupsOfQueryHeads) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {16, 64, 128, 256}) {
    for (int64_t num_kv_heads : {1, 2}) {
      expect_equal<TypeParam>({.lengths = self({200, 33}),
                               .num_heads = 6,
                               .num_kv_heads = num_kv_heads,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f}});
    }
  }
}

// Too few tiles of keys for the GPU: several blocks share each, at places that are no ends of heads.
TYPED_TEST(AttentionBackwardOnCuda, OfFewHeadsAndLongSequences) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 100, 128, 256}) {
    for (bool causal : {true, false}) {
      expect_equal<TypeParam>({.lengths = self({700}),
                               .num_heads = 6,
                               .num_kv_heads = 2,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f, .causal = causal}});
    }
    expect_equal<TypeParam>({.lengths = {{600, 600}, {3, 3}, {400, 200}, {40, 500}},
                             .num_heads = 5,
                             .num_kv_heads = 1,
                             .head_dim = head_dim,
                             .mask = {.scale = 0.1f, .soft_cap = 20, .window = 200}});
  }
  expect_equal<TypeParam>({.lengths = self({600}),
                           .num_heads = 3,
                           .num_kv_heads = 1,
                           .head_dim = 72,
                           .mask = {.scale = 0.1f},
                           .has_bias = true});
  expect_equal<TypeParam>({.lengths = self({600}),
                           .num_heads = 3,
                           .num_kv_heads = 1,
                           .head_dim = 65,
                           .mask = {.scale = 0.1f},
                           .has_limits = true,
                           .misalignment = 1});
}

TYPED_TEST(AttentionBackwardOnCuda, WithWindows) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (int64_t window : {2, 3, 64, 130, 1000}) {
      for (bool causal : {true, false}) {
        expect_equal<TypeParam>({.lengths = self({300, 40}),
                                 .num_heads = 2,
                                 .num_kv_heads = 1,
                                 .head_dim = head_dim,
                                 .mask = {.scale = 0.1f, .window = window, .causal = causal}});
      }
    }
  }
}

TYPED_TEST(AttentionBackwardOnCuda, WithSoftCap) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {32, 128, 256}) {
    for (float cap : {1.0f, 50.0f}) {
      expect_equal<TypeParam>({.lengths = self({150, 1, 90}),
                               .num_heads = 4,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f, .soft_cap = cap, .window = 50}});
    }
  }
}

TYPED_TEST(AttentionBackwardOnCuda, OfKeysUpToALimit) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {20, 64, 128, 256}) {
    for (bool causal : {true, false}) {
      expect_equal<TypeParam>({.lengths = {{5, 5}, {40, 40}, {300, 300}, {130, 150}, {1, 1}, {200, 65}},
                               .num_heads = 2,
                               .num_kv_heads = 1,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f, .window = 4, .causal = causal},
                               .has_limits = true});
    }
  }
}

TYPED_TEST(AttentionBackwardOnCuda, OfQueriesToASource) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (bool has_bias : {false, true}) {
      expect_equal<TypeParam>({.lengths = {{7, 3}, {1, 140}, {3, 1}, {130, 65}, {5, 300}, {33, 34}},
                               .num_heads = 4,
                               .num_kv_heads = 2,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f, .causal = false},
                               .has_bias = has_bias});
    }
  }
}

TYPED_TEST(AttentionBackwardOnCuda, WithBiasByDistance) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {24, 64, 128, 256}) {
    for (bool causal : {true, false}) {
      Case test{.lengths = self({200, 1, 65, 128}),
                .num_heads = 4,
                .num_kv_heads = 4,
                .head_dim = head_dim,
                .mask = {.scale = 0.1f, .causal = causal},
                .has_bias = true};
      expect_equal<TypeParam>(test);
      test.wants_dbias = false;
      expect_equal<TypeParam>(test);
    }
  }
}

TYPED_TEST(AttentionBackwardOnCuda, WithEverything) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {16, 80, 128, 256}) {
    for (bool has_limits : {false, true}) {
      expect_equal<TypeParam>({.lengths = self({150, 40, 1, 220}),
                               .num_heads = 6,
                               .num_kv_heads = 2,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f, .soft_cap = 2, .window = 70},
                               .has_limits = has_limits,
                               .has_bias = true});
    }
  }
}

TYPED_TEST(AttentionBackwardOnCuda, WithDroppedWeights) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {20, 64, 128, 256}) {
    for (float dropout : {0.1f, 0.5f}) {
      for (bool causal : {true, false}) {
        Case test{.lengths = self({65, 7, 1, 130}),
                  .head_dim = head_dim,
                  .mask = {.scale = 0.1f, .causal = causal},
                  .dropout = dropout};
        expect_equal<TypeParam>(test);
        test.num_heads = 6;
        test.has_bias = true;
        test.mask.soft_cap = 2;
        expect_equal<TypeParam>(test);
      }
      expect_equal<TypeParam>({.lengths = {{40, 40}, {300, 300}, {130, 150}, {1, 1}, {200, 65}},
                               .num_kv_heads = 1,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f},
                               .has_limits = true,
                               .misalignment = dropout < 0.3f ? 0 : 1,
                               .dropout = dropout});
    }
  }
}

// Keys that begin anywhere, while random numbers come for four of them; and queries to a source.
TYPED_TEST(AttentionBackwardOnCuda, WithDroppedWeightsInWindows) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    for (int64_t window : {2, 3, 17, 64, 130}) {
      for (bool causal : {true, false}) {
        expect_equal<TypeParam>({.lengths = {{150, 150}, {33, 180}, {1, 70}, {90, 40}},
                                 .num_heads = 4,
                                 .head_dim = head_dim,
                                 .mask = {.scale = 0.1f, .window = window, .causal = causal},
                                 .has_bias = causal,
                                 .dropout = 0.3f});
      }
    }
  }
}

// Several blocks share tiles of keys.
TYPED_TEST(AttentionBackwardOnCuda, WithDroppedWeightsOfLongSequences) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    expect_equal<TypeParam>({.lengths = self({700}),
                             .num_heads = 6,
                             .num_kv_heads = 2,
                             .head_dim = head_dim,
                             .mask = {.scale = 0.1f},
                             .dropout = 0.1f});
  }
}

TYPED_TEST(AttentionBackwardOnCuda, OfMisalignedArrays) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128, 256}) {
    expect_equal<TypeParam>({.lengths = self({100, 9}),
                             .num_heads = 2,
                             .num_kv_heads = 1,
                             .head_dim = head_dim,
                             .mask = {.scale = 0.1f},
                             .misalignment = 1});
  }
}

// More queries than keys: the first ones stand before key 0.
TYPED_TEST(AttentionBackwardOnCuda, RowsThatSeeNothingGetZeros) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 256}) {
    Problem<TypeParam> problem(
        {.lengths = {{200, 70}, {3, 1}}, .num_heads = 2, .num_kv_heads = 1, .head_dim = head_dim});
    problem.run();
    problem.expect_equal(allowed<TypeParam>());
    std::vector<TypeParam> dq = problem.dq.device_values();
    for (int64_t i = 0; i < 130 * 2 * head_dim; ++i) ASSERT_EQ(as_float(dq[static_cast<size_t>(i)]), 0) << i;
  }
}

// The last queries' window begins behind the first keys of a source longer than they are.
TYPED_TEST(AttentionBackwardOnCuda, KeysThatNobodySeesGetZeros) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128}) {
    Problem<TypeParam> problem({.lengths = {{20, 300}}, .head_dim = head_dim, .mask = {.scale = 0.1f, .window = 10}});
    problem.run();
    problem.expect_equal(allowed<TypeParam>());
    std::vector<TypeParam> dk = problem.dk.device_values();
    for (int64_t i = 0; i < 271 * 2 * head_dim; ++i) ASSERT_EQ(as_float(dk[static_cast<size_t>(i)]), 0) << i;
  }
}

TYPED_TEST(AttentionBackwardOnCuda, OfNothing) {
  WEFT_NEEDS_GPU();
  Problem<TypeParam> problem({.lengths = {}});
  problem.run();
}

template <typename T>
void expect_same_bits(const Twin<T>& a, const Twin<T>& b) {
  std::vector<T> values = a.device_values(), others = b.device_values();
  EXPECT_EQ(std::memcmp(values.data(), others.data(), values.size() * sizeof(T)), 0);
}

TYPED_TEST(AttentionBackwardOnCuda, GivesTheSameBitsAgain) {
  WEFT_NEEDS_GPU();
  for (int64_t num_kv_heads : {1, 2, 8}) {
    Case test{.lengths = self({700, 65}),
              .num_heads = 8,
              .num_kv_heads = num_kv_heads,
              .head_dim = 128,
              .mask = {.scale = 0.1f}};
    SCOPED_TRACE(describe(test));
    Problem<TypeParam> first(test), second(test);
    first.run();
    second.run();
    expect_same_bits(first.dq, second.dq);
    expect_same_bits(first.dk, second.dk);
    expect_same_bits(first.dv, second.dv);
  }
}

}  // namespace
}  // namespace weft
