#include "kernels/relative_attention.h"

#include <algorithm>
#include <string>
#include <utility>

#include "cuda_test.h"

namespace weft {
namespace {

template <typename T>
class RelativeAttentionOnCuda : public ::testing::Test {};
TYPED_TEST_SUITE(RelativeAttentionOnCuda, CudaDTypes);

struct Case {
  std::vector<std::pair<int64_t, int64_t>> lengths;  // query_count, past
  int64_t num_heads = 2, num_kv_heads = 2, head_dim = 8, value_dim = 8;
  bool causal = false, has_limits = false, has_positions = false, has_previous = false, keeps_scores = false;
  // Heads that a table has columns for: 0 for none, 1 for a table that all share.
  int64_t query_table_heads = 0, key_table_heads = 0, value_table_heads = 0;
  bool has_bias = false;
  int64_t max_distance = 3, table_rows = 7;
  ScoreNormalization normalization = ScoreNormalization::softmax;
  bool wants_tables = true, wants_previous = true;  // their gradients
  float dropout = 0;
};

std::string describe(const Case& test) {
  std::string text = "heads " + std::to_string(test.num_heads) + "/" + std::to_string(test.num_kv_heads) + " dims " +
                     std::to_string(test.head_dim) + "/" + std::to_string(test.value_dim) + " tables " +
                     std::to_string(test.query_table_heads) + std::to_string(test.key_table_heads) +
                     std::to_string(test.value_table_heads) + std::to_string(test.has_bias) + " normalization " +
                     std::to_string(static_cast<int>(test.normalization)) + (test.causal ? " causal" : "") +
                     (test.has_limits ? " limits" : "") + (test.has_positions ? " positions" : "") +
                     (test.has_previous ? " previous" : "") + (test.keeps_scores ? " scores" : "") + " dropout " +
                     std::to_string(test.dropout) + " lengths";
  for (auto [count, past] : test.lengths) text += " " + std::to_string(count) + "+" + std::to_string(past);
  return text;
}

std::vector<int32_t> random_integers(int64_t count, int64_t low, int64_t high, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int32_t> number(static_cast<int32_t>(low), static_cast<int32_t>(std::max(low, high)));
  std::vector<int32_t> result(static_cast<size_t>(count));
  for (int32_t& value : result) value = number(generator);
  return result;
}

/// What is told of a sequence's tokens, on the host.
struct TokenData {
  TokenData(int64_t queries, int64_t keys, uint32_t seed)
      : limits(random_integers(queries, std::min<int64_t>(1, keys), keys, seed)),
        query_positions(random_integers(queries, 0, 9, seed + 1)),
        key_positions(random_integers(keys, 0, 9, seed + 2)) {
    std::sort(limits.begin(), limits.end());
  }
  std::vector<int32_t> limits, query_positions, key_positions;
};

/// The inputs of a case. In caches keys and values lie head by head with room behind each that is NaN; packed ones
/// (backward has no others) token by token.
template <typename T>
class Problem {
 public:
  Problem(const Case& test, bool is_packed)
      : test_(test),
        room_(is_packed ? 0 : 3),
        is_packed_(is_packed),
        q(Twin<T>::random(queries() * test.num_heads * test.head_dim, 1)),
        keys(Twin<T>::random(keys_in_all() * test.num_kv_heads * test.head_dim, 2)),
        values(Twin<T>::random(keys_in_all() * test.num_kv_heads * test.value_dim, 3)),
        previous(Twin<T>::random(num_scores(), 4)),
        query_table(Twin<T>::random(test.table_rows * test.query_table_heads * test.head_dim, 5)),
        key_table(Twin<T>::random(test.table_rows * test.key_table_heads * test.head_dim, 6)),
        value_table(Twin<T>::random(test.table_rows * test.value_table_heads * test.value_dim, 7)),
        bias_table(Twin<T>::random(test.has_bias ? test.table_rows * test.num_heads : 0, 8)),
        rows_(random_integers(2 * test.max_distance + 1, 0, test.table_rows - 1, 9)) {
    uint32_t seed = 20;
    for (auto [count, past] : test.lengths) tokens_.emplace_back(count, count + past, seed += 3);
    if (!is_packed) spoil_room();
  }

