#include <algorithm>

#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class AttentionOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(AttentionOfDType, KernelDTypes);

/// One case: sequences with their past, heads and mask. Keys and values lie in a cache with spare room filled with NaN.
struct Case {
  std::vector<std::pair<int64_t, int64_t>> lengths;  // query_count, past
  int64_t num_heads = 1, num_kv_heads = 1, head_dim = 8;
  AttentionMask mask;
  bool has_limits = false;  // visible_keys, at random
  float dropout = 0;
};

/// As on a rank that holds heads 3, 4, … of 11, and a batch's tokens from 5 on.
AttentionDropout dropout_of(float probability) {
  return {.probability = probability,
          .key = {.seed = 0x1234567890, .step = 7, .site = 3},
          .row_begin = 5,
          .head_begin = 3,
          .global_heads = 11};
}

/// A random number of visible keys for each query, never falling.
std::vector<int32_t> random_limits(int64_t query_count, int64_t key_count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int32_t> limit(1, static_cast<int32_t>(key_count));
  std::vector<int32_t> limits(static_cast<size_t>(query_count));
  for (int32_t& keys : limits) keys = limit(generator);
  std::sort(limits.begin(), limits.end());
  return limits;
}

std::string describe(const Case& test) {
  std::string text = "heads " + std::to_string(test.num_heads) + "/" + std::to_string(test.num_kv_heads) + " dim " +
                     std::to_string(test.head_dim) + " cap " + std::to_string(test.mask.soft_cap) + " window " +
                     std::to_string(test.mask.window) + (test.mask.causal ? " causal" : " full") +
                     (test.has_limits ? " limits" : "") + " dropout " + std::to_string(test.dropout) + " lengths";
  for (auto [count, past] : test.lengths) text += " " + std::to_string(count) + "+" + std::to_string(past);
  return text;
}

/// Queries, caches and outputs of a case.
template <typename T>
struct Problem {
  explicit Problem(const Case& test_case)
      : test(test_case),
        q(total_queries() * test.num_heads * test.head_dim, 1),
        out(q.size(), 3),
        log_sum_exp(total_queries() * test.num_heads) {
    fill_random(q, 1);
    int64_t query_begin = 0;
    uint32_t seed = 2;
    for (auto [count, past] : test.lengths) {
      int64_t capacity = count + past + 3;
      for (auto* caches : {&keys, &values}) {
        caches->push_back(std::make_unique<Guarded<T>>(test.num_kv_heads * capacity * test.head_dim, 1));
        Guarded<T>& cache = *caches->back();
        fill_random(cache, ++seed);
        for (int64_t head = 0; head < test.num_kv_heads; ++head) {
          for (int64_t i = (count + past) * test.head_dim; i < capacity * test.head_dim; ++i) {
            cache[head * capacity * test.head_dim + i] = from_double<T>(std::nan(""));
          }
        }
      }
      sequences.push_back({.query_begin = query_begin,
                           .query_count = count,
                           .key_count = count + past,
                           .keys = keys.back()->data(),
                           .values = values.back()->data(),
                           .key_token_stride = test.head_dim,
                           .key_head_stride = capacity * test.head_dim});
      query_begin += count;
      if (!test.has_limits) continue;
      limits.push_back(random_limits(count, count + past, ++seed));
      sequences.back().visible_keys = limits.back().data();
    }
  }

  int64_t total_queries() const {
    int64_t total = 0;
    for (auto [count, past] : test.lengths) total += count;
    return total;
  }

  AttentionForwardArgs args() {
    return {.q = q.data(),
            .out = out.data(),
            .log_sum_exp = log_sum_exp.data(),
            .sequences = sequences,
            .num_heads = test.num_heads,
            .num_kv_heads = test.num_kv_heads,
            .head_dim = test.head_dim,
            .mask = test.mask,
            .dropout = dropout_of(test.dropout),
            .dtype = DTypeOf<T>::value};
  }

