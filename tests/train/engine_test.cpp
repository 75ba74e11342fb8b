// The engine gives the same curve on every mesh, at every ZeRO stage, with and without recomputing.
#include "train/engine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/family.h"
#include "models/model_config.h"
#include "train/training_support.h"

namespace weft {
namespace {

using testing::Curve;
using testing::MeshShape;
using testing::Problem;
using testing::train_on;

Problem small_problem(const std::string& name) {
  Problem problem;
  for (const auto& decoder : testing::small_decoders()) {
    if (decoder.name == name) problem.config = decoder.config;
  }
  // Large enough that gradients which are nothing but rounding do not become steps.
  problem.options.optimizer.epsilon = 1e-3;
  return problem;
}

void expect_close(const Curve& curve, const Curve& reference, double tolerance, const std::string& what) {
  ASSERT_EQ(curve.losses.size(), reference.losses.size()) << what;
  for (size_t i = 0; i < curve.losses.size(); ++i) {
    EXPECT_NEAR(curve.losses[i], reference.losses[i], tolerance * std::abs(reference.losses[i]))
        << what << " step " << i;
    EXPECT_NEAR(curve.norms[i], reference.norms[i], tolerance * reference.norms[i]) << what << " step " << i;
  }
  ASSERT_EQ(curve.weights.size(), reference.weights.size()) << what;
  double worst = 0;
  for (size_t i = 0; i < curve.weights.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::abs(curve.weights[i] - reference.weights[i])));
  }
  EXPECT_LT(worst, 20 * tolerance) << what;
}

void expect_equal(const Curve& curve, const Curve& reference, const std::string& what) {
  EXPECT_EQ(curve.losses, reference.losses) << what;
  EXPECT_EQ(curve.norms, reference.norms) << what;
  EXPECT_EQ(curve.weights, reference.weights) << what;
}

std::string describe(MeshShape mesh, int zero_stage) {
  return std::to_string(mesh.data) + "×" + std::to_string(mesh.tensor) + " stage " + std::to_string(zero_stage);
}

TEST(Engine, learns) {
  Problem problem = small_problem("llama");
  problem.steps = 40;
  problem.distinct_batches = 2;
  problem.learning_rate = 2e-2;
  std::vector<double> losses = train_on(problem, {}).losses;
  EXPECT_LT(losses.back(), 0.2 * losses.front());
}

TEST(Engine, every_mesh_and_zero_stage_gives_the_same_curve) {
  for (const char* name : {"llama", "qwen", "gemma2", "uneven"}) {
    Problem problem = small_problem(name);
    Curve reference = train_on(problem, {});
    for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}, MeshShape{4, 1}}) {
      for (int stage = 0; stage <= 3; ++stage) {
        problem.options.zero_stage = stage;
        problem.options.overlap_gradient_reduction = stage % 2 == 1;
        expect_close(train_on(problem, mesh), reference, 2e-5, name + (" " + describe(mesh, stage)));
      }
    }
  }
}

TEST(Engine, started_collectives_are_waited_for) {
  for (const char* name : {"llama", "gemma2", "uneven"}) {
    for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}}) {
      for (int stage = 0; stage <= (mesh.data > 1 ? 3 : 0); ++stage) {
        for (Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
          Problem problem = small_problem(name);
          problem.num_micro_batches = 2;
          problem.sequence_parallel = mesh.tensor > 1 && stage % 2 == 0;
          problem.options.zero_stage = stage;
          problem.options.recompute = recompute;
          problem.options.overlap_gradient_reduction = false;
          Curve reference = train_on(problem, mesh);
          problem.options.overlap_gradient_reduction = true;
          expect_equal(train_on(problem, mesh), reference, name + (" on a thread, " + describe(mesh, stage)));
          problem.late_calls = true;
          expect_equal(train_on(problem, mesh), reference, name + (" late, " + describe(mesh, stage)));
        }
      }
    }
  }
}

TEST(Engine, accumulation_equals_the_big_batch) {
  Problem problem = small_problem("qwen");
  Curve reference = train_on(problem, {});
  problem.num_micro_batches = 2;
  for (int stage = 0; stage <= 3; ++stage) {
    problem.options.zero_stage = stage;
    for (MeshShape mesh : {MeshShape{1, 1}, MeshShape{2, 1}, MeshShape{2, 2}}) {
      expect_close(train_on(problem, mesh), reference, 2e-5, describe(mesh, stage));
    }
  }
}

