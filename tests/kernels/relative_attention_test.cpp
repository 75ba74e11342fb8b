#include "kernels/relative_attention.h"

#include <algorithm>

#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class RelativeAttentionOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(RelativeAttentionOfDType, KernelDTypes);

struct Case {
  std::vector<std::pair<int64_t, int64_t>> lengths;  // query_count, past
  int64_t num_heads = 2, num_kv_heads = 2, head_dim = 8, value_dim = 8;
  bool causal = false, has_limits = false, has_positions = false, has_previous = false;
  // Heads that a table has columns for: 0 for none, 1 for a table that all share.
  int64_t query_table_heads = 0, key_table_heads = 0, value_table_heads = 0;
  bool has_bias = false;
  int64_t max_distance = 3, table_rows = 7;
  ScoreNormalization normalization = ScoreNormalization::softmax;
  float dropout = 0;
};

std::string describe(const Case& test) {
  std::string text = "heads " + std::to_string(test.num_heads) + "/" + std::to_string(test.num_kv_heads) + " dims " +
                     std::to_string(test.head_dim) + "/" + std::to_string(test.value_dim) + " tables " +
                     std::to_string(test.query_table_heads) + std::to_string(test.key_table_heads) +
                     std::to_string(test.value_table_heads) + std::to_string(test.has_bias) + " normalization " +
                     std::to_string(static_cast<int>(test.normalization)) + (test.causal ? " causal" : "") +
                     (test.has_limits ? " limits" : "") + (test.has_positions ? " positions" : "") +
                     (test.has_previous ? " previous" : "") + " dropout " + std::to_string(test.dropout) + " lengths";
  for (auto [count, past] : test.lengths) text += " " + std::to_string(count) + "+" + std::to_string(past);
  return text;
}

std::vector<int32_t> random_integers(int64_t count, int64_t low, int64_t high, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int32_t> number(static_cast<int32_t>(low), static_cast<int32_t>(high));
  std::vector<int32_t> result(static_cast<size_t>(count));
  for (int32_t& value : result) value = number(generator);
  return result;
}

/// A sequence's keys and values, head by head with room behind each that is NaN, and what is told of its tokens.
template <typename T>
struct SequenceData {
  SequenceData(const Case& test, int64_t query_count, int64_t key_count, uint32_t seed)
      : keys(test.num_kv_heads * (key_count + 3) * test.head_dim, 1),
        values(test.num_kv_heads * (key_count + 3) * test.value_dim, 1),
        limits(random_integers(query_count, 1, key_count, seed + 2)),
        query_positions(random_integers(query_count, 0, 9, seed + 3)),
        key_positions(random_integers(key_count, 0, 9, seed + 4)) {
    fill(keys, key_count, test.num_kv_heads, test.head_dim, seed);
    fill(values, key_count, test.num_kv_heads, test.value_dim, seed + 1);
    std::sort(limits.begin(), limits.end());
  }

  static void fill(Guarded<T>& cache, int64_t count, int64_t heads, int64_t width, uint32_t seed) {
    fill_random(cache, seed);
    for (int64_t head = 0; head < heads; ++head) {
      T* room = cache.data() + (head * (count + 3) + count) * width;
      std::fill_n(room, 3 * width, from_double<T>(std::nan("")));
    }
  }

  Guarded<T> keys, values;
  std::vector<int32_t> limits, query_positions, key_positions;
};

template <typename T>
struct Problem {
  explicit Problem(const Case& test_case)
      : test(test_case),
        q(total_queries() * test.num_heads * test.head_dim, 1),
        out(total_queries() * test.num_heads * test.value_dim, 3),
        previous(total_scores(), 1),
        scores(total_scores(), 3),
        query_table(test.table_rows * test.query_table_heads * test.head_dim, 1),
        key_table(test.table_rows * test.key_table_heads * test.head_dim, 1),
        value_table(test.table_rows * test.value_table_heads * test.value_dim, 1),
        bias_table(test.has_bias ? test.table_rows * test.num_heads : 0, 1),
        rows(random_integers(2 * test.max_distance + 1, 0, test.table_rows - 1, 5)) {
    uint32_t seed = 10;
    for (Guarded<T>* buffer : {&q, &previous, &query_table, &key_table, &value_table, &bias_table}) {
      fill_random(*buffer, ++seed);
    }
    int64_t query_begin = 0, scores_begin = 0;
    for (auto [count, past] : test.lengths) {
      add_sequence(count, count + past, query_begin, scores_begin, seed += 10);
      query_begin += count;
      scores_begin += test.num_heads * count * (count + past);
    }
  }