  Case test;
  Guarded<T> q, out;
  Guarded<SumOf<T>> log_sum_exp;
  std::vector<std::unique_ptr<Guarded<T>>> keys, values;
  std::vector<std::vector<int32_t>> limits;
  std::vector<AttentionSequence> sequences;
};

struct Reference {
  std::vector<double> out, log_sum_exp;
};

bool is_visible(const AttentionMask& mask, const AttentionSequence& sequence, int64_t query, int64_t key) {
  if (sequence.visible_keys != nullptr) return key < sequence.visible_keys[query];
  int64_t position = sequence.key_count - sequence.query_count + query;
  return (!mask.causal || key <= position) && (mask.window == 0 || position - key < mask.window);
}

/// Textbook attention of one query head in double.
template <typename T>
void reference_row(
    const Problem<T>& problem, const AttentionSequence& sequence, int64_t query, int64_t head, Reference& reference) {
  const Case& test = problem.test;
  int64_t row = (sequence.query_begin + query) * test.num_heads + head;
  int64_t kv_offset = head / (test.num_heads / test.num_kv_heads) * sequence.key_head_stride;
  const T* q = problem.q.data() + row * test.head_dim;
  const T* keys = static_cast<const T*>(sequence.keys) + kv_offset;
  const T* values = static_cast<const T*>(sequence.values) + kv_offset;
  std::vector<double> scores(static_cast<size_t>(sequence.key_count), -INFINITY);
  double maximum = -INFINITY;
  for (int64_t key = 0; key < sequence.key_count; ++key) {
    if (!is_visible(test.mask, sequence, query, key)) continue;
    double dot = 0;
    for (int64_t d = 0; d < test.head_dim; ++d)
      dot += to_double(q[d]) * to_double(keys[key * sequence.key_token_stride + d]);
    double score = dot * test.mask.scale;
    if (test.mask.soft_cap > 0) score = test.mask.soft_cap * std::tanh(score / test.mask.soft_cap);
    scores[key] = score;
    maximum = std::max(maximum, score);
  }
  double sum = 0;
  for (double score : scores) sum += std::exp(score - maximum);
  reference.log_sum_exp[row] = maximum + std::log(sum);
  for (int64_t key = 0; key < sequence.key_count; ++key) {
    if (!is_visible(test.mask, sequence, query, key)) continue;
    double weight = std::exp(scores[key] - maximum) / sum;
    if (test.dropout > 0) {
      AttentionDropout dropout = dropout_of(test.dropout);
      uint64_t index = dropout.first_index(sequence.query_begin + query, head) + static_cast<uint64_t>(key);
      weight *= dropout.key.uniform(index) < test.dropout ? 0 : static_cast<double>(dropout.kept_scale());
    }
    for (int64_t d = 0; d < test.head_dim; ++d) {
      reference.out[row * test.head_dim + d] += weight * to_double(values[key * sequence.key_token_stride + d]);
    }
  }
}

template <typename T>
Reference reference_attention(const Problem<T>& problem) {
  Reference reference{std::vector<double>(problem.out.size(), 0.0),
                      std::vector<double>(problem.log_sum_exp.size(), 0.0)};
  for (const AttentionSequence& sequence : problem.sequences) {
    for (int64_t query = 0; query < sequence.query_count; ++query) {
      for (int64_t head = 0; head < problem.test.num_heads; ++head)
        reference_row(problem, sequence, query, head, reference);
    }
  }
  return reference;
}

/// Weights are rounded to bf16 where vdpbf16ps sums them: about 2^-9 each, in a mean of values of size 1.
template <typename T>
Tolerance attention_tolerance() {
  Tolerance allowed = tolerance<T>();
  if constexpr (std::is_same_v<T, bfloat16>) allowed.absolute = 0x1p-8;
  if constexpr (std::is_same_v<T, float>) allowed.absolute = 3e-6;  // scores of size 10 are exact to 1e-6
  return allowed;
}

