// Backward of attention on CUDA and on the CPU, from what the CPU's forward left.
#include <algorithm>
#include <string>

#include "cuda_test.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/attention_tiles.h"

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

/// The kernels on CUDA; in one pass only where that is meant for the case.
enum class Way : uint8_t { by_table, in_one_pass, in_two_passes };

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

  /// On both sides; forward on the CPU only, so that both read the same. False: CUDA did not go this way.
  bool run(Way way = Way::by_table) {
    bool has_run = true;
    on_both([&](const Side& side) {
      std::vector<AttentionSequence> sequences = sequences_on(side);
      if (side.type == DeviceType::cpu) {
        forward(side, sequences);
        out.send();
        log_sum_exp.send();
      }
      has_run = backward(side, sequences, way) && has_run;
    });
    return has_run;
  }

  /// Once more on CUDA, after what it wrote is forgotten.
  void run_again(Way way) {
    on_both([&](const Side& side) {
      if (side.type == DeviceType::cpu) return;
      for (Twin<T>* twin : {&dq, &dk, &dv}) {
        std::vector<uint8_t> none(static_cast<size_t>(twin->size()) * sizeof(T), 0xff);
        gpu()->copy_from_host(twin->on(side), none.data(), none.size());
      }
      backward(side, sequences_on(side), way);
    });
  }

  /// On both sides; forward and backward on the GPU by the given calls.
  template <typename Forward, typename Backward>
  void run_both_passes(const Forward& forward_on_gpu, const Backward& backward_on_gpu) {
    on_both([&](const Side& side) {
      std::vector<AttentionSequence> sequences = sequences_on(side);
      if (side.type == DeviceType::cpu) {
        forward(side, sequences);
        backward(side, sequences, Way::by_table);
        return;
      }
      forward_on_gpu(forward_args(side, sequences), cuda::device_of(side.stream));
      backward_on_gpu(backward_args(side, sequences), cuda::device_of(side.stream));
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

  AttentionForwardArgs forward_args(const Side& side, std::span<const AttentionSequence> sequences) {
    return {.q = begin(q, side),
            .out = begin(out, side),
            .log_sum_exp = log_sum_exp.on(side),
            .sequences = sequences,
            .num_heads = test.num_heads,
            .num_kv_heads = test.num_kv_heads,
            .head_dim = test.head_dim,
            .mask = test.mask,
            .bias = bias_on(side),
            .dropout = dropout_of_a_rank(test.dropout),
            .dtype = DTypeOf<T>::value};
  }

  void forward(const Side& side, std::span<const AttentionSequence> sequences) {
    side.kernels().attention.forward(forward_args(side, sequences), side.stream);
  }

  AttentionBackwardArgs backward_args(const Side& side, std::span<const AttentionSequence> sequences) {
    return {.q = begin(q, side),
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
            .dtype = DTypeOf<T>::value};
  }

  bool backward(const Side& side, std::span<const AttentionSequence> sequences, Way way) {
    AttentionBackwardArgs args = backward_args(side, sequences);
    if (side.type == DeviceType::cpu || way == Way::by_table) {
      side.kernels().attention.backward(args, side.stream);
      return true;
    }
    cuda::CudaDevice& device = cuda::device_of(side.stream);
    if (way == Way::in_one_pass) return cuda::attention_backward_wgmma(args, device);
    cuda::attention_backward_two_passes(args, device);
    return true;
  }

  std::vector<std::vector<int32_t>> limits_;
};

/// Weights and their gradients are rounded to bf16 on the way to the sums.
template <typename T>
double allowed() {
  return std::is_same_v<T, float> ? norm_limit<T>() : 1.5e-2;
}

bool is_for_one_pass(const Case& test) {
  bool is_hopper = static_cast<cuda::CudaDevice&>(*gpu()).architecture() == 90;
  bool has_heads = test.head_dim >= cuda::least_one_pass_head_dim() && test.head_dim <= 128 && test.head_dim % 8 == 0 &&
                   test.misalignment == 0;
  return is_hopper && has_heads && !test.has_bias && test.dropout == 0;
}

/// By each of the kernels that there are for the case.
template <typename T>
void expect_equal(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test);
  // What misaligns an array is never written, and NaN there would hide everything.
  for (Twin<T>* twin : {&problem.dq, &problem.dk, &problem.dv}) {
    for (int64_t i = 0; i < test.misalignment; ++i) twin->host()[static_cast<size_t>(i)] = static_cast<T>(3.0f);
    twin->send();
  }
  bool is_in_one_pass = std::is_same_v<T, bfloat16> && is_for_one_pass(test);
  ASSERT_TRUE(problem.run(is_in_one_pass ? Way::in_one_pass : Way::in_two_passes)) << "not in one pass";
  problem.expect_equal(allowed<T>());
  if (!is_in_one_pass) return;
  SCOPED_TRACE("in two passes");
  problem.run_again(Way::in_two_passes);
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

// More tiles of keys than a GPU has room for at once, so that blocks wait for others in several rounds.
TYPED_TEST(AttentionBackwardOnCuda, OfManyTiles) {
  WEFT_NEEDS_GPU();
  for (int64_t head_dim : {64, 128}) {
    for (bool causal : {true, false}) {
      expect_equal<TypeParam>({.lengths = {{600, 600}, {300, 300}, {100, 500}},
                               .num_heads = 24,
                               .num_kv_heads = head_dim == 64 ? 24 : 12,
                               .head_dim = head_dim,
                               .mask = {.scale = 0.1f, .window = causal ? 0 : 260, .causal = causal}});
    }
  }
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
  for (int64_t head_dim : {32, 64, 128, 256}) {
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
              .head_dim = num_kv_heads == 2 ? 64 : 128,
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

cuda::CudnnAttention& cudnn() {
  return cuda::cudnn_attention(static_cast<cuda::CudaDevice&>(*gpu()));
}

#define WEFT_NEEDS_CUDNN() \
  WEFT_NEEDS_GPU();        \
  if (!cudnn().is_available()) GTEST_SKIP() << "SKIPPED, not checked: " << cudnn().reason()

enum class Library : uint8_t { own, cudnn, cudnn_deterministic };

/// cuDNN rounds the gradients of each query head's keys before it adds those of a group.
constexpr double kAllowedOfCudnn = 2e-2;

void expect_equal_by(const Case& test, Library forward_way, Library backward_way) {
  SCOPED_TRACE(describe(test) + " ways " + std::to_string(static_cast<int>(forward_way)) + " " +
               std::to_string(static_cast<int>(backward_way)));
  Problem<bfloat16> problem(test);
  problem.run_both_passes(
      [&](const AttentionForwardArgs& args, cuda::CudaDevice& device) {
        if (forward_way == Library::own) return cuda::attention_forward_tiles(args, device);
        EXPECT_TRUE(cudnn().forward(args, device)) << cudnn().reason();
      },
      [&](const AttentionBackwardArgs& args, cuda::CudaDevice& device) {
        if (backward_way == Library::own) return cuda::attention_backward(args, device);
        EXPECT_TRUE(cudnn().backward(args, backward_way == Library::cudnn_deterministic, device)) << cudnn().reason();
      });
  problem.expect_equal(kAllowedOfCudnn);
}

TEST(CudnnAttentionBackward, OfHeadSizesAndGroups) {
  WEFT_NEEDS_CUDNN();
  for (int64_t head_dim : {8, 72, 128, 256}) {
    for (bool causal : {true, false}) {
      expect_equal_by({.lengths = self({200, 200}),
                       .num_heads = 6,
                       .num_kv_heads = causal ? 2 : 6,
                       .head_dim = head_dim,
                       .mask = {.scale = 0.1f, .causal = causal}},
                      Library::cudnn,
                      Library::cudnn);
    }
  }
}

TEST(CudnnAttentionBackward, FollowsOurForwardAndOursFollowsIts) {
  WEFT_NEEDS_CUDNN();
  for (int64_t head_dim : {64, 128}) {
    for (int64_t window : {0, 70}) {
      Case test{
          .lengths = self({300, 300}), .num_heads = 4, .head_dim = head_dim, .mask = {.scale = 0.1f, .window = window}};
      expect_equal_by(test, Library::own, Library::cudnn);
      expect_equal_by(test, Library::cudnn, Library::own);
    }
  }
}

TEST(CudnnAttentionBackward, OfMoreKeysThanQueriesInWindows) {
  WEFT_NEEDS_CUDNN();
  for (int64_t window : {0, 40}) {
    expect_equal_by({.lengths = {{100, 333}, {100, 333}},
                     .num_heads = 4,
                     .head_dim = 128,
                     .mask = {.scale = 0.1f, .window = window}},
                    Library::cudnn,
                    Library::cudnn);
  }
}

TEST(CudnnAttentionBackward, WithSoftCap) {
  WEFT_NEEDS_CUDNN();
  for (int64_t head_dim : {128, 256}) {
    for (int64_t window : {0, 100}) {
      expect_equal_by({.lengths = self({300, 300}),
                       .num_heads = 4,
                       .head_dim = head_dim,
                       .mask = {.scale = 0.1f, .soft_cap = 5, .window = window}},
                      Library::cudnn,
                      Library::cudnn);
    }
  }
}

TEST(CudnnAttentionBackward, IsTheSameAgainWhereThatIsAskedFor) {
  WEFT_NEEDS_CUDNN();
  Case test{.lengths = self({700, 700}), .num_heads = 8, .head_dim = 128, .mask = {.scale = 0.1f}};
  expect_equal_by(test, Library::cudnn, Library::cudnn_deterministic);
  Problem<bfloat16> first(test), second(test);
  for (Problem<bfloat16>* problem : {&first, &second}) {
    problem->run_both_passes(
        [](const AttentionForwardArgs& args, cuda::CudaDevice& device) { cudnn().forward(args, device); },
        [](const AttentionBackwardArgs& args, cuda::CudaDevice& device) { cudnn().backward(args, true, device); });
  }
  expect_same_bits(first.dq, second.dq);
  expect_same_bits(first.dk, second.dk);
  expect_same_bits(first.dv, second.dv);
}

TEST(CudnnAttentionBackward, LeavesOtherCallsAlone) {
  WEFT_NEEDS_CUDNN();
  for (const Case& test : {Case{.lengths = self({100, 90})},
                           Case{.lengths = self({100}), .has_limits = true},
                           Case{.lengths = self({100}), .has_bias = true},
                           Case{.lengths = self({100}), .dropout = 0.1f},
                           Case{.lengths = self({100}), .misalignment = 1}}) {
    SCOPED_TRACE(describe(test));
    Problem<bfloat16> problem(test);
    problem.run_both_passes(
        [](const AttentionForwardArgs& args, cuda::CudaDevice& device) { cuda::attention_forward_tiles(args, device); },
        [](const AttentionBackwardArgs& args, cuda::CudaDevice& device) {
          EXPECT_FALSE(cudnn().backward(args, false, device));
        });
  }
}

}  // namespace
}  // namespace weft