  void add_sequence(int64_t queries, int64_t keys, int64_t query_begin, int64_t scores_begin, uint32_t seed) {
    data.push_back(std::make_unique<SequenceData<T>>(test, queries, keys, seed));
    SequenceData<T>& sequence = *data.back();
    sequences.push_back({.query_begin = query_begin,
                         .query_count = queries,
                         .key_count = keys,
                         .keys = sequence.keys.data(),
                         .values = sequence.values.data(),
                         .key_token_stride = test.head_dim,
                         .key_head_stride = (keys + 3) * test.head_dim,
                         .value_token_stride = test.value_dim,
                         .value_head_stride = (keys + 3) * test.value_dim,
                         .visible_keys = test.has_limits ? sequence.limits.data() : nullptr,
                         .query_positions = test.has_positions ? sequence.query_positions.data() : nullptr,
                         .key_positions = test.has_positions ? sequence.key_positions.data() : nullptr,
                         .scores_begin = scores_begin});
  }

  int64_t total_queries() const {
    int64_t total = 0;
    for (auto [count, past] : test.lengths) total += count;
    return total;
  }
  int64_t total_scores() const {
    int64_t total = 0;
    for (auto [count, past] : test.lengths) total += test.num_heads * count * (count + past);
    return total;
  }

  static DistanceTable view(const Guarded<T>& table, int64_t heads, int64_t width) {
    if (heads == 0) return {};
    return {.values = table.data(), .row_stride = heads * width, .head_stride = heads == 1 ? 0 : width};
  }

  RelativeAttentionArgs args() {
    DistanceTable bias{.values = bias_table.data(), .row_stride = test.num_heads, .head_stride = 1};
    return {.q = q.data(),
            .out = out.data(),
            .sequences = sequences,
            .num_heads = test.num_heads,
            .num_kv_heads = test.num_kv_heads,
            .head_dim = test.head_dim,
            .value_dim = test.value_dim,
            .rows = rows.data(),
            .max_distance = test.max_distance,
            .table_rows = test.table_rows,
            .query_table = view(query_table, test.query_table_heads, test.head_dim),
            .key_table = view(key_table, test.key_table_heads, test.head_dim),
            .value_table = view(value_table, test.value_table_heads, test.value_dim),
            .bias_table = test.has_bias ? bias : DistanceTable{},
            .previous_scores = test.has_previous ? previous.data() : nullptr,
            .scores = scores.data(),
            .scale = kScale,
            .causal = test.causal,
            .normalization = test.normalization,
            .dropout = {.probability = test.dropout,
                        .key = {.seed = 11, .step = 2, .site = 5},
                        .row_begin = 9,
                        .head_begin = 2,
                        .global_heads = 7},
            .dtype = DTypeOf<T>::value};
  }

  static constexpr float kScale = 0.4f;
  Case test;
  Guarded<T> q, out, previous, scores, query_table, key_table, value_table, bias_table;
  std::vector<int32_t> rows;
  std::vector<std::unique_ptr<SequenceData<T>>> data;
  std::vector<RelativeSequence> sequences;
};

/// The formulas of kernels/relative_attention.h in double, a query of a head at a time.
template <typename T>
class Reference {
 public:
  explicit Reference(Problem<T>& problem)
      : out(problem.out.size(), 0.0), scores(problem.scores.size(), 0.0), args_(problem.args()) {
    for (const RelativeSequence& sequence : problem.sequences) {
      for (int64_t head = 0; head < args_.num_heads; ++head) {
        for (int64_t query = 0; query < sequence.query_count; ++query) compute(sequence, head, query);
      }
    }
  }

  std::vector<double> out, scores;

 private:
  static double at(const void* base, int64_t index) { return to_double(static_cast<const T*>(base)[index]); }

  int64_t row_of(const RelativeSequence& sequence, int64_t query, int64_t key) const {
    int64_t from = sequence.key_count - sequence.query_count + query, to = key;
    if (sequence.query_positions != nullptr) from = sequence.query_positions[query];
    if (sequence.key_positions != nullptr) to = sequence.key_positions[key];
    int64_t distance = std::min(std::max(to - from, -args_.max_distance), args_.max_distance);
    return args_.rows[distance + args_.max_distance];
  }