template <typename T>
void expect_attention_equals_reference(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test);
  Reference reference = reference_attention(problem);
  for_each_isa([&](const Stream& stream) {
    std::memset(static_cast<void*>(problem.out.data()), 0, sizeof(T) * problem.out.size());
    cpu().attention.forward(problem.args(), stream);
    Tolerance allowed = attention_tolerance<T>();
    allowed.absolute *= static_cast<double>(problem.args().dropout.kept_scale());
    expect_close(problem.out, reference.out, allowed);
    expect_close(problem.log_sum_exp, reference.log_sum_exp, tolerance<SumOf<T>>(), 4);
  });
}

TYPED_TEST(AttentionOfDType, OfEveryHeadDim) {
  for (int64_t head_dim = 1; head_dim <= 80; ++head_dim) {
    expect_attention_equals_reference<TypeParam>({.lengths = {{9, 0}, {1, 20}},
                                                  .num_heads = 3,
                                                  .head_dim = head_dim,
                                                  .mask = {.scale = 1 / std::sqrt(static_cast<float>(head_dim))}});
  }
  for (int64_t head_dim : {96, 128, 256, 512}) {
    expect_attention_equals_reference<TypeParam>({.lengths = {{40, 0}, {1, 70}, {5, 130}},
                                                  .num_heads = 2,
                                                  .head_dim = head_dim,
                                                  .mask = {.scale = 1 / std::sqrt(static_cast<float>(head_dim))}});
  }
}

TYPED_TEST(AttentionOfDType, WithEveryGroupOfQueryHeads) {
  for (int64_t group : {1, 2, 3, 4, 5, 8, 9}) {
    expect_attention_equals_reference<TypeParam>({.lengths = {{33, 0}, {1, 300}, {1, 0}},
                                                  .num_heads = 2 * group,
                                                  .num_kv_heads = 2,
                                                  .head_dim = 16,
                                                  .mask = {.scale = 0.25f}});
  }
}

TYPED_TEST(AttentionOfDType, OfSequencesOfDifferentLengthAndPast) {
  expect_attention_equals_reference<TypeParam>(
      {.lengths = {{1, 0}, {2, 0}, {129, 0}, {7, 250}, {1, 511}, {1, 512}, {300, 5}, {64, 64}},
       .num_heads = 3,
       .num_kv_heads = 1,
       .head_dim = 24,
       .mask = {.scale = 0.2f}});
}

TYPED_TEST(AttentionOfDType, WithWindows) {
  for (int64_t window : {1, 3, 64, 130, 1000}) {
    for (bool causal : {true, false}) {
      expect_attention_equals_reference<TypeParam>({.lengths = {{200, 0}, {30, 170}, {1, 280}},
                                                    .num_heads = 4,
                                                    .num_kv_heads = 2,
                                                    .head_dim = 8,
                                                    .mask = {.scale = 0.35f, .window = window, .causal = causal}});
    }
  }
}

TYPED_TEST(AttentionOfDType, WithSoftCap) {
  for (float cap : {0.5f, 50.0f}) {
    expect_attention_equals_reference<TypeParam>({.lengths = {{150, 0}, {1, 140}},
                                                  .num_heads = 2,
                                                  .num_kv_heads = 1,
                                                  .head_dim = 32,
                                                  .mask = {.scale = 0.5f, .soft_cap = cap, .window = 50}});
  }
}

TYPED_TEST(AttentionOfDType, ThatSeesTheFuture) {
  expect_attention_equals_reference<TypeParam>({.lengths = {{130, 0}, {70, 0}, {1, 0}},
                                                .num_heads = 2,
                                                .num_kv_heads = 2,
                                                .head_dim = 20,
                                                .mask = {.scale = 0.3f, .causal = false}});
}

