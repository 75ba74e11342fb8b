// Backward of attention with relative terms: each term alone and all together, against finite differences.

#include <gtest/gtest.h>

#include <string>

#include "ops/elementwise.h"
#include "ops/relative_attention.h"
#include "support/grad_check.h"

namespace weft {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using Inputs = std::vector<Tensor>;

constexpr int64_t kTokens = 10, kHeads = 4, kKvHeads = 2, kHeadDim = 3, kValueDim = 2, kTableRows = 5;
constexpr int64_t kNumScores = kHeads * (5 * 5 + 1 + 4 * 4);

/// Distances share rows, and row 0 is never read.
const std::shared_ptr<const std::vector<int32_t>> kRows =
    std::make_shared<const std::vector<int32_t>>(std::vector<int32_t>{4, 3, 1, 2, 3, 1, 2});

std::vector<AttentionSpan> spans() {
  return {{.begin = 0, .length = 5}, {.begin = 5, .length = 1}, {.begin = 6, .length = 4}};
}

class RelativeAttentionGradient : public ::testing::Test {
 protected:
  Tensor random(const Shape& shape, uint64_t seed, double scale = 1.0) {
    return random_tensor(context_, shape, seed, scale);
  }

  Inputs qkv() {
    return {random({kTokens, kHeads * kHeadDim}, 1),
            random({kTokens, kKvHeads * kHeadDim}, 2),
            random({kTokens, kKvHeads * kValueDim}, 3)};
  }

  /// q, k, v and the tables that `heads` columns are given for: 0 for none, 1 for a table that all heads share.
  struct TableHeads {
    int64_t query = 0, key = 0, value = 0, bias = 0;
  };

  void check(const TableHeads& heads,
             const RelativeAttentionOptions& options,
             std::vector<AttentionSpan> sequences = spans(),
             const std::vector<int32_t>& positions = {}) {
    Inputs inputs = qkv();
    auto add_table = [&](int64_t columns) {
      if (columns == 0) return size_t{0};
      inputs.push_back(random({kTableRows, columns}, 10 + inputs.size()));
      return inputs.size() - 1;
    };
    size_t query = add_table(heads.query * kHeadDim), key = add_table(heads.key * kHeadDim);
    size_t value = add_table(heads.value * kValueDim), bias = add_table(heads.bias);
    check_gradients(context_, inputs, [&](Context& context, const Inputs& in) {
      auto table = [&](size_t index) { return index == 0 ? nullptr : &in[index]; };
      RelativeTerms terms{.rows = kRows,
                          .max_distance = 3,
                          .query_table = table(query),
                          .key_table = table(key),
                          .value_table = table(value),
                          .bias_table = table(bias)};
      return relative_attention(context, {.q = &in[0], .k = &in[1], .v = &in[2]}, sequences, positions, terms, options)
          .out;
    });
  }