  double score(const RelativeSequence& sequence, int64_t head, int64_t query, int64_t key) const {
    int64_t q = ((sequence.query_begin + query) * args_.num_heads + head) * args_.head_dim;
    int64_t kv_head = head * args_.num_kv_heads / args_.num_heads;
    int64_t k = kv_head * sequence.key_head_stride + key * sequence.key_token_stride;
    int64_t row = row_of(sequence, query, key);
    auto entry = [&](const DistanceTable& table, int64_t d) {
      return table.values == nullptr ? 0.0 : at(table.values, row * table.row_stride + head * table.head_stride + d);
    };
    double sum = 0;
    for (int64_t d = 0; d < args_.head_dim; ++d) {
      double query_value = at(args_.q, q + d), key_value = at(sequence.keys, k + d);
      sum +=
          query_value * key_value + query_value * entry(args_.query_table, d) + key_value * entry(args_.key_table, d);
    }
    return sum * static_cast<double>(args_.scale) + entry(args_.bias_table, 0);
  }

  std::vector<double> weights(const double* row, int64_t seen) const {
    std::vector<double> result(row, row + seen);
    auto count = static_cast<double>(seen);
    if (args_.normalization == ScoreNormalization::squared_relu) {
      for (double& value : result) value = value > 0 ? value * value / count : 0;
      return result;
    }
    double sharpness =
        args_.normalization == ScoreNormalization::softmax_plus ? std::log(std::max(count, 16.0)) / std::log(512.0) : 1;
    double sum = 0;
    for (double& value : result) sum += value = std::exp(value * sharpness);
    for (double& value : result) value /= sum;
    return result;
  }

  void compute(const RelativeSequence& sequence, int64_t head, int64_t query) {
    int64_t begin = sequence.scores_begin + (head * sequence.query_count + query) * sequence.key_count;
    for (int64_t key = 0; key < sequence.key_count; ++key) {
      double previous = args_.previous_scores != nullptr ? at(args_.previous_scores, begin + key) : 0;
      scores[static_cast<size_t>(begin + key)] = score(sequence, head, query, key) + previous;
    }
    int64_t seen = args_.causal ? sequence.key_count - sequence.query_count + query + 1 : sequence.key_count;
    if (sequence.visible_keys != nullptr) seen = sequence.visible_keys[query];
    std::vector<double> weight = weights(scores.data() + begin, seen);
    uint64_t first = args_.dropout.first_index(sequence.query_begin + query, head);
    for (size_t key = 0; key < weight.size() && args_.dropout.drops(); ++key) {
      bool counts = args_.dropout.key.uniform(first + key) >= args_.dropout.probability;
      weight[key] *= counts ? 1 / (1 - static_cast<double>(args_.dropout.probability)) : 0;
    }
    int64_t kv_head = head * args_.num_kv_heads / args_.num_heads;
    const DistanceTable& table = args_.value_table;
    for (int64_t key = 0; key < seen; ++key) {
      int64_t from = kv_head * sequence.value_head_stride + key * sequence.value_token_stride;
      int64_t row = row_of(sequence, query, key) * table.row_stride + head * table.head_stride;
      for (int64_t d = 0; d < args_.value_dim; ++d) {
        double value = at(sequence.values, from + d) + (table.values != nullptr ? at(table.values, row + d) : 0);
        out[static_cast<size_t>(((sequence.query_begin + query) * args_.num_heads + head) * args_.value_dim + d)] +=
            weight[static_cast<size_t>(key)] * value;
      }
    }
  }

  RelativeAttentionArgs args_;
};

/// Scores are sums of up to three products of head_dim normal numbers; squared, their error grows with them.
template <typename T>
Tolerance score_tolerance() {
  Tolerance allowed = tolerance<T>();
  if constexpr (std::is_same_v<T, float>) allowed.relative = 1e-5;
  return {allowed.relative, allowed.absolute * 10};
}

template <typename T>
void expect_equals_reference(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test);
  Reference<T> reference(problem);
  for_each_isa([&](const Stream& stream) {
    for (Guarded<T>* result : {&problem.out, &problem.scores}) {
      std::fill_n(result->data(), result->size(), from_double<T>(std::nan("")));
    }
    cpu().relative_attention.forward(problem.args(), stream);
    expect_close(problem.scores, reference.scores, score_tolerance<T>());
    expect_close(problem.out, reference.out, score_tolerance<T>(), 2);
  });
}