TYPED_TEST(AttentionOfDType, OfManyShortSequencesThatSeeTheFuture) {
  Case test{
      .lengths = {}, .num_heads = 12, .num_kv_heads = 12, .head_dim = 32, .mask = {.scale = 0.18f, .causal = false}};
  for (int64_t length = 1; length <= 36; ++length) test.lengths.push_back({length, 0});
  expect_attention_equals_reference<TypeParam>(test);
}

TYPED_TEST(AttentionOfDType, OfKeysUpToALimit) {
  for (int64_t num_kv_heads : {1, 3}) {
    for (AttentionMask mask : {AttentionMask{.scale = 0.3f, .causal = false},
                               AttentionMask{.scale = 0.3f},
                               AttentionMask{.scale = 0.3f, .soft_cap = 2, .window = 4}}) {
      expect_attention_equals_reference<TypeParam>(
          {.lengths = {{5, 0}, {40, 0}, {1, 60}, {1, 700}, {130, 20}, {300, 0}, {2, 31}, {1, 0}},
           .num_heads = 3,
           .num_kv_heads = num_kv_heads,
           .head_dim = 20,
           .mask = mask,
           .has_limits = true});
    }
  }
}

TYPED_TEST(AttentionOfDType, WithDroppedWeights) {
  for (float dropout : {0.1f, 0.6f}) {
    for (AttentionMask mask : {AttentionMask{.scale = 0.3f, .causal = false},
                               AttentionMask{.scale = 0.3f},
                               AttentionMask{.scale = 0.3f, .soft_cap = 2, .window = 9}}) {
      for (bool has_limits : {false, true}) {
        expect_attention_equals_reference<TypeParam>(
            {.lengths = {{5, 0}, {40, 0}, {1, 60}, {130, 21}, {300, 0}, {2, 31}, {1, 0}},
             .num_heads = 4,
             .num_kv_heads = 2,
             .head_dim = 20,
             .mask = mask,
             .has_limits = has_limits,
             .dropout = dropout});
      }
    }
  }
}

TEST(Attention, LimitsThatSayWhatTheMaskSaysGiveTheSameBits) {
  for (bool causal : {true, false}) {
    Problem<float> problem({.lengths = {{150, 0}, {30, 170}, {1, 280}},
                            .num_heads = 4,
                            .num_kv_heads = 2,
                            .head_dim = 24,
                            .mask = {.scale = 0.3f, .causal = causal}});
    for_each_isa([&](const Stream& stream) {
      cpu().attention.forward(problem.args(), stream);
      std::vector<double> expected = problem.out.values();
      std::vector<std::vector<int32_t>> limits;
      for (AttentionSequence& sequence : problem.sequences) {
        limits.emplace_back(static_cast<size_t>(sequence.query_count), static_cast<int32_t>(sequence.key_count));
        auto past = static_cast<int32_t>(sequence.key_count - sequence.query_count);
        if (causal) std::iota(limits.back().begin(), limits.back().end(), past + 1);
        sequence.visible_keys = limits.back().data();
      }
      cpu().attention.forward(problem.args(), stream);
      EXPECT_EQ(problem.out.values(), expected);
      for (AttentionSequence& sequence : problem.sequences) sequence.visible_keys = nullptr;
    });
  }
}

// The dearer piece comes first and leaves NaN behind in the buffers that both are packed into.
TEST(Attention, NothingIsLeftOfTheSequenceBefore) {
  Problem<float> problem({.lengths = {{128, 0}, {17, 0}}, .head_dim = 20, .mask = {.scale = 0.3f, .causal = false}});
  Reference reference = reference_attention(problem);
  for (auto* caches : {&problem.keys, &problem.values}) {
    Guarded<float>& cache = *caches->front();
    for (int64_t i = 0; i < 128 * 20; ++i) cache[i] = std::nanf("");
  }
  for_each_isa([&](const Stream& stream) {
    cpu().attention.forward(problem.args(), Stream{.device = {}, .num_threads = 1, .workspace = stream.workspace});
    for (int64_t i = 0; i < 128 * 20; ++i) ASSERT_TRUE(std::isnan(problem.out[i]));
    for (int64_t i = 128 * 20; i < problem.out.size(); ++i) {
      ASSERT_NEAR(problem.out[i], reference.out[static_cast<size_t>(i)], 1e-5);
    }
  });
}

