// Attention with a bias by distance, and of queries to keys of another sequence: forward and backward against plain
// loops in double.
#include <algorithm>
#include <optional>

#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class BiasedAttention : public ::testing::Test {};
TYPED_TEST_SUITE(BiasedAttention, KernelDTypes);

struct Length {
  int64_t queries = 1, keys = 1;
  int64_t past = 0;  // of the bias: query 0 stands at this position
};

struct Case {
  std::vector<Length> lengths;
  int64_t num_heads = 1, num_kv_heads = 1, head_dim = 8;
  AttentionMask mask;
  bool has_bias = true;
  bool in_cache = false;  // keys and values of each head together, room behind them; else packed [Tk, Hk, D]
};

/// Sequences that attend to themselves.
std::vector<Length> self(std::initializer_list<std::pair<int64_t, int64_t>> queries_and_past) {
  std::vector<Length> lengths;
  for (auto [queries, past] : queries_and_past) lengths.push_back({queries, queries + past, past});
  return lengths;
}

std::string describe(const Case& test) {
  std::string text = "heads " + std::to_string(test.num_heads) + "/" + std::to_string(test.num_kv_heads) + " dim " +
                     std::to_string(test.head_dim) + " cap " + std::to_string(test.mask.soft_cap) + " window " +
                     std::to_string(test.mask.window) + (test.mask.causal ? " causal" : " full") + " lengths";
  for (const Length& one : test.lengths) {
    text += " " + std::to_string(one.queries) + "x" + std::to_string(one.keys) + "+" + std::to_string(one.past);
  }
  return text;
}

int64_t total(const Case& test, int64_t Length::*count) {
  int64_t sum = 0;
  for (const Length& one : test.lengths) sum += one.*count;
  return sum;
}

/// Biases reach from the last query's first key to the furthest key ahead.
struct BiasRange {
  explicit BiasRange(const Case& test) {
    for (const Length& one : test.lengths) {
      zero = std::max(zero, one.past + one.queries - 1);
      ahead = std::max(ahead, one.keys - 1 - one.past);
    }
  }
  int64_t count() const { return zero + ahead + 1; }
  int64_t zero = 0, ahead = 0;
};

template <typename T>
struct Problem {
  explicit Problem(const Case& test_case)
      : test(test_case),
        range(test),
        stride(range.count() + kAttentionBiasPadding),
        capacity(test.in_cache ? 5 : 0),
        q(total(test, &Length::queries) * test.num_heads * test.head_dim, 1),
        k((total(test, &Length::keys) + capacity * static_cast<int64_t>(test.lengths.size())) * test.num_kv_heads *
          test.head_dim),
        v(k.size()),
        out(q.size(), 3),
        dout(q.size()),
        dq(q.size(), 1),
        dk(k.size()),
        dv(k.size()),
        log_sum_exp(total(test, &Length::queries) * test.num_heads),
        bias(test.num_heads * stride, 1),
        dbias(bias.size()) {
    uint32_t seed = 0;
    for (Guarded<T>* buffer : {&q, &k, &v, &dout}) fill_random(*buffer, ++seed);
    fill_random(bias, ++seed);
    for (int64_t head = 0; head < test.num_heads; ++head) {
      for (int64_t i = range.count(); i < stride; ++i) bias[head * stride + i] = std::nanf("");
    }
    int64_t query_begin = 0, key_begin = 0;
    for (const Length& one : test.lengths) {
      int64_t room = one.keys + capacity;
      int64_t first = key_begin * test.num_kv_heads * test.head_dim;
      sequences.push_back({.query_begin = query_begin,
                           .query_count = one.queries,
                           .key_count = one.keys,
                           .keys = k.data() + first,
                           .values = v.data() + first,
                           .key_token_stride = test.in_cache ? test.head_dim : test.num_kv_heads * test.head_dim,
                           .key_head_stride = test.in_cache ? room * test.head_dim : test.head_dim,
                           .bias_origin = range.zero - one.past});
      query_begin += one.queries;
      key_begin += room;
      if (test.in_cache) forget_room(first, one.keys, room);
    }
  }

  void forget_room(int64_t first, int64_t keys, int64_t room) {
    for (int64_t head = 0; head < test.num_kv_heads; ++head) {
      for (int64_t i = keys * test.head_dim; i < room * test.head_dim; ++i) {
        k[first + head * room * test.head_dim + i] = from_double<T>(std::nan(""));
        v[first + head * room * test.head_dim + i] = from_double<T>(std::nan(""));
      }
    }
  }

  AttentionBias bias_args() const {
    if (!test.has_bias) return {};
    return {.values = bias.data(), .stride = stride};
  }

