// Every optimizer gives the same on every grid of data × tensor ranks, with pieces cut at odd places.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "optimizer/optimizer_run.h"

namespace weft {

// What GoogleTest prints of a parameter.
struct SplitCase {
  const char* name;
  OptimizerOptions optimizer;
  DType dtype = DType::f32;
  double tolerance = 0;  // 0: to the bit; rules with sums over a parameter round differently
};
void PrintTo(const SplitCase& test_case, std::ostream* out) {
  *out << test_case.name;
}

namespace {

using testing::RunOptions;
using testing::RunResult;
using testing::Values;

std::vector<SplitCase> split_cases() {
  OptimizerOptions base{.weight_decay = 0.1, .weight_decay_exclude = {"norm"}};
  auto with = [&](const std::function<void(OptimizerOptions&)>& change) {
    OptimizerOptions options = base;
    change(options);
    return options;
  };
  auto kind = [&](OptimizerKind value) { return with([&](OptimizerOptions& options) { options.kind = value; }); };
  return {{"adamw", base},
          {"adamw_bf16", base, DType::bf16},
          {"adamw_rounded", with([](auto& options) { options.master_weights = MasterWeights::rounded; })},
          {"adamw_stochastic",
           with([](auto& options) {
             options.master_weights = MasterWeights::stochastic;
             options.seed = 0x123456789abcdef;
           }),
           DType::bf16},
          {"adamw_lazy_ema_lookahead", with([](auto& options) {
             options.lazy_rows = true;
             options.ema_momentum = 0.9;
             options.lookahead_steps = 2;
           })},
          {"lion", kind(OptimizerKind::lion)},
          {"sgd", with([](auto& options) {
             options.kind = OptimizerKind::sgd;
             options.momentum = 0.9;
           })},
          {"lamb", kind(OptimizerKind::lamb), DType::f32, 2e-6},
          {"lamb_lazy",
           with([](auto& options) {
             options.kind = OptimizerKind::lamb;
             options.lazy_rows = true;
           }),
           DType::f32,
           2e-6},
          {"adafactor", kind(OptimizerKind::adafactor), DType::f32, 2e-6},
          {"muon",
           with([](auto& options) {
             options.kind = OptimizerKind::muon;
             options.momentum = 0.95;
           }),
           DType::f32,
           2e-6}};
}

/// Rows of the embedding without gradients, some in every update and some in one, and rows with a gradient at their
/// end only, which other ranks may hold than the beginning.
float sparse_gradient(const std::string& name, int64_t element, int64_t update) {
  int64_t width = name == "embed.weight" ? 8 : 10, row = element / width;
  bool is_zero = name == "embed.weight" && (row % 3 == 1 || row == update);
  bool has_end_only = (name == "embed.weight" || name == "layers.0.down.weight") && row % 2 == 0;
  if (has_end_only && element % width != width - 1) is_zero = true;
  return is_zero ? 0 : testing::random_gradient(name, element, update);
}

RunOptions run_options(const SplitCase& test_case) {
  return {.optimizer = test_case.optimizer,
          .parameters = testing::all_shard_kinds(),
          .dtype = test_case.dtype,
          .learning_rate = 0.03,
          .gradient_scale = 0.7,
          .num_updates = 5,
          .start = testing::random_start,
          .gradient = sparse_gradient};
}

void expect_equal(const Values& actual, const Values& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, values] : expected) {
    const std::vector<float>& got = actual.at(name);
    ASSERT_EQ(got.size(), values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_LE(std::abs(got[i] - values[i]), tolerance) << name << " " << i << ": " << got[i] << ", " << values[i];
    }
  }
}

class Split : public ::testing::TestWithParam<SplitCase> {};

TEST_P(Split, OfDataAndTensorsChangesNothing) {
  RunOptions options = run_options(GetParam());
  RunResult whole = testing::run_on_ranks(options, 1, 1);
  for (int num_data_ranks : {1, 2, 4}) {
    for (int num_tensor_ranks : {1, 2}) {
      SCOPED_TRACE(std::to_string(num_data_ranks) + " x " + std::to_string(num_tensor_ranks));
      RunResult split = testing::run_on_ranks(options, num_data_ranks, num_tensor_ranks);
      expect_equal(split.weights, whole.weights, GetParam().tolerance);
      ASSERT_EQ(split.states.size(), whole.states.size());
      for (const auto& [state, values] : whole.states) {
        SCOPED_TRACE(state);
        expect_equal(split.states[state], values, GetParam().tolerance);
      }
      EXPECT_NEAR(split.last_grad_norm, whole.last_grad_norm, 1e-12 * whole.last_grad_norm);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, Split, ::testing::ValuesIn(split_cases()), [](const auto& test) {
  return std::string(test.param.name);
});

TEST(GradNorm, EqualsTheSumOverWholeParameters) {
  RunOptions options = run_options({"adamw", {}});
  double sum = 0;
  for (const testing::TestParameter& parameter : options.parameters) {
    for (int64_t i = 0; i < parameter.shape.num_elements(); ++i) {
      double g = sparse_gradient(parameter.name, i, options.num_updates);
      sum += g * g;
    }
  }
  EXPECT_NEAR(testing::run_on_ranks(options, 2, 2).last_grad_norm, std::sqrt(sum), 1e-12 * std::sqrt(sum));
}

TEST(GradNorm, ShowsNanAndInfinity) {
  RunOptions options = run_options({"adamw", {}});
  for (float bad : {0.0f, std::nanf(""), HUGE_VALF}) {
    options.gradient = [&](const std::string& name, int64_t element, int64_t) {
      return name == "norm.weight" && element == 3 ? bad : 1.0f;
    };
    testing::RankRun run(options, make_cpu_context(1), {}, 0, 1, {});
    EXPECT_EQ(std::isfinite(run.grad_norm(1)), std::isfinite(bad));
  }
}

}  // namespace
}  // namespace weft