  /// The sequences on one side; they stay until the next call.
  RelativeAttentionArgs args(const Side& side) {
    sequences_.clear();
    int64_t query_begin = 0, key_begin = 0, scores_begin = 0;
    for (size_t i = 0; i < test_.lengths.size(); ++i) {
      auto [count, past] = test_.lengths[i];
      int64_t key_count = count + past, heads = test_.num_kv_heads;
      sequences_.push_back({.query_begin = query_begin,
                            .query_count = count,
                            .key_count = key_count,
                            .keys = keys.on(side) + key_begin * heads * test_.head_dim,
                            .values = values.on(side) + key_begin * heads * test_.value_dim,
                            .key_token_stride = is_packed_ ? heads * test_.head_dim : test_.head_dim,
                            .key_head_stride = is_packed_ ? test_.head_dim : (key_count + room_) * test_.head_dim,
                            .value_token_stride = is_packed_ ? heads * test_.value_dim : test_.value_dim,
                            .value_head_stride = is_packed_ ? test_.value_dim : (key_count + room_) * test_.value_dim,
                            .visible_keys = test_.has_limits ? tokens_[i].limits.data() : nullptr,
                            .query_positions = test_.has_positions ? tokens_[i].query_positions.data() : nullptr,
                            .key_positions = test_.has_positions ? tokens_[i].key_positions.data() : nullptr,
                            .scores_begin = scores_begin});
      query_begin += count;
      key_begin += key_count + room_;
      scores_begin += test_.num_heads * count * key_count;
    }
    bool has_tables = test_.query_table_heads + test_.key_table_heads + test_.value_table_heads > 0 || test_.has_bias;
    DistanceTable bias{.values = bias_table.on(side), .row_stride = test_.num_heads, .head_stride = 1};
    return {.q = q.on(side),
            .sequences = sequences_,
            .num_heads = test_.num_heads,
            .num_kv_heads = test_.num_kv_heads,
            .head_dim = test_.head_dim,
            .value_dim = test_.value_dim,
            .rows = has_tables ? rows_.data() : nullptr,
            .max_distance = test_.max_distance,
            .table_rows = test_.table_rows,
            .query_table = view(query_table.on(side), test_.query_table_heads, test_.head_dim),
            .key_table = view(key_table.on(side), test_.key_table_heads, test_.head_dim),
            .value_table = view(value_table.on(side), test_.value_table_heads, test_.value_dim),
            .bias_table = test_.has_bias ? bias : DistanceTable{},
            .previous_scores = test_.has_previous ? previous.on(side) : nullptr,
            .scale = 0.3F,
            .causal = test_.causal,
            .normalization = test_.normalization,
            .dropout = dropout_of_a_rank(test_.dropout),
            .dtype = DTypeOf<T>::value};
  }

  int64_t queries() const {
    int64_t total = 0;
    for (auto [count, past] : test_.lengths) total += count;
    return total;
  }
  int64_t num_scores() const {
    int64_t total = 0;
    for (auto [count, past] : test_.lengths) total += test_.num_heads * count * (count + past);
    return total;
  }

 private:
  int64_t keys_in_all() const {
    int64_t total = 0;
    for (auto [count, past] : test_.lengths) total += count + past + room_;
    return total;
  }
  static DistanceTable view(const T* values, int64_t heads, int64_t width) {
    if (heads == 0) return {};
    return {.values = values, .row_stride = heads * width, .head_stride = heads == 1 ? 0 : width};
  }
  void spoil_room() {
    int64_t begin = 0;
    for (auto [count, past] : test_.lengths) {
      for (int64_t head = 0; head < test_.num_kv_heads; ++head) {
        begin += count + past;
        spoil(keys, begin, test_.head_dim);
        spoil(values, begin, test_.value_dim);
        begin += room_;
      }
    }
    keys.send();
    values.send();
  }
  void spoil(Twin<T>& cache, int64_t row, int64_t width) const {
    for (int64_t i = row * width; i < (row + room_) * width; ++i) {
      cache.host()[static_cast<size_t>(i)] = static_cast<T>(std::nanf(""));
    }
  }

  const Case& test_;
  int64_t room_;
  bool is_packed_;

 public:
  Twin<T> q, keys, values, previous, query_table, key_table, value_table, bias_table;