  void forward(const Stream& stream) {
    cpu().attention.forward({.q = q.data(),
                             .out = out.data(),
                             .log_sum_exp = log_sum_exp.data(),
                             .sequences = sequences,
                             .num_heads = test.num_heads,
                             .num_kv_heads = test.num_kv_heads,
                             .head_dim = test.head_dim,
                             .mask = test.mask,
                             .bias = bias_args(),
                             .dtype = DTypeOf<T>::value},
                            stream);
  }

  /// dbias holds 1 everywhere before: it is added to.
  void backward(const Stream& stream) {
    for (int64_t i = 0; i < dbias.size(); ++i) dbias[i] = 1;
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
                              .num_heads = test.num_heads,
                              .num_kv_heads = test.num_kv_heads,
                              .head_dim = test.head_dim,
                              .mask = test.mask,
                              .bias = bias_args(),
                              .dbias = test.has_bias ? dbias.data() : nullptr,
                              .dtype = DTypeOf<T>::value},
                             stream);
  }

  Case test;
  BiasRange range;
  int64_t stride, capacity;
  Guarded<T> q, k, v, out, dout, dq, dk, dv;
  Guarded<SumOf<T>> log_sum_exp, bias, dbias;
  std::vector<AttentionSequence> sequences;
};

/// The same in double, one query and key at a time.
template <typename T>
class Reference {
 public:
  explicit Reference(const Problem<T>& problem)
      : out(static_cast<size_t>(problem.q.size())),
        log_sum_exp(static_cast<size_t>(problem.log_sum_exp.size())),
        dq(out.size()),
        dk(static_cast<size_t>(problem.k.size())),
        dv(dk.size()),
        dbias(static_cast<size_t>(problem.bias.size()), 1.0),
        problem_(problem) {
    for (const AttentionSequence& sequence : problem.sequences) {
      for (int64_t query = 0; query < sequence.query_count; ++query) {
        for (int64_t head = 0; head < problem.test.num_heads; ++head) run_row(sequence, query, head);
      }
    }
  }

  std::vector<double> out, log_sum_exp, dq, dk, dv, dbias;

 private:
  struct Score {
    int64_t key = 0;
    double value = 0, slope = 1;  // after the cap, and its derivative
  };

  static double dot(const T* a, const T* b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += to_double(a[i]) * to_double(b[i]);
    return sum;
  }

  void run_row(const AttentionSequence& sequence, int64_t query, int64_t head) {
    const Case& test = problem_.test;
    int64_t row = (sequence.query_begin + query) * test.num_heads + head;
    int64_t position = sequence.key_count - sequence.query_count + query;
    int64_t kv_head = head / (test.num_heads / test.num_kv_heads) * sequence.key_head_stride;
    const T* keys = static_cast<const T*>(sequence.keys) + kv_head;
    const T* values = static_cast<const T*>(sequence.values) + kv_head;
    const T* q = problem_.q.data() + row * test.head_dim;
    const T* dout = problem_.dout.data() + row * test.head_dim;
    int64_t bias_row = head * problem_.stride + sequence.bias_origin - query;
    std::vector<Score> scores;
    double maximum = -INFINITY;
    for (int64_t key = 0; key < sequence.key_count; ++key) {
      if (test.mask.causal && key > position) continue;
      if (test.mask.window > 0 && position - key >= test.mask.window) continue;
      Score score{.key = key, .value = dot(q, keys + key * sequence.key_token_stride, test.head_dim) * test.mask.scale};
      if (test.mask.soft_cap > 0) {
        double squashed = std::tanh(score.value / test.mask.soft_cap);
        score.value = test.mask.soft_cap * squashed;
        score.slope = 1 - squashed * squashed;
      }
      if (test.has_bias) score.value += problem_.bias[bias_row + key];
      maximum = std::max(maximum, score.value);
      scores.push_back(score);
    }
    double sum = 0;
    for (Score& score : scores) sum += score.value = std::exp(score.value - maximum);
    log_sum_exp[static_cast<size_t>(row)] = maximum + std::log(sum);
    double mean = 0;
    for (Score& score : scores) {
      score.value /= sum;
      const T* value = values + score.key * sequence.key_token_stride;
      mean += score.value * dot(dout, value, test.head_dim);
      for (int64_t d = 0; d < test.head_dim; ++d) {
        out[static_cast<size_t>(row * test.head_dim + d)] += score.value * to_double(value[d]);
      }
    }
    for (const Score& score : scores) {
      const T* key = keys + score.key * sequence.key_token_stride;
      const T* value = values + score.key * sequence.key_token_stride;
      double dscore = score.value * (dot(dout, value, test.head_dim) - mean);
      if (test.has_bias) dbias[static_cast<size_t>(bias_row + score.key)] += dscore;
      double dproduct = dscore * score.slope * test.mask.scale;
      for (int64_t d = 0; d < test.head_dim; ++d) {
        dq[static_cast<size_t>(row * test.head_dim + d)] += dproduct * to_double(key[d]);
        dk[static_cast<size_t>(key - problem_.k.data() + d)] += dproduct * to_double(q[d]);
        dv[static_cast<size_t>(value - problem_.v.data() + d)] += score.value * to_double(dout[d]);
      }
    }
  }

