// The same updates as PyTorch and Keras 3 make, and the rates of transformers' schedules; the file is made by
// make_optimizer_golden.py.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "optimizer/optimizer_run.h"
#include "optimizer/schedule.h"
#include "support/paths.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::RunOptions;
using testing::RunResult;

const json& golden() {
  static const json file = json::parse(std::ifstream(test_data("optimizer/golden.json")));
  return file;
}

RunResult run_golden(const OptimizerOptions& optimizer, double learning_rate) {
  RunOptions options{.optimizer = optimizer,
                     .parameters = {},
                     .learning_rate = learning_rate,
                     .num_updates = static_cast<int64_t>(golden()["gradients"].size()),
                     .start = {},
                     .gradient = {}};
  for (const auto& [name, shape] : golden()["shapes"].items()) {
    auto dims = shape.get<std::vector<int64_t>>();
    options.parameters.push_back({name, Shape(dims.data(), dims.data() + dims.size()), {}, 0});
  }
  options.start = [](const std::string& name, int64_t element) {
    return golden()["start"][name][static_cast<size_t>(element)].get<float>();
  };
  options.gradient = [](const std::string& name, int64_t element, int64_t update) {
    return golden()["gradients"][static_cast<size_t>(update - 1)][name][static_cast<size_t>(element)].get<float>();
  };
  return testing::run_on_ranks(options, 1, 1);
}

void expect_golden(const testing::Values& actual, const json& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, values] : actual) {
    ASSERT_EQ(values.size(), expected[name].size());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], expected[name][i].get<double>(), 5e-7) << name << " " << i;
    }
  }
}

void expect_weights(const OptimizerOptions& optimizer, double learning_rate, const char* name) {
  expect_golden(run_golden(optimizer, learning_rate).weights, golden()["optimizers"][name]["weights"]);
}

TEST(OptimizerGolden, AdamWIsTorchs) {
  expect_weights({.beta2 = 0.95, .epsilon = 1e-6, .weight_decay = 0.1}, 0.01, "torch_adamw");
}

TEST(OptimizerGolden, SgdIsTorchs) {
  expect_weights({.kind = OptimizerKind::sgd, .momentum = 0.9, .weight_decay = 0}, 0.01, "torch_sgd");
}

TEST(OptimizerGolden, AdamIsKerasWithItsPlacementOfEpsilon) {
  expect_weights(
      {.kind = OptimizerKind::adam, .epsilon = 1e-4, .epsilon_placement = EpsilonPlacement::keras}, 0.01, "keras_adam");
}

TEST(OptimizerGolden, AdamWAndItsAverageAreKeras) {
  RunResult result = run_golden(
      {.epsilon = 1e-4, .epsilon_placement = EpsilonPlacement::keras, .weight_decay = 0.1, .ema_momentum = 0.9}, 0.01);
  expect_golden(result.weights, golden()["optimizers"]["keras_adamw"]["weights"]);
  expect_golden(result.states["ema"], golden()["optimizers"]["keras_adamw"]["averages"]);
}

TEST(OptimizerGolden, LambWithDecayOutsideIsKeras) {
  expect_weights(
      {.kind = OptimizerKind::lamb, .epsilon = 1e-6, .weight_decay = 0.1, .layer_adaptation_includes_decay = false},
      0.01,
      "keras_lamb");
}

TEST(OptimizerGolden, LionIsKeras) {
  expect_weights({.kind = OptimizerKind::lion, .beta2 = 0.99, .weight_decay = 0.1}, 0.01, "keras_lion");
}

TEST(OptimizerGolden, AdafactorIsKeras) {
  expect_weights({.kind = OptimizerKind::adafactor, .weight_decay = 0.01}, 0.5, "keras_adafactor");
}

void expect_schedule(const ScheduleOptions& schedule, const char* name) {
  const json& rates = golden()["schedules"][name];
  for (size_t step = 0; step < rates.size(); ++step) {
    EXPECT_NEAR(learning_rate_at(schedule, static_cast<int64_t>(step)), rates[step].get<double>(), 1e-12) << step;
  }
}

TEST(ScheduleGolden, ShapesAreTransformers) {
  ScheduleOptions schedule{.learning_rate = 0.5, .warmup_steps = 5, .total_steps = 40, .points = {}};
  expect_schedule(schedule, "cosine");
  schedule.kind = ScheduleKind::linear;
  expect_schedule(schedule, "linear");
  schedule.kind = ScheduleKind::constant;
  expect_schedule(schedule, "constant");
  schedule.kind = ScheduleKind::polynomial;
  schedule.power = 2;
  schedule.minimum_factor = 0.1;
  expect_schedule(schedule, "polynomial");
}

}  // namespace
}  // namespace weft