TEST(Engine, recomputing_changes_no_bit) {
  for (const char* name : {"llama", "gemma2"}) {
    Problem problem = small_problem(name);
    problem.lora = LoraOptions{.rank = 2, .alpha = 4, .dropout = 0.25, .target_modules = {}, .layers = {}};
    for (MeshShape mesh : {MeshShape{1, 1}, MeshShape{2, 2}}) {
      problem.options.recompute = Recompute::none;
      Curve reference = train_on(problem, mesh);
      for (Recompute recompute : {Recompute::selective, Recompute::block}) {
        for (int64_t every : {1, 2}) {
          problem.options.recompute = recompute;
          problem.options.recompute_every = every;
          expect_equal(train_on(problem, mesh), reference, name);
        }
      }
    }
  }
}

TEST(Engine, adapters_with_dropout_give_the_same_curve_on_every_mesh) {
  for (const char* name : {"llama", "qwen", "uneven"}) {
    Problem problem = small_problem(name);
    problem.lora = LoraOptions{.rank = 2, .alpha = 4, .dropout = 0.25, .target_modules = {}, .layers = {}};
    Curve reference = train_on(problem, {});
    for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}}) {
      for (int stage : {0, 1, 3}) {
        problem.options.zero_stage = stage;
        expect_close(train_on(problem, mesh), reference, 2e-5, name + (" " + describe(mesh, stage)));
      }
    }
  }
}

TEST(Engine, adapters_beside_quantized_weights_give_the_same_curve_on_every_mesh) {
  Problem problem = small_problem("llama");
  problem.lora = LoraOptions{.rank = 2, .alpha = 4, .target_modules = {}, .layers = {}};
  problem.learning_rate = 2e-2;
  problem.steps = 8;
  problem.distinct_batches = 2;
  Curve whole = train_on(problem, {});
  problem.quantization = Quantization::int8;
  Curve reference = train_on(problem, {});
  EXPECT_LT(reference.losses.back(), reference.losses.front());
  EXPECT_LT(reference.peak_weight_bytes, whole.peak_weight_bytes);
  EXPECT_NE(reference.losses, whole.losses);
  expect_close(reference, whole, 0.05, "rounded");
  for (Recompute recompute : {Recompute::selective, Recompute::block}) {
    problem.options.recompute = recompute;
    expect_equal(train_on(problem, {}), reference, "recomputed");
  }
  // The slices of tensor-parallel ranks are no whole groups of weights here.
  for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{4, 1}}) {
    for (int stage = 0; stage <= 2; ++stage) {
      problem.options.zero_stage = stage;
      problem.loads_by_block = stage > 0;
      expect_close(train_on(problem, mesh), reference, 2e-5, describe(mesh, stage));
    }
  }
}

TEST(Engine, sequence_parallelism_changes_nothing) {
  for (const char* name : {"llama", "qwen", "gemma2"}) {
    Problem problem = small_problem(name);
    Curve reference = train_on(problem, {});
    problem.sequence_parallel = true;
    for (MeshShape mesh : {MeshShape{1, 2}, MeshShape{2, 2}, MeshShape{1, 4}}) {
      if (mesh.tensor == 4 && problem.config.info.num_kv_heads == 1) continue;
      problem.options.zero_stage = mesh.data;
      expect_close(train_on(problem, mesh), reference, 2e-5, name + (" " + describe(mesh, mesh.data)));
    }
  }
}

TEST(Engine, adversarial_training_is_the_same_on_every_mesh) {
  for (Adversarial kind : {Adversarial::fgm, Adversarial::gradient_penalty}) {
    Problem problem = small_problem("llama");
    problem.options.adversarial = kind;
    Curve reference = train_on(problem, {});
    for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}}) {
      problem.options.zero_stage = mesh.data + mesh.tensor - 1;
      // The penalty is a finite difference: rounding is magnified.
      double tolerance = kind == Adversarial::fgm ? 5e-5 : 1e-3;
      expect_close(train_on(problem, mesh), reference, tolerance, describe(mesh, problem.options.zero_stage));
    }
  }
}