  const Problem<T>& problem_;
};

/// As in attention_test.cpp: weights are rounded to bf16, and so is the result that backward reads.
template <typename T>
Tolerance allowed_error() {
  Tolerance allowed = tolerance<T>();
  if constexpr (std::is_same_v<T, bfloat16>) allowed.absolute = 0x1p-7;
  if constexpr (std::is_same_v<T, float>) allowed.absolute = 4e-6;
  return allowed;
}

template <typename T>
void expect_forward(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test);
  Reference<T> reference(problem);
  for_each_isa([&](const Stream& stream) {
    std::memset(static_cast<void*>(problem.out.data()), 0, sizeof(T) * static_cast<size_t>(problem.out.size()));
    problem.forward(stream);
    expect_close(problem.out, reference.out, allowed_error<T>());
    expect_close(problem.log_sum_exp, reference.log_sum_exp, tolerance<SumOf<T>>(), 4);
  });
}

template <typename T>
void expect_backward(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test);
  Reference<T> reference(problem);
  double keys_of_a_query = 8;  // the terms of a sum
  for_each_isa([&](const Stream& stream) {
    problem.forward(stream);
    problem.backward(stream);
    expect_close(problem.dq, reference.dq, allowed_error<T>(), 4);
    expect_close(problem.dk, reference.dk, allowed_error<T>(), keys_of_a_query);
    expect_close(problem.dv, reference.dv, allowed_error<T>(), keys_of_a_query);
    if (!test.has_bias) return;
    Tolerance allowed = allowed_error<T>();
    allowed.relative = std::max(allowed.relative, 1e-5 * (std::is_same_v<T, double> ? 0 : 1));
    expect_close(problem.dbias, reference.dbias, allowed, keys_of_a_query);
  });
}

TYPED_TEST(BiasedAttention, OfEveryHeadDim) {
  for (int64_t head_dim = 1; head_dim <= 66; head_dim += head_dim < 20 ? 1 : 5) {
    AttentionMask mask{.scale = 1 / std::sqrt(static_cast<float>(head_dim)), .causal = head_dim % 2 == 0};
    expect_forward<TypeParam>(
        {.lengths = self({{9, 0}, {1, 20}, {35, 0}}), .num_heads = 3, .head_dim = head_dim, .mask = mask});
    expect_backward<TypeParam>(
        {.lengths = self({{9, 0}, {35, 0}}), .num_heads = 3, .head_dim = head_dim, .mask = mask});
  }
}

TYPED_TEST(BiasedAttention, ThroughACacheInPrefillAndDecode) {
  for (int64_t group : {1, 3, 8}) {
    for (bool causal : {true, false}) {
      expect_forward<TypeParam>({.lengths = self({{33, 0}, {1, 300}, {1, 0}, {7, 250}, {129, 0}, {1, 31}, {64, 64}}),
                                 .num_heads = 2 * group,
                                 .num_kv_heads = 2,
                                 .head_dim = 16,
                                 .mask = {.scale = 0.25f, .causal = causal},
                                 .in_cache = true});
    }
  }
}

TYPED_TEST(BiasedAttention, IsAddedBehindTheSoftCap) {
  for (int64_t window : {0, 50}) {
    Case test{.lengths = self({{150, 0}, {40, 0}, {1, 0}}),
              .num_heads = 4,
              .num_kv_heads = 2,
              .head_dim = 24,
              .mask = {.scale = 0.5f, .soft_cap = 2, .window = window}};
    expect_forward<TypeParam>(test);
    expect_backward<TypeParam>(test);
    test.lengths = self({{1, 140}, {5, 3}});
    test.in_cache = true;
    expect_forward<TypeParam>(test);
  }
}

const std::vector<Length> kCrossLengths = {{7, 3, 0}, {1, 40, 0}, {3, 1, 0}, {130, 65, 0}, {5, 300, 0}, {33, 34, 0}};