TEST(Attention, HugeScoresStayFinite) {
  for (float scale : {1e4f, 1e30f}) {
    Problem<float> problem({.lengths = {{140, 0}, {1, 200}}, .num_heads = 2, .head_dim = 4, .mask = {.scale = scale}});
    Reference reference = reference_attention(problem);
    for_each_isa([&](const Stream& stream) {
      cpu().attention.forward(problem.args(), stream);
      for (double value : problem.out.values()) ASSERT_TRUE(std::isfinite(value));
    });
  }
}

TEST(Attention, NanInAQueryReachesItsRowOnly) {
  Problem<float> problem({.lengths = {{20, 0}, {1, 30}}, .num_heads = 2, .head_dim = 4, .mask = {.scale = 0.5f}});
  problem.q[(7 * 2 + 1) * 4] = std::nanf("");
  problem.q[(20 * 2 + 1) * 4] = std::nanf("");
  for_each_isa([&](const Stream& stream) {
    cpu().attention.forward(problem.args(), stream);
    for (int64_t row = 0; row < 42; ++row) {
      EXPECT_EQ(std::isnan(problem.out[row * 4]), row == 15 || row == 41) << row;
    }
  });
}

TEST(Attention, ResultDoesNotDependOnTheNumberOfThreads) {
  Problem<bfloat16> problem(
      {.lengths = {{300, 10}, {1, 900}}, .num_heads = 6, .num_kv_heads = 2, .head_dim = 64, .mask = {.scale = 0.125f}});
  std::vector<double> first;
  for (int threads : {1, 2, 3}) {
    cpu().attention.forward(problem.args(), Stream{.device = {}, .num_threads = threads});
    if (first.empty()) first = problem.out.values();
    EXPECT_EQ(problem.out.values(), first) << threads;
  }
}

/// Keys and values packed [T, Hk, D], as in training.
template <typename T>
struct TrainingProblem {
  TrainingProblem(std::vector<int64_t> lengths,
                  int64_t num_heads,
                  int64_t num_kv_heads,
                  int64_t head_dim,
                  AttentionMask mask,
                  float dropout_probability = 0)
      : tokens(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})),
        heads(num_heads),
        kv_heads(num_kv_heads),
        dim(head_dim),
        attention_mask(mask),
        dropout(dropout_of(dropout_probability)),
        q(tokens * heads * dim),
        k(tokens * kv_heads * dim),
        v(k.size()),
        out(q.size()),
        dout(q.size()),
        dq(q.size()),
        dk(k.size()),
        dv(k.size()),
        log_sum_exp(tokens * heads) {
    uint32_t seed = 0;
    for (Guarded<T>* buffer : {&q, &k, &v, &dout}) fill_random(*buffer, ++seed);
    int64_t begin = 0;
    for (int64_t length : lengths) {
      sequences.push_back({.query_begin = begin,
                           .query_count = length,
                           .key_count = length,
                           .keys = k.data() + begin * kv_heads * dim,
                           .values = v.data() + begin * kv_heads * dim,
                           .key_token_stride = kv_heads * dim,
                           .key_head_stride = dim});
      begin += length;
    }
  }

  void forward(const Stream& stream) {
    cpu().attention.forward({.q = q.data(),
                             .out = out.data(),
                             .log_sum_exp = log_sum_exp.data(),
                             .sequences = sequences,
                             .num_heads = heads,
                             .num_kv_heads = kv_heads,
                             .head_dim = dim,
                             .mask = attention_mask,
                             .dropout = dropout,
                             .dtype = DTypeOf<T>::value},
                            stream);
  }
  void backward(const Stream& stream) {
    cpu().attention.backward({.q = q.data(),
                              .k = k.data(),
                              .v = v.data(),
                              .out = out.data(),
                              .dout = dout.data(),
                              .log_sum_exp = log_sum_exp.data(),
                              .dq = dq.data(),
                              .dk = dk.data(),
                              .dv = dv.data(),
                              .sequences = sequences,
                              .num_heads = heads,
                              .num_kv_heads = kv_heads,
                              .head_dim = dim,
                              .mask = attention_mask,
                              .dropout = dropout,
                              .dtype = DTypeOf<T>::value},
                             stream);
  }

  void set_random_limits() {
    limits.clear();
    for (AttentionSequence& sequence : sequences) {
      limits.push_back(random_limits(sequence.query_count, sequence.key_count, 7));
      sequence.visible_keys = limits.back().data();
    }
  }

  int64_t tokens, heads, kv_heads, dim;
  AttentionMask attention_mask;
  AttentionDropout dropout;
  Guarded<T> q, k, v, out, dout, dq, dk, dv;
  Guarded<SumOf<T>> log_sum_exp;
  std::vector<std::vector<int32_t>> limits;
  std::vector<AttentionSequence> sequences;
};