TYPED_TEST(RelativeAttentionOfDType, OfEveryHeadAndValueDim) {
  for (int64_t head_dim = 1; head_dim <= 40; ++head_dim) {
    expect_equals_reference<TypeParam>({.lengths = {{9, 0}, {1, 20}, {1, 0}},
                                        .head_dim = head_dim,
                                        .value_dim = 41 - head_dim,
                                        .query_table_heads = 1,
                                        .key_table_heads = 2,
                                        .value_table_heads = 1});
  }
}

TYPED_TEST(RelativeAttentionOfDType, OfEveryLength) {
  for (int64_t length = 1; length <= 40; ++length) {
    expect_equals_reference<TypeParam>({.lengths = {{length, 0}, {0, 0}, {1, length}},
                                        .query_table_heads = 2,
                                        .value_table_heads = 1,
                                        .max_distance = 64,
                                        .table_rows = 129});
  }
}

TYPED_TEST(RelativeAttentionOfDType, WithEachTableAlone) {
  Case plain{.lengths = {{7, 0}, {5, 12}}, .num_heads = 4, .num_kv_heads = 2, .head_dim = 5, .value_dim = 6};
  expect_equals_reference<TypeParam>(plain);
  for (int64_t heads : {1, 4}) {
    for (auto table : {&Case::query_table_heads, &Case::key_table_heads, &Case::value_table_heads}) {
      Case test = plain;
      test.*table = heads;
      expect_equals_reference<TypeParam>(test);
    }
  }
  plain.has_bias = true;
  expect_equals_reference<TypeParam>(plain);
}

TYPED_TEST(RelativeAttentionOfDType, WithEveryMaskPositionsPreviousScoresAndNormalization) {
  for (auto normalization :
       {ScoreNormalization::softmax, ScoreNormalization::softmax_plus, ScoreNormalization::squared_relu}) {
    for (int bits = 0; bits < 16; ++bits) {
      expect_equals_reference<TypeParam>({.lengths = {{33, 0}, {6, 15}, {1, 40}, {1, 0}},
                                          .num_heads = 6,
                                          .num_kv_heads = 2,
                                          .head_dim = 8,
                                          .value_dim = 11,
                                          .causal = (bits & 1) != 0,
                                          .has_limits = (bits & 2) != 0,
                                          .has_positions = (bits & 4) != 0,
                                          .has_previous = (bits & 8) != 0,
                                          .query_table_heads = 1,
                                          .key_table_heads = 6,
                                          .value_table_heads = 6,
                                          .has_bias = true,
                                          .normalization = normalization});
    }
  }
}

TYPED_TEST(RelativeAttentionOfDType, WithDroppedWeights) {
  for (auto normalization :
       {ScoreNormalization::softmax, ScoreNormalization::softmax_plus, ScoreNormalization::squared_relu}) {
    for (float dropout : {0.1f, 0.5f}) {
      expect_equals_reference<TypeParam>({.lengths = {{33, 0}, {6, 15}, {1, 40}, {1, 0}},
                                          .num_heads = 6,
                                          .num_kv_heads = 2,
                                          .value_dim = 11,
                                          .has_limits = true,
                                          .key_table_heads = 6,
                                          .value_table_heads = 6,
                                          .normalization = normalization,
                                          .dropout = dropout});
    }
  }
}

/// One head of keys and a wide value, as in GAU; no tables, rows of distances not given.
TYPED_TEST(RelativeAttentionOfDType, WithoutTables) {
  Problem<TypeParam> problem({.lengths = {{19, 0}, {3, 30}}, .num_heads = 1, .num_kv_heads = 1, .value_dim = 48});
  Reference<TypeParam> reference(problem);
  for_each_isa([&](const Stream& stream) {
    RelativeAttentionArgs args = problem.args();
    args.rows = nullptr;
    args.scores = nullptr;
    cpu().relative_attention.forward(args, stream);
    expect_close(problem.out, reference.out, score_tolerance<TypeParam>());
  });
}

TEST(RelativeAttention, HugeScoresStayFinite) {
  for (auto normalization : {ScoreNormalization::softmax, ScoreNormalization::softmax_plus}) {
    Problem<float> problem({.lengths = {{20, 0}, {1, 30}}, .has_bias = true, .normalization = normalization});
    for_each_isa([&](const Stream& stream) {
      RelativeAttentionArgs args = problem.args();
      args.scale = 1e30f;
      cpu().relative_attention.forward(args, stream);
      for (double value : problem.out.values()) ASSERT_TRUE(std::isfinite(value));
    });
  }
}

}  // namespace
}  // namespace weft