TYPED_TEST(BiasedAttention, OfQueriesToASource) {
  for (bool has_bias : {false, true}) {
    for (int64_t num_kv_heads : {4, 2}) {
      Case test{.lengths = kCrossLengths,
                .num_heads = 4,
                .num_kv_heads = num_kv_heads,
                .head_dim = 20,
                .mask = {.scale = 0.3f, .causal = false},
                .has_bias = has_bias};
      expect_forward<TypeParam>(test);
      expect_backward<TypeParam>(test);
      test.in_cache = true;
      for (Length& one : test.lengths) one.past = 3 * one.queries;
      expect_forward<TypeParam>(test);
      test.lengths = {{1, 5, 9}, {1, 200, 3}, {1, 1, 0}, {1, 33, 40}};
      expect_forward<TypeParam>(test);
    }
  }
}

TYPED_TEST(BiasedAttention, BackwardOfSeveralBlocks) {
  Case test{.lengths = self({{150, 0}, {3, 0}, {301, 0}}), .num_heads = 6, .num_kv_heads = 2, .mask = {.scale = 0.2f}};
  expect_backward<TypeParam>(test);
  test.mask.causal = false;
  expect_backward<TypeParam>(test);
}

TYPED_TEST(BiasedAttention, BackwardOfManyShortSequencesThatSeeTheFuture) {
  Case test{
      .lengths = {}, .num_heads = 4, .num_kv_heads = 4, .head_dim = 32, .mask = {.scale = 0.18f, .causal = false}};
  for (int64_t length : {32, 7, 31, 1, 33, 20, 130, 5}) test.lengths.push_back({length, length, 0});
  expect_forward<TypeParam>(test);
  expect_backward<TypeParam>(test);
}

TEST(BiasedAttentionKernel, IsTheSameOnAnyNumberOfThreads) {
  Problem<float> problem({.lengths = {{200, 90, 0}, {90, 200, 0}, {64, 64, 0}},
                          .num_heads = 4,
                          .num_kv_heads = 2,
                          .head_dim = 16,
                          .mask = {.scale = 0.25f, .causal = false}});
  std::optional<std::vector<double>> first;
  for (int threads : {1, 2, 3}) {
    problem.forward({.device = {}, .num_threads = threads});
    problem.backward({.device = {}, .num_threads = threads});
    std::vector<double> all;
    for (const Guarded<float>* buffer : {&problem.out, &problem.dq, &problem.dk, &problem.dv, &problem.dbias}) {
      std::vector<double> some = buffer->values();
      all.insert(all.end(), some.begin(), some.end());
    }
    if (!first) first = all;
    EXPECT_EQ(all, *first) << threads << " threads";
  }
}

TYPED_TEST(BiasedAttention, TablesSpreadOverDistancesAndBack) {
  using T = TypeParam;
  constexpr int64_t kRows = 5, kHeads = 3;
  for (int64_t count : {1, 7, 33, 200}) {
    int64_t stride = count + kAttentionBiasPadding;
    std::vector<int32_t> rows(static_cast<size_t>(count));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>((i * i + 3 * i) % (kRows - 1));
    Guarded<T> table(kRows * kHeads, 1);
    Guarded<SumOf<T>> bias(kHeads * stride, 1), dtable(kRows * kHeads, 0, 2);
    fill_random(table, 1);
    for_each_isa([&](const Stream& stream) {
      cpu().attention.bias_expand({.table = table.data(),
                                   .rows = rows.data(),
                                   .bias = bias.data(),
                                   .count = count,
                                   .num_heads = kHeads,
                                   .stride = stride,
                                   .dtype = DTypeOf<T>::value},
                                  stream);
      for (int64_t i = 0; i < kHeads * stride; ++i) {
        int64_t distance = i % stride;
        double expected =
            distance < count ? to_double(table[rows[static_cast<size_t>(distance)] * kHeads + i / stride]) : 0;
        ASSERT_EQ(to_double(bias[i]), expected) << i;
      }
      fill_random(bias, 2);
      std::vector<double> sums(kRows * kHeads, 2.0);
      for (int64_t i = 0; i < kHeads * stride; ++i) {
        if (i % stride < count)
          sums[static_cast<size_t>(rows[static_cast<size_t>(i % stride)] * kHeads + i / stride)] += bias[i];
      }
      for (int64_t i = 0; i < dtable.size(); ++i) dtable[i] = 2;
      cpu().attention.bias_reduce({.dbias = bias.data(),
                                   .rows = rows.data(),
                                   .dtable = dtable.data(),
                                   .count = count,
                                   .num_heads = kHeads,
                                   .stride = stride,
                                   .dtype = DTypeOf<T>::value},
                                  stream);
      expect_close(dtable, sums, tolerance<SumOf<T>>(), 20);
    });
  }
}

}  // namespace
}  // namespace weft