 private:
  std::vector<int32_t> rows_;
  std::vector<TokenData> tokens_;
  std::vector<RelativeSequence> sequences_;
};

template <typename T>
void check_forward(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test, false);
  Twin<T> out(problem.queries() * test.num_heads * test.value_dim);
  Twin<T> scores(test.keeps_scores ? problem.num_scores() : 0);
  on_both([&](const Side& side) {
    RelativeAttentionArgs args = problem.args(side);
    args.out = out.on(side);
    args.scores = test.keeps_scores ? scores.on(side) : nullptr;
    side.kernels().relative_attention.forward(args, side.stream);
  });
  expect_near_in_norm(out, norm_limit<T>(), "out");
  expect_near_in_norm(scores, norm_limit<T>(), "scores");
}

template <typename T>
void check_backward(const Case& test) {
  SCOPED_TRACE(describe(test));
  Problem<T> problem(test, true);
  Twin<T> dout = Twin<T>::random(problem.queries() * test.num_heads * test.value_dim, 11);
  Twin<T> dscores = Twin<T>::random(problem.num_scores(), 12), dprevious(problem.num_scores());
  Twin<T> dq(problem.q.size()), dk(problem.keys.size()), dv(problem.values.size());
  Twin<float> dquery_table = Twin<float>::random(problem.query_table.size(), 13);
  Twin<float> dkey_table = Twin<float>::random(problem.key_table.size(), 14);
  Twin<float> dvalue_table = Twin<float>::random(problem.value_table.size(), 15);
  Twin<float> dbias_table = Twin<float>::random(problem.bias_table.size(), 16);
  auto wanted = [&](Twin<float>& gradient, const Side& side) {
    return test.wants_tables && gradient.size() > 0 ? gradient.on(side) : nullptr;
  };
  bool gives_previous = test.has_previous && test.wants_previous;
  on_both([&](const Side& side) {
    side.kernels().relative_attention.backward({.forward = problem.args(side),
                                                .dout = dout.on(side),
                                                .dscores = test.keeps_scores ? dscores.on(side) : nullptr,
                                                .dq = dq.on(side),
                                                .dk = dk.on(side),
                                                .dv = dv.on(side),
                                                .dquery_table = wanted(dquery_table, side),
                                                .dkey_table = wanted(dkey_table, side),
                                                .dvalue_table = wanted(dvalue_table, side),
                                                .dbias_table = wanted(dbias_table, side),
                                                .dprevious_scores = gives_previous ? dprevious.on(side) : nullptr},
                                               side.stream);
  });
  expect_near_in_norm(dq, norm_limit<T>(), "dq");
  expect_near_in_norm(dk, norm_limit<T>(), "dk");
  expect_near_in_norm(dv, norm_limit<T>(), "dv");
  expect_near_in_norm(dquery_table, 2e-5, "dquery_table");
  expect_near_in_norm(dkey_table, 2e-5, "dkey_table");
  expect_near_in_norm(dvalue_table, 2e-5, "dvalue_table");
  expect_near_in_norm(dbias_table, 2e-5, "dbias_table");
  if (gives_previous) expect_near_in_norm(dprevious, norm_limit<T>(), "dprevious_scores");
}

/// Each term and mask alone, then together; without a cache.
std::vector<Case> packed_cases() {
  std::vector<Case> cases = {
      {.lengths = {{1, 0}, {2, 0}}},
      {.lengths = {{7, 0}, {1, 0}, {0, 0}, {130, 0}}, .head_dim = 5, .value_dim = 9},
      {.lengths = {{70, 0}, {33, 0}}, .num_heads = 6, .num_kv_heads = 2, .head_dim = 24, .value_dim = 70},
      {.lengths = {{90, 0}}, .causal = true},
      {.lengths = {{90, 0}, {5, 0}}, .has_limits = true},
      {.lengths = {{90, 0}}, .has_previous = true, .keeps_scores = true},
      {.lengths = {{90, 0}}, .causal = true, .has_previous = true, .keeps_scores = true, .wants_previous = false},
      {.lengths = {{40, 0}}, .query_table_heads = 1},
      {.lengths = {{40, 0}}, .key_table_heads = 2},
      {.lengths = {{40, 0}}, .value_table_heads = 1},
      {.lengths = {{40, 0}}, .has_bias = true},
      {.lengths = {{100, 0}, {65, 0}},
       .num_heads = 4,
       .head_dim = 64,
       .value_dim = 64,
       .query_table_heads = 1,
       .value_table_heads = 1,
       .max_distance = 64,
       .table_rows = 129},
      {.lengths = {{150, 0}}, .causal = true, .has_bias = true, .max_distance = 128, .table_rows = 32},
      {.lengths = {{80, 0}, {3, 0}}, .query_table_heads = 2, .key_table_heads = 1, .wants_tables = false},
  };
  for (ScoreNormalization normalization :
       {ScoreNormalization::softmax, ScoreNormalization::softmax_plus, ScoreNormalization::squared_relu}) {
    for (bool causal : {false, true}) {
      cases.push_back({.lengths = {{67, 0}, {1, 0}, {20, 0}},
                       .num_heads = 4,
                       .num_kv_heads = 2,
                       .head_dim = 17,
                       .value_dim = 12,
                       .causal = causal,
                       .has_limits = !causal,
                       .has_positions = causal,
                       .has_previous = true,
                       .keeps_scores = true,
                       .query_table_heads = 4,
                       .key_table_heads = 1,
                       .value_table_heads = 4,
                       .has_bias = true,
                       .max_distance = 5,
                       .table_rows = 70,
                       .normalization = normalization});
    }
  }
  return cases;
}

/// More sequences than a pass takes, and more numbers, so that heads go in several passes.
std::vector<Case> cases_of_many_passes() {
  Case sequences;
  sequences.query_table_heads = 1;
  sequences.has_bias = true;
  for (int64_t i = 0; i < 60; ++i) sequences.lengths.emplace_back(i % 7, 0);
  return {sequences,
          {.lengths = {{300, 0}},
           .num_heads = 16,
           .num_kv_heads = 8,
           .head_dim = 8,
           .value_dim = 4,
           .key_table_heads = 16,
           .value_table_heads = 1,
           .max_distance = 400,
           .table_rows = 4096}};
}

TYPED_TEST(RelativeAttentionOnCuda, forward_with_all_terms) {
  WEFT_NEEDS_GPU();
  for (const Case& test : packed_cases()) check_forward<TypeParam>(test);
}

TYPED_TEST(RelativeAttentionOnCuda, forward_over_cached_keys) {
  WEFT_NEEDS_GPU();
  for (int64_t queries : {1, 3, 9}) {
    for (bool has_positions : {false, true}) {
      check_forward<TypeParam>({.lengths = {{queries, 500}, {1, 0}, {queries, 37}},
                                .num_heads = 6,
                                .num_kv_heads = 3,
                                .head_dim = 64,
                                .value_dim = 40,
                                .causal = true,
                                .has_positions = has_positions,
                                .keeps_scores = has_positions,
                                .query_table_heads = 1,
                                .value_table_heads = 6,
                                .has_bias = true,
                                .max_distance = 16,
                                .table_rows = 33});
    }
    check_forward<TypeParam>({.lengths = {{queries, 100}, {queries, 200}}, .has_limits = true});
  }
}

TYPED_TEST(RelativeAttentionOnCuda, backward_with_all_terms) {
  WEFT_NEEDS_GPU();
  for (const Case& test : packed_cases()) check_backward<TypeParam>(test);
}

TYPED_TEST(RelativeAttentionOnCuda, both_in_many_passes) {
  WEFT_NEEDS_GPU();
  for (const Case& test : cases_of_many_passes()) {
    check_forward<TypeParam>(test);
    check_backward<TypeParam>(test);
  }
}

TYPED_TEST(RelativeAttentionOnCuda, both_with_dropped_weights) {
  WEFT_NEEDS_GPU();
  for (float dropout : {0.1F, 0.5F}) {
    for (Case test : packed_cases()) {
      test.dropout = dropout;
      check_forward<TypeParam>(test);
      check_backward<TypeParam>(test);
    }
    for (Case test : cases_of_many_passes()) {
      test.dropout = dropout;
      check_forward<TypeParam>(test);
      check_backward<TypeParam>(test);
    }
    // Few queries, to which many keys belong.
    check_forward<TypeParam>(
        {.lengths = {{3, 600}, {1, 0}}, .num_heads = 4, .num_kv_heads = 2, .causal = true, .dropout = dropout});
  }
}

TYPED_TEST(RelativeAttentionOnCuda, nothing_to_do) {
  WEFT_NEEDS_GPU();
  check_forward<TypeParam>({.lengths = {}});
  check_forward<TypeParam>({.lengths = {{0, 5}}, .has_bias = true});
  check_backward<TypeParam>({.lengths = {{0, 0}}});
}

}  // namespace
}  // namespace weft