TEST(Engine, frozen_parameters_are_as_those_of_rate_0_on_every_mesh) {
  for (const char* name : {"llama", "gemma2", "uneven"}) {
    Problem problem = small_problem(name);
    problem.options.clip_norm = 0;
    problem.options.optimizer.learning_rate_factors = {{"embed_tokens", 0}, {"layers\\.0\\.", 0}};
    std::vector<float> weights = train_on(problem, {}).weights;
    problem.options.optimizer.learning_rate_factors.clear();
    problem.options.freeze = {"embed_tokens", "layers\\.0\\."};
    Curve reference = train_on(problem, {});
    ASSERT_EQ(reference.weights.size(), weights.size());
    for (size_t i = 0; i < weights.size(); ++i) ASSERT_NEAR(reference.weights[i], weights[i], 1e-6) << name;
    for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}}) {
      for (int stage = 0; stage <= 3; ++stage) {
        problem.options.zero_stage = stage;
        problem.options.recompute = stage % 2 == 0 ? Recompute::block : Recompute::none;
        problem.num_micro_batches = 2;
        expect_close(train_on(problem, mesh), reference, 2e-5, name + (" " + describe(mesh, stage)));
      }
    }
  }
}

TEST(Engine, frozen_parameters_cost_no_gradients_and_no_state) {
  Problem problem = small_problem("llama");
  problem.options.freeze = {"embed", "self_attn", "mlp", "lm_head"};
  Context context = make_cpu_context(1);
  Mesh mesh(make_single_communicator(), 1);
  auto model = testing::make_random(context, problem.config, {}, DType::f32);
  TrainingEngine engine(context, mesh, *model, nullptr, problem.options);
  auto batches = testing::share_of(testing::random_rows(4, problem.config.info.vocab_size, 1), 1, 0, 1);
  engine.step(batches, problem.learning_rate, {});
  int64_t trained = 0, elements = 0;
  for (const OptimizerPiece& piece : engine.optimizer().pieces()) trained += piece.end - piece.begin;
  for (const Parameter& parameter : model->parameters().all()) elements += parameter.full_shape.num_elements();
  EXPECT_GT(trained, 0);
  EXPECT_LT(trained, elements / 20);
  MemoryTracker& memory = context.allocator->memory();
  EXPECT_LT(memory.peak(MemoryTag::grads), elements * 4 / 10);
  EXPECT_LT(memory.peak(MemoryTag::optimizer), elements * 8 / 10);
}

/// One engine on one rank, and its weights to be moved by hand.
class Penalty {
 public:
  Penalty(std::unique_ptr<LanguageModel> model, const EngineOptions& options)
      : context_(make_cpu_context(1)), mesh_(make_single_communicator(), 1), model_(std::move(model)) {
    initialise_parameters(context_, *model_, {.dtype = DType::f32, .for_training = true}, 17);
    engine_ = std::make_unique<TrainingEngine>(context_, mesh_, *model_, nullptr, options);
    auto rows = testing::random_rows(4, model_->info().vocab_size, 9);
    batches_ = testing::share_of(rows, 1, 0, 1);
    if (!model_->info().has_source) return;
    for (const auto& row : rows) batches_[0].batch.add_source(row);
  }

  StepResult step() { return engine_->step(batches_, 0, {}); }
  /// The gradient of the last step, as one vector.
  std::vector<float> gradient() {
    std::vector<float> all;
    for (const OptimizerPiece& piece : engine_->optimizer().pieces()) {
      all.insert(all.end(), piece.grad.data<float>(), piece.grad.data<float>() + piece.grad.num_elements());
    }
    return all;
  }
  void move(const std::vector<float>& direction, double factor) {
    size_t next = 0;
    for (OptimizerPiece piece : engine_->optimizer().pieces()) {
      for (int64_t i = 0; i < piece.weight.num_elements(); ++i) {
        piece.weight.data<float>()[i] += static_cast<float>(factor) * direction[next++];
      }
    }
  }

 private:
  Context context_;
  Mesh mesh_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<TrainingEngine> engine_;
  std::vector<MicroBatch> batches_;
};

std::unique_ptr<LanguageModel> small_t5(const Family& family) {
  auto config = ModelConfig::from_json_text(
      R"({"vocab_size": 37, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_heads": 4, "num_layers": 2, "dropout_rate": 0,
          "feed_forward_proj": "gated-gelu"})",
      "config.json");
  return family.define({.config = *config, .family = family.name, .alias = family.name}).make({});
}

