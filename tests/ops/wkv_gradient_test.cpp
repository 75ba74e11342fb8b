// The recurrence of RWKV-6, its token shift and its norm of heads: backward against finite differences, and states that
// are handed on.

#include <gtest/gtest.h>

#include <cmath>

#include "ops/elementwise.h"
#include "ops/head_norm.h"
#include "ops/token_shift.h"
#include "ops/wkv.h"
#include "support/grad_check.h"

namespace weft {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using Inputs = std::vector<Tensor>;

constexpr int64_t kHeads = 2, kSize = 3, kWidth = kHeads * kSize;

WkvInputs inputs_of(const Inputs& in) {
  return {.r = &in[0], .k = &in[1], .v = &in[2], .w = &in[3], .u = &in[4], .state = in.size() > 5 ? &in[5] : nullptr};
}

class WkvGradient : public ::testing::Test {
 protected:
  Tensor random(const Shape& shape, uint64_t seed, double scale = 1.0) {
    return random_tensor(context_, shape, seed, scale);
  }
  /// r, k, v, w, u and, with slots, the state.
  Inputs inputs(int64_t tokens, int64_t slots) {
    Inputs result = {random({tokens, kWidth}, 1),
                     random({tokens, kWidth}, 2),
                     random({tokens, kWidth}, 3),
                     random({tokens, kWidth}, 4, 3.0),
                     random({kWidth}, 5)};
    if (slots > 0) result.push_back(random({slots, kHeads, kSize, kSize}, 6));
    return result;
  }
  void check(const Inputs& in, const std::vector<WkvSpan>& spans) {
    check_gradients(context_, in, [&](Context& context, const Inputs& given) {
      return wkv(context, inputs_of(given), spans, kSize);
    });
  }
  Context context_ = make_cpu_context(2);
};

TEST_F(WkvGradient, wkv) {
  std::vector<WkvSpan> spans = {{.begin = 0, .length = 21}, {.begin = 21, .length = 1}, {.begin = 22, .length = 4}};
  check(inputs(26, 0), spans);
}

TEST_F(WkvGradient, OfStatesThatSeveralSequencesStartFrom) {
  std::vector<WkvSpan> spans = {{.begin = 0, .length = 18, .slot = 2},
                                {.begin = 18, .length = 1, .slot = 0},
                                {.begin = 19, .length = 5, .slot = 2}};
  check(inputs(24, 3), spans);
}

/// More tokens than lie between the states that are kept.
TEST_F(WkvGradient, OfALongSequence) {
  std::vector<WkvSpan> spans = {{.begin = 0, .length = kWkvBoundaryTokens + 20}};
  check(inputs(kWkvBoundaryTokens + 20, 1), spans);
}

TEST_F(WkvGradient, token_shift) {
  std::vector<WkvSpan> spans = {
      {.begin = 0, .length = 3, .slot = 1}, {.begin = 3, .length = 1, .slot = 0}, {.begin = 4, .length = 2, .slot = 1}};
  check_gradients(context_, {random({6, 5}, 1)}, [&](Context& context, const Inputs& in) {
    return token_shift(context, in[0], spans, nullptr);
  });
  check_gradients(context_, {random({6, 5}, 1), random({2, 5}, 2)}, [&](Context& context, const Inputs& in) {
    return add(context, token_shift(context, in[0], spans, &in[1]), in[0]);
  });
}

TEST_F(WkvGradient, OfTheNormOfHeads) {
  check_gradients(
      context_,
      {random({4, kWidth}, 1), random({kWidth}, 2), random({kWidth}, 3)},
      [](Context& context, const Inputs& in) { return head_norm(context, in[0], in[1], in[2], kSize, 1e-3); });
}

TEST(HeadNorm, NormsEachHeadByItself) {
  Context context = make_cpu_context(1);
  Tensor x = random_tensor(context, {5, kWidth}, 1), weight = random_tensor(context, {kWidth}, 2),
         bias = random_tensor(context, {kWidth}, 3);
  Tensor y = head_norm(context, x, weight, bias, kSize, 1e-3);
  ASSERT_EQ(y.shape(), x.shape());
  for (int64_t first = 0; first < x.num_elements(); first += kSize) {
    const double* in = x.data<double>() + first;
    double mean = 0, variance = 0;
    for (int64_t n = 0; n < kSize; ++n) mean += in[n] / kSize;
    for (int64_t n = 0; n < kSize; ++n) variance += (in[n] - mean) * (in[n] - mean) / kSize;
    for (int64_t n = 0; n < kSize; ++n) {
      int64_t channel = first % kWidth + n;
      double expected =
          (in[n] - mean) / std::sqrt(variance + 1e-3) * weight.data<double>()[channel] + bias.data<double>()[channel];
      EXPECT_NEAR(y.data<double>()[first + n], expected, 1e-12);
    }
  }
}

/// Two sequences piece by piece, in slots that lie in another order.
TEST(CachedWkv, EqualsWholeSequences) {
  Context context = make_cpu_context(2);
  constexpr int64_t kTokens = 40;
  Inputs in = {random_tensor(context, {2 * kTokens, kWidth}, 1),
               random_tensor(context, {2 * kTokens, kWidth}, 2),
               random_tensor(context, {2 * kTokens, kWidth}, 3),
               random_tensor(context, {2 * kTokens, kWidth}, 4),
               random_tensor(context, {kWidth}, 5)};
  std::vector<WkvSpan> whole = {{.begin = 0, .length = kTokens}, {.begin = kTokens, .length = kTokens}};
  Tensor shifted = token_shift(context, in[0], whole, nullptr);
  Tensor expected = wkv(context, inputs_of(in), whole, kSize);
  Tensor state = context.zeros({3, kHeads, kSize, kSize}, DType::f64);
  Tensor last = context.zeros({3, kWidth}, DType::f64);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 20}, {20, 21}, {21, 22}, {22, kTokens}}) {
    std::vector<WkvSpan> parts = {{.begin = begin, .length = end - begin, .slot = 2},
                                  {.begin = kTokens + begin, .length = end - begin, .slot = 0}};
    Tensor y = cached_wkv(context, inputs_of(in), state, parts, kSize);
    Tensor x = cached_token_shift(context, in[0], parts, last);
    for (int64_t sequence : {int64_t{0}, kTokens}) {
      for (int64_t i = (sequence + begin) * kWidth; i < (sequence + end) * kWidth; ++i) {
        EXPECT_NEAR(y.data<double>()[i], expected.data<double>()[i], 1e-12);
        EXPECT_EQ(x.data<double>()[i], shifted.data<double>()[i]);
      }
    }
  }
  for (int64_t i = 0; i < kHeads * kSize * kSize; ++i) EXPECT_EQ(state.data<double>()[kHeads * kSize * kSize + i], 0);
}

}  // namespace
}  // namespace weft