  RelativeAttentionOptions options_{
      .num_heads = kHeads, .num_kv_heads = kKvHeads, .head_dim = kHeadDim, .value_dim = kValueDim, .scale = 0.6f};
  Context context_ = make_cpu_context(2);
};

TEST_F(RelativeAttentionGradient, relative_attention) {
  for (bool causal : {false, true}) {
    options_.causal = causal;
    check({}, options_);
    check({.query = kHeads, .key = kHeads, .value = kHeads, .bias = kHeads}, options_);
    check({.query = 1, .key = 1, .value = 1, .bias = kHeads}, options_);
  }
}

TEST_F(RelativeAttentionGradient, OfEachTableAlone) {
  for (int64_t heads : {int64_t{1}, kHeads}) {
    SCOPED_TRACE(heads);
    check({.query = heads}, options_);
    check({.key = heads}, options_);
    check({.value = heads}, options_);
  }
  check({.bias = kHeads}, options_);
}

TEST_F(RelativeAttentionGradient, OfKeysUpToALimitAndPositionsOfTheirOwn) {
  std::vector<AttentionSpan> limited = spans();
  limited[0].visible_keys = {2, 2, 3, 5, 5};
  limited[1].visible_keys = {1};
  std::vector<int32_t> positions = {0, 1, 9, 2, 2, 7, 3, 0, 5, 6};
  check({.query = 1, .key = kHeads, .value = 1, .bias = kHeads}, options_, limited);
  check({.query = kHeads, .key = 1, .value = kHeads, .bias = kHeads}, options_, limited, positions);
}

TEST_F(RelativeAttentionGradient, OfOtherNormalizations) {
  for (ScoreNormalization normalization : {ScoreNormalization::softmax_plus, ScoreNormalization::squared_relu}) {
    options_.normalization = normalization;
    for (bool causal : {false, true}) {
      options_.causal = causal;
      check({}, options_);
      check({.query = 1, .key = 1, .value = 1, .bias = kHeads}, options_);
    }
  }
}

TEST_F(RelativeAttentionGradient, OfDroppedWeights) {
  context_.training = true;
  options_.dropout = {.probability = 0.3f, .site = 4, .head_begin = 2, .global_heads = 9};
  check({}, options_);
  for (ScoreNormalization normalization : {ScoreNormalization::softmax, ScoreNormalization::squared_relu}) {
    options_.normalization = normalization;
    check({.query = 1, .key = 1, .value = kHeads, .bias = kHeads}, options_);
  }
}

/// softmax_plus is softmax with another scale up to 16 keys only.
TEST_F(RelativeAttentionGradient, OfSoftmaxPlusOfManyKeys) {
  options_.normalization = ScoreNormalization::softmax_plus;
  options_.causal = true;
  check_gradients(
      context_,
      {random({20, kHeads * kHeadDim}, 1), random({20, kKvHeads * kHeadDim}, 2), random({20, 4}, 3)},
      [&](Context& context, const Inputs& in) {
        std::vector<AttentionSpan> one = {{.begin = 0, .length = 20}};
        return relative_attention(context, {.q = &in[0], .k = &in[1], .v = &in[2]}, one, {}, {}, options_).out;
      });
}

TEST_F(RelativeAttentionGradient, OfPreviousScores) {
  Inputs inputs = qkv();
  inputs.push_back(random({kNumScores, 1}, 4));
  check_gradients(context_, inputs, [&](Context& context, const Inputs& in) {
    return relative_attention(
               context, {.q = &in[0], .k = &in[1], .v = &in[2], .previous_scores = &in[3]}, spans(), {}, {}, options_)
        .out;
  });
}

/// The second layer's scores give a gradient to the first one's, of masked pairs too.
TEST_F(RelativeAttentionGradient, OfScoresThatTheNextLayerAdds) {
  Inputs inputs = qkv();
  inputs.push_back(random({kTableRows, kHeadDim}, 4));
  inputs.push_back(random({kTableRows, kHeads}, 5));
  check_gradients(context_, inputs, [&](Context& context, const Inputs& in) {
    RelativeTerms terms{.rows = kRows, .max_distance = 3, .query_table = &in[3], .bias_table = &in[4]};
    RelativeAttentionOptions first = options_;
    first.causal = true;
    RelativeAttentionInputs given{.q = &in[0], .k = &in[1], .v = &in[2]};
    RelativeAttentionResult layer = relative_attention(context, given, spans(), {}, terms, first, true);
    given.previous_scores = &layer.scores;
    return add(context, layer.out, relative_attention(context, given, spans(), {}, terms, options_).out);
  });
}

TEST_F(RelativeAttentionGradient, OfScoresAlone) {
  check_gradients(context_, qkv(), [&](Context& context, const Inputs& in) {
    return relative_attention(context, {.q = &in[0], .k = &in[1], .v = &in[2]}, spans(), {}, {}, options_, true).scores;
  });
}

/// Gradients of tables are sums over sequences and heads: their order must not depend on the threads.
TEST(RelativeAttention, GradientsHaveTheSameBitsAtEveryNumberOfThreads) {
  RelativeAttentionOptions options{
      .num_heads = kHeads, .num_kv_heads = kKvHeads, .head_dim = kHeadDim, .value_dim = kValueDim, .scale = 0.6f};
  std::vector<std::vector<double>> gradients;
  for (int threads : {1, 2, 5}) {
    Context context = make_cpu_context(threads);
    Tape tape;
    context.tape = &tape;
    Inputs in = {random_tensor(context, {kTokens, kHeads * kHeadDim}, 1),
                 random_tensor(context, {kTokens, kKvHeads * kHeadDim}, 2),
                 random_tensor(context, {kTokens, kKvHeads * kValueDim}, 3),
                 random_tensor(context, {kTableRows, kHeadDim}, 4),
                 random_tensor(context, {kTableRows, kHeads}, 5)};
    for (Tensor& input : in) input.set_grad_slot(std::make_shared<GradSlot>());
    RelativeTerms terms{
        .rows = kRows, .max_distance = 3, .query_table = &in[3], .key_table = &in[3], .bias_table = &in[4]};
    Tensor out = relative_attention(context, {.q = &in[0], .k = &in[1], .v = &in[2]}, spans(), {}, terms, options).out;
    add_grad(context, out.grad_slot(), random_tensor(context, out.shape(), 6));
    tape.backward(context);
    std::vector<double> all;
    for (Tensor& input : in) {
      Tensor gradient = take_grad(input.grad_slot());
      all.insert(all.end(), gradient.data<double>(), gradient.data<double>() + gradient.num_elements());
    }
    gradients.push_back(std::move(all));
    context.tape = nullptr;
  }
  EXPECT_EQ(gradients[0], gradients[1]);
  EXPECT_EQ(gradients[0], gradients[2]);
}

/// Piece by piece through a cache whose slot is not the first.
TEST(CachedRelativeAttention, EqualsAttentionWithoutACache) {
  Context context = make_cpu_context(2);
  Tensor q = random_tensor(context, {9, kHeads * kHeadDim}, 1), k = random_tensor(context, {9, kKvHeads * kHeadDim}, 2),
         v = random_tensor(context, {9, kKvHeads * kValueDim}, 3), table = random_tensor(context, {5, kHeadDim}, 4),
         values = random_tensor(context, {5, kValueDim}, 5), bias = random_tensor(context, {5, kHeads}, 6);
  RelativeTerms terms{.rows = kRows,
                      .max_distance = 3,
                      .query_table = &table,
                      .key_table = &table,
                      .value_table = &values,
                      .bias_table = &bias};
  RelativeAttentionOptions options{.num_heads = kHeads,
                                   .num_kv_heads = kKvHeads,
                                   .head_dim = kHeadDim,
                                   .value_dim = kValueDim,
                                   .scale = 0.6f,
                                   .causal = true};
  std::vector<AttentionSpan> whole = {{.begin = 0, .length = 9}};
  Tensor expected = relative_attention(context, {.q = &q, .k = &k, .v = &v}, whole, {}, terms, options).out;
  Tensor key_cache = context.zeros({2, kKvHeads, 12, kHeadDim}, DType::f64);
  Tensor value_cache = context.zeros({2, kKvHeads, 12, kValueDim}, DType::f64);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 4}, {4, 7}, {7, 8}, {8, 9}}) {
    std::vector<AttentionSpan> part = {{.begin = 0, .length = end - begin, .past = begin, .slot = 1}};
    Tensor q_part = q.slice(begin, end), k_part = k.slice(begin, end), v_part = v.slice(begin, end);
    Tensor out = cached_relative_attention(
        context, {.q = &q_part, .k = &k_part, .v = &v_part}, key_cache, value_cache, part, terms, options);
    for (int64_t i = 0; i < out.num_elements(); ++i) {
      int64_t at = begin * kHeads * kValueDim + i;
      EXPECT_NEAR(out.data<double>()[i], expected.data<double>()[at], 1e-12) << begin << " " << i;
    }
  }
}

}  // namespace
}  // namespace weft