TEST(Attention, BackwardEqualsCentredDifferences) {
  for (AttentionMask mask : {AttentionMask{.scale = 0.4f},
                             AttentionMask{.scale = 0.4f, .soft_cap = 1.5f, .window = 3},
                             AttentionMask{.scale = 0.4f, .soft_cap = 2, .causal = false}}) {
    for (auto [has_limits, dropout] : {std::pair{false, 0.0f}, {true, 0.0f}, {false, 0.3f}, {true, 0.3f}}) {
      TrainingProblem<double> problem({5, 1, 9}, 4, 2, 5, mask, dropout);
      if (has_limits) problem.set_random_limits();
      for_each_isa([&](const Stream& stream) {
        auto loss = [&] {
          problem.forward(stream);
          return weighted_sum(problem.dout, problem.out);
        };
        loss();
        problem.backward(stream);
        expect_gradient(problem.q, problem.dq, loss);
        expect_gradient(problem.k, problem.dk, loss);
        expect_gradient(problem.v, problem.dv, loss);
      });
    }
  }
}

/// Rounds a problem's inputs into another dtype.
template <typename From, typename To>
void copy_rounded(const Guarded<From>& from, Guarded<To>& to) {
  for (int64_t i = 0; i < from.size(); ++i) to[i] = from_double<To>(to_double(from[i]));
}

template <typename T>
void expect_backward_equals_double(const std::vector<int64_t>& lengths,
                                   int64_t heads,
                                   int64_t kv_heads,
                                   int64_t dim,
                                   AttentionMask mask,
                                   bool has_limits = false,
                                   float dropout = 0) {
  TrainingProblem<T> problem(lengths, heads, kv_heads, dim, mask, dropout);
  TrainingProblem<double> reference(lengths, heads, kv_heads, dim, mask, dropout);
  if (has_limits) {
    problem.set_random_limits();
    reference.set_random_limits();
  }
  copy_rounded(problem.q, reference.q);
  copy_rounded(problem.k, reference.k);
  copy_rounded(problem.v, reference.v);
  copy_rounded(problem.dout, reference.dout);
  reference.forward({});
  reference.backward({});
  Tolerance allowed = tolerance<T>();
  if constexpr (std::is_same_v<T, bfloat16>) allowed.absolute = 0x1p-7;  // `out` and hence Σ dout·out was rounded
  for_each_isa([&](const Stream& stream) {
    problem.forward(stream);
    problem.backward(stream);
    expect_close(problem.dq, reference.dq.values(), allowed, 4);
    expect_close(problem.dk, reference.dk.values(), allowed, 8);
    expect_close(problem.dv, reference.dv.values(), allowed, 8);
  });
}