/// A family, or one of the small decoders.
class GradientPenalty : public ::testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<LanguageModel> make_model() {
    if (GetParam() == "t5") return small_t5(t5_family());
    if (GetParam() == "umt5") return small_t5(umt5_family());
    return make_decoder(small_problem(GetParam()).config, {});
  }
};

TEST_P(GradientPenalty, has_the_gradient_of_its_loss) {
  EngineOptions options;
  options.adversarial = Adversarial::gradient_penalty;
  // So large that it is much of the gradient.
  options.adversarial_epsilon = GetParam() == "t5" ? 2000 : 20;
  options.optimizer.weight_decay = 0;
  Penalty penalty(make_model(), options);
  double norm = penalty.step().grad_norm;
  std::vector<float> direction = penalty.gradient();
  for (float& value : direction) value /= static_cast<float>(norm);
  constexpr double kStep = 1e-3;
  penalty.move(direction, kStep);
  double above = penalty.step().loss;
  penalty.move(direction, -2 * kStep);
  double below = penalty.step().loss;
  EXPECT_NEAR((above - below) / (2 * kStep), norm, 0.02 * norm);
}

INSTANTIATE_TEST_SUITE_P(All,
                         GradientPenalty,
                         ::testing::Values("llama", "qwen", "t5", "umt5"),
                         [](const auto& tested) { return tested.param; });

TEST(Engine, a_step_without_a_finite_loss_changes_nothing) {
  Problem problem = small_problem("llama");
  problem.steps = 2;
  Curve reference = train_on(problem, {});
  Context context = make_cpu_context(1);
  Mesh mesh(make_single_communicator(), 1);
  auto model = testing::make_random(context, problem.config, {}, DType::f32);
  TrainingEngine engine(context, mesh, *model, nullptr, problem.options);
  for (int64_t step = 0; step < 2; ++step) {
    auto rows = testing::random_rows(4, problem.config.info.vocab_size, static_cast<uint64_t>(100 + step));
    auto batches = testing::share_of(rows, 1, 0, 1);
    if (step == 1) {
      auto poisoned = batches;
      poisoned[0].weights[0] = std::nanf("");
      StepResult skipped = engine.step(poisoned, problem.learning_rate, {});
      EXPECT_TRUE(skipped.skipped);
      EXPECT_EQ(engine.updates(), 1);
    }
    StepResult result = engine.step(batches, problem.learning_rate, {});
    EXPECT_FALSE(result.skipped);
    EXPECT_EQ(result.loss, reference.losses[static_cast<size_t>(step)]);
  }
}

TEST(Engine, loading_by_block_needs_one_block_beside_the_ranks_part) {
  Problem problem = small_problem("qwen");
  for (int stage : {0, 1, 3}) {
    problem.options.zero_stage = stage;
    problem.loads_by_block = false;
    Curve reference = train_on(problem, {4, 1});
    problem.loads_by_block = true;
    Curve curve = train_on(problem, {4, 1});
    expect_equal(curve, reference, describe({4, 1}, stage));
    double part = stage == 3 ? 0.65 : 1.01;
    EXPECT_LT(curve.peak_weight_bytes, part * static_cast<double>(reference.peak_weight_bytes));
  }
}

TEST(Engine, only_the_adapter_costs_gradients_and_state) {
  Problem problem = small_problem("llama");
  Context context = make_cpu_context(1);
  Mesh mesh(make_single_communicator(), 1);
  auto model = testing::make_random(context, problem.config, {}, DType::f32);
  Adapter adapter(*model, {.rank = 2, .alpha = 4, .dropout = 0, .target_modules = {"q_proj"}, .layers = {}});
  adapter.initialise(context, DType::f32, 3);
  adapter.attach();
  TrainingEngine engine(context, mesh, *model, &adapter, problem.options);
  auto rows = testing::random_rows(4, problem.config.info.vocab_size, 1);
  auto batches = testing::share_of(rows, 1, 0, 1);
  engine.step(batches, problem.learning_rate, {});
  int64_t adapter_elements = 0;
  for (const Parameter& parameter : adapter.parameters().all()) adapter_elements += parameter.full_shape.num_elements();
  MemoryTracker& memory = context.allocator->memory();
  // Buffers are rounded up a little for each block.
  EXPECT_LT(memory.peak(MemoryTag::grads), adapter_elements * 4 * 2);
  EXPECT_LT(memory.peak(MemoryTag::optimizer), adapter_elements * 8 * 2);
}

}  // namespace
}  // namespace weft
