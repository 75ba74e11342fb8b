// What relative_attention hands to its kernel, against a loop in double over whole tensors: gradients agree with
// differences of a wrong forward as well.

#include "ops/relative_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "autograd/tape.h"
#include "support/grad_check.h"

namespace weft {
namespace {

using testing::random_tensor;

constexpr int64_t kTokens = 9, kHeads = 4, kKvHeads = 2, kHeadDim = 3, kValueDim = 2, kTableRows = 5;
constexpr float kScale = 0.5f;

double at(const Tensor& tensor, int64_t row, int64_t column) {
  return tensor.data<double>()[row * tensor.size(1) + column];
}

/// Inputs and tables of all kinds; each table once with columns for each head, once shared by all.
struct Problem {
  explicit Problem(Context& context, int64_t table_heads)
      : q(random_tensor(context, {kTokens, kHeads * kHeadDim}, 1)),
        k(random_tensor(context, {kTokens, kKvHeads * kHeadDim}, 2)),
        v(random_tensor(context, {kTokens, kKvHeads * kValueDim}, 3)),
        query_table(random_tensor(context, {kTableRows, table_heads * kHeadDim}, 4)),
        key_table(random_tensor(context, {kTableRows, table_heads * kHeadDim}, 5)),
        value_table(random_tensor(context, {kTableRows, table_heads * kValueDim}, 6)),
        bias_table(random_tensor(context, {kTableRows, kHeads}, 7)) {}

  RelativeTerms terms() const {
    return {.rows = rows,
            .max_distance = 3,
            .query_table = &query_table,
            .key_table = &key_table,
            .value_table = &value_table,
            .bias_table = &bias_table};
  }
  RelativeAttentionOptions options() const {
    return {.num_heads = kHeads,
            .num_kv_heads = kKvHeads,
            .head_dim = kHeadDim,
            .value_dim = kValueDim,
            .scale = kScale,
            .causal = true};
  }
  int64_t row_of(int64_t distance) const {
    return (*rows)[static_cast<size_t>(std::clamp<int64_t>(distance, -3, 3) + 3)];
  }

  double score(int64_t head, int64_t query, int64_t key, int64_t row) const {
    int64_t shared = query_table.size(1) == kHeadDim ? 0 : head * kHeadDim;
    int64_t kv_head = head / (kHeads / kKvHeads);
    double sum = 0;
    for (int64_t d = 0; d < kHeadDim; ++d) {
      double a = at(q, query, head * kHeadDim + d), b = at(k, key, kv_head * kHeadDim + d);
      sum += a * b + a * at(query_table, row, shared + d) + b * at(key_table, row, shared + d);
    }
    return sum * static_cast<double>(kScale) + at(bias_table, row, head);
  }

  double value(int64_t head, int64_t key, int64_t row, int64_t d) const {
    int64_t shared = value_table.size(1) == kValueDim ? 0 : head * kValueDim;
    return at(v, key, head / (kHeads / kKvHeads) * kValueDim + d) + at(value_table, row, shared + d);
  }