TYPED_TEST(AttentionOfDType, BackwardOfSeveralBlocks) {
  AttentionMask mask{.scale = 0.2f};
  expect_backward_equals_double<TypeParam>({150, 3, 301}, 6, 2, 24, mask);
  mask.window = 70;
  mask.soft_cap = 5;
  expect_backward_equals_double<TypeParam>({260}, 2, 2, 64, mask);
}

TYPED_TEST(AttentionOfDType, BackwardOfShortSequencesThatSeeTheFuture) {
  expect_backward_equals_double<TypeParam>({32, 7, 31, 1, 33, 20, 130, 5}, 4, 4, 32, {.scale = 0.18f, .causal = false});
}

TYPED_TEST(AttentionOfDType, BackwardOfKeysUpToALimit) {
  expect_backward_equals_double<TypeParam>({150, 3, 301, 17}, 6, 2, 24, {.scale = 0.2f}, true);
}

TYPED_TEST(AttentionOfDType, BackwardOfDroppedWeights) {
  for (bool has_limits : {false, true}) {
    expect_backward_equals_double<TypeParam>({150, 3, 301, 1}, 6, 2, 24, {.scale = 0.2f}, has_limits, 0.1f);
  }
  expect_backward_equals_double<TypeParam>({33, 260}, 2, 2, 64, {.scale = 0.2f, .window = 70}, false, 0.25f);
  expect_backward_equals_double<TypeParam>({31, 7, 130}, 4, 4, 32, {.scale = 0.18f, .causal = false}, false, 0.5f);
}

TEST(Attention, BackwardIsTheSameOnAnyNumberOfThreads) {
  TrainingProblem<float> problem({200, 90}, 4, 2, 16, {.scale = 0.25f});
  std::vector<double> first;
  for (int threads : {1, 2, 3}) {
    problem.forward({.device = {}, .num_threads = threads});
    problem.backward({.device = {}, .num_threads = threads});
    if (first.empty()) first = problem.dk.values();
    EXPECT_EQ(problem.dk.values(), first);
  }
}

TYPED_TEST(AttentionOfDType, CacheWritePutsEveryHeadInItsPlace) {
  using T = TypeParam;
  constexpr int64_t kHeads = 3, kDim = 5, kCapacity = 11;
  for_each_isa([&](const Stream& stream) {
    Guarded<T> first(4 * kHeads * kDim), second(1 * kHeads * kDim),
        cache(2 * kHeads * kCapacity * kDim, 0, from_double<T>(-1));
    fill_random(first, 1);
    fill_random(second, 2);
    std::vector<CacheWriteArgs> writes = {{.source = first.data(),
                                           .cache = cache.data(),
                                           .past = 2,
                                           .count = 4,
                                           .num_kv_heads = kHeads,
                                           .head_dim = kDim,
                                           .head_stride = kCapacity * kDim,
                                           .dtype = DTypeOf<T>::value},
                                          {.source = second.data(),
                                           .cache = cache.data() + kHeads * kCapacity * kDim,
                                           .past = 10,
                                           .count = 1,
                                           .num_kv_heads = kHeads,
                                           .head_dim = kDim,
                                           .head_stride = kCapacity * kDim,
                                           .dtype = DTypeOf<T>::value}};
    cpu().attention.cache_write(writes, stream);
    for (int64_t slot = 0; slot < 2; ++slot) {
      for (int64_t head = 0; head < kHeads; ++head) {
        for (int64_t token = 0; token < kCapacity; ++token) {
          for (int64_t d = 0; d < kDim; ++d) {
            double expected = -1;
            if (slot == 0 && token >= 2 && token < 6)
              expected = to_double(first[((token - 2) * kHeads + head) * kDim + d]);
            if (slot == 1 && token == 10) expected = to_double(second[head * kDim + d]);
            EXPECT_EQ(to_double(cache[((slot * kHeads + head) * kCapacity + token) * kDim + d]), expected);
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace weft