  Tensor q, k, v, query_table, key_table, value_table, bias_table;
  std::shared_ptr<const std::vector<int32_t>> rows =
      std::make_shared<const std::vector<int32_t>>(std::vector<int32_t>{4, 3, 0, 1, 3, 2, 1});
};

/// Query `query` of head `head` sees keys [begin, end).
std::vector<double> expected_row(const Problem& problem,
                                 int64_t head,
                                 int64_t query,
                                 int64_t begin,
                                 int64_t end,
                                 const std::vector<int32_t>& positions) {
  std::vector<double> result(kValueDim);
  double total = 0;
  for (int64_t key = begin; key < end; ++key) {
    int64_t row = problem.row_of(positions[static_cast<size_t>(key)] - positions[static_cast<size_t>(query)]);
    double weight = std::exp(problem.score(head, query, key, row));
    total += weight;
    for (int64_t d = 0; d < kValueDim; ++d) {
      result[static_cast<size_t>(d)] += weight * problem.value(head, key, row, d);
    }
  }
  for (double& element : result) element /= total;
  return result;
}

/// `out` has the rows of one sequence, or of its part behind `past` tokens; token i sees the first limits[i] keys.
void expect_rows(const Problem& problem,
                 const Tensor& out,
                 const AttentionSpan& rows,
                 const std::vector<int32_t>& limits,
                 const std::vector<int32_t>& positions) {
  for (int64_t i = 0; i < rows.length; ++i) {
    for (int64_t head = 0; head < kHeads; ++head) {
      int64_t query = rows.begin + rows.past + i;
      std::vector<double> expected =
          expected_row(problem, head, query, rows.begin, rows.begin + limits[static_cast<size_t>(i)], positions);
      for (int64_t d = 0; d < kValueDim; ++d) {
        EXPECT_NEAR(at(out, rows.begin + i, head * kValueDim + d), expected[static_cast<size_t>(d)], 1e-12)
            << "token " << query << " head " << head;
      }
    }
  }
}

TEST(RelativeAttentionOp, TakesTheTablesOfEachHeadAndThePositionsOfEachSequence) {
  Context context = make_cpu_context(2);
  std::vector<int32_t> positions = {0, 1, 9, 2, 2, 7, 3, 0, 1};
  std::vector<AttentionSpan> spans = {{.begin = 0, .length = 4},
                                      {.begin = 4, .length = 5, .visible_keys = {2, 2, 3, 5, 5}}};
  for (int64_t table_heads : {int64_t{1}, kHeads}) {
    Problem problem(context, table_heads);
    RelativeAttentionInputs inputs{.q = &problem.q, .k = &problem.k, .v = &problem.v};
    Tensor out = relative_attention(context, inputs, spans, positions, problem.terms(), problem.options()).out;
    expect_rows(problem, out, spans[0], {1, 2, 3, 4}, positions);
    expect_rows(problem, out, spans[1], spans[1].visible_keys, positions);
  }
}

/// A prompt whose first three tokens see each other, then the rest behind it.
TEST(RelativeAttentionOp, SeesKeysUpToALimitThroughACache) {
  Context context = make_cpu_context(2);
  Problem problem(context, kHeads);
  std::vector<int32_t> positions = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  Tensor key_cache = context.zeros({2, kKvHeads, 12, kHeadDim}, DType::f64);
  Tensor value_cache = context.zeros({2, kKvHeads, 12, kValueDim}, DType::f64);
  auto run = [&](int64_t begin, int64_t end, const std::vector<int32_t>& visible_keys) {
    Tensor q = problem.q.slice(begin, end), k = problem.k.slice(begin, end), v = problem.v.slice(begin, end);
    AttentionSpan span{.begin = 0, .length = end - begin, .past = begin, .slot = 1, .visible_keys = visible_keys};
    std::vector<AttentionSpan> one = {span};
    Tensor out = cached_relative_attention(
        context, {.q = &q, .k = &k, .v = &v}, key_cache, value_cache, one, problem.terms(), problem.options());
    expect_rows(problem, out, span, visible_keys, positions);
  };
  run(0, 5, {3, 3, 3, 4, 5});
  run(5, 9, {7, 7, 9, 9});
}

/// Adapters leave q, k and v without a gradient where tables or the layer before still want theirs.
TEST(RelativeAttentionOp, RecordsForATableOrPreviousScoresAlone) {
  Context context = make_cpu_context(1);
  Problem problem(context, 1);
  Tape tape;
  context.tape = &tape;
  std::vector<AttentionSpan> one = {{.begin = 0, .length = kTokens}};
  Tensor previous = random_tensor(context, {kHeads * kTokens * kTokens, 1}, 8);
  for (Tensor* wanted :
       {&problem.query_table, &problem.key_table, &problem.value_table, &problem.bias_table, &previous}) {
    wanted->set_grad_slot(std::make_shared<GradSlot>());
    RelativeAttentionInputs inputs{.q = &problem.q, .k = &problem.k, .v = &problem.v, .previous_scores = &previous};
    Tensor out = relative_attention(context, inputs, one, {}, problem.terms(), problem.options()).out;
    ASSERT_TRUE(out.wants_grad());
    add_grad(context, out.grad_slot(), random_tensor(context, out.shape(), 9));
    tape.backward(context);
    EXPECT_TRUE(take_grad(wanted->grad_slot()).defined());
    wanted->set_grad_slot(nullptr);
  }
}

}  // namespace
}  // namespace weft
