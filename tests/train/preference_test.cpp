// Training on preferred answers: the same on every mesh, the gradient of its loss, and the two references.
#include <gtest/gtest.h>

#include <cmath>

#include "tasks/preference.h"
#include "train/training_support.h"

namespace weft {
namespace {

using testing::MeshShape;

constexpr int64_t kPairs = 4;

DecoderConfig small_config(const std::string& name) {
  for (const auto& decoder : testing::small_decoders()) {
    if (decoder.name == name) return decoder.config;
  }
  return {};
}

/// Pairs [begin, end) of random answers to a prompt of two tokens, as the trainer deals them out.
MicroBatch pairs_of(int64_t begin, int64_t end, int64_t vocab_size) {
  constexpr size_t kPrompt = 2;
  auto rows = testing::random_rows(2 * kPairs, vocab_size, 31);
  MicroBatch batch;
  for (int64_t pair = begin; pair < end; ++pair) {
    for (int64_t answer = 0; answer < 2; ++answer) {
      std::vector<int32_t> ids = rows[static_cast<size_t>(2 * pair + answer)];
      std::copy_n(rows[static_cast<size_t>(2 * pair)].begin(), kPrompt, ids.begin());
      batch.batch.add(ids);
      for (size_t t = 0; t < ids.size(); ++t) {
        batch.targets.push_back(t + 1 < kPrompt || t + 1 == ids.size() ? -1 : ids[t + 1]);
      }
      batch.labels.push_back(static_cast<int32_t>(pair));
    }
  }
  batch.weights.resize(batch.targets.size(), 1);
  batch.label_weight = 1.0f / (2 * kPairs);
  return batch;
}

struct Setting {
  std::string model = "llama";
  PreferenceOptions preference = {};
  EngineOptions engine = {};
  std::optional<LoraOptions> lora = {};
  int64_t steps = 4;
  double learning_rate = 2e-3;
  bool loads_by_block = false;
};

struct Trained {
  std::vector<double> losses, norms, margins;
  double held_out_loss = 0;
};

/// An engine of one rank of a mesh.
class Rank {
 public:
  Rank(const Setting& setting, MeshShape shape, const std::shared_ptr<Communicator>& world)
      : mesh_(world, shape.tensor), context_(make_cpu_context(1)) {
    if (shape.tensor > 1) context_.tensor_parallel = &mesh_.tensor_parallel();
    DecoderConfig config = small_config(setting.model);
    model_ = make_decoder(config, {mesh_.tensor_parallel().rank(), shape.tensor});
    EngineOptions options = setting.engine;
    options.objective = make_preference_objective(setting.preference);
    auto load = [this](std::optional<int64_t> block) {
      initialise_parameters(context_, *model_, {.dtype = DType::f32, .for_training = true, .block = block}, 17);
    };
    if (setting.loads_by_block) options.load_block = load;
    if (!setting.loads_by_block) load(std::nullopt);
    if (setting.lora) {
      adapter_ = std::make_unique<Adapter>(*model_, *setting.lora);
      adapter_->initialise(context_, DType::f32, 3);
      adapter_->attach();
    }
    engine_ = std::make_unique<TrainingEngine>(context_, mesh_, *model_, adapter_.get(), options);
    int64_t share = kPairs / shape.data, begin = share * mesh_.data_parallel().rank();
    for (int64_t pair = begin; pair < begin + share; ++pair) {
      batches_.push_back(pairs_of(pair, pair + 1, config.info.vocab_size));
    }
    if (!options.objective->needs_reference()) return;
    engine_->add_reference(batches_);
    engine_->share_reference();
  }

  TrainingEngine& engine() { return *engine_; }
  StepResult step(double learning_rate) { return engine_->step(batches_, learning_rate, {}); }
  double evaluate() { return engine_->evaluate(batches_); }

 private:
  Mesh mesh_;
  Context context_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<TrainingEngine> engine_;
  std::vector<MicroBatch> batches_;
};

Trained train_on(const Setting& setting, MeshShape shape) {
  Trained trained;
  run_thread_ranks(shape.data * shape.tensor, [&](const std::shared_ptr<Communicator>& world) {
    Rank rank(setting, shape, world);
    Trained mine;
    for (int64_t step = 0; step < setting.steps; ++step) {
      StepResult result = rank.step(setting.learning_rate);
      mine.losses.push_back(result.loss);
      mine.norms.push_back(result.grad_norm);
      for (const Metric& metric : result.metrics) {
        if (metric.name == "margin") mine.margins.push_back(metric.value);
      }
    }
    mine.held_out_loss = rank.evaluate();
    if (world->rank() == 0) trained = std::move(mine);
  });
  return trained;
}

void expect_close(const Trained& actual, const Trained& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(actual.losses.size(), expected.losses.size());
  ASSERT_EQ(actual.margins.size(), expected.losses.size()) << what;
  for (size_t i = 0; i < expected.losses.size(); ++i) {
    EXPECT_NEAR(actual.losses[i], expected.losses[i], tolerance) << what << " step " << i;
    EXPECT_NEAR(actual.norms[i], expected.norms[i], tolerance * expected.norms[i]) << what << " step " << i;
    EXPECT_NEAR(actual.margins[i], expected.margins[i], tolerance) << what << " step " << i;
  }
  EXPECT_NEAR(actual.held_out_loss, expected.held_out_loss, tolerance) << what;
}

Setting small_setting() {
  Setting setting;
  setting.preference = {.beta = 0.5, .sft_weight = 0.3, .num_pairs = kPairs};
  setting.engine.optimizer.epsilon = 1e-3;
  return setting;
}

std::string describe(MeshShape mesh, int stage) {
  return std::to_string(mesh.data) + "×" + std::to_string(mesh.tensor) + " stage " + std::to_string(stage);
}

TEST(Preference, every_mesh_and_zero_stage_gives_the_same_curve) {
  for (const char* name : {"llama", "gemma2", "uneven"}) {
    Setting setting = small_setting();
    setting.model = name;
    Trained reference = train_on(setting, {});
    EXPECT_LT(reference.losses.back(), reference.losses.front());
    EXPECT_NEAR(reference.margins.front(), 0, 1e-6);
    for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}, MeshShape{4, 1}}) {
      for (int stage : {0, 3}) {
        setting.engine.zero_stage = stage;
        setting.loads_by_block = stage == 3;
        expect_close(train_on(setting, mesh), reference, 5e-5, name + (" " + describe(mesh, stage)));
      }
    }
  }
}

/// A new adapter's B is zero: the model without it is the one that training starts from.
TEST(Preference, without_the_adapter_is_the_reference_of_a_new_one) {
  Setting setting = small_setting();
  setting.lora = LoraOptions{.rank = 2, .alpha = 4, .target_modules = {}, .layers = {}};
  setting.learning_rate = 2e-2;
  Trained first = train_on(setting, {});
  EXPECT_GT(first.margins.back(), 0.01);
  setting.preference.reference = PreferenceReference::without_adapter;
  expect_close(train_on(setting, {}), first, 1e-6, "at every step");
  for (MeshShape mesh : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}}) {
    for (int stage : {1, 3}) {
      for (Recompute recompute : {Recompute::none, Recompute::block}) {
        setting.engine.zero_stage = stage;
        setting.engine.recompute = recompute;
        setting.loads_by_block = stage == 3;
        expect_close(train_on(setting, mesh), first, 5e-5, describe(mesh, stage));
      }
    }
  }
}

class PreferenceGradient : public ::testing::TestWithParam<PreferenceLoss> {};

/// After a few steps, so that the margins are not 0: the loss changes along its gradient as the norm says.
TEST_P(PreferenceGradient, is_that_of_the_loss) {
  Setting setting = small_setting();
  setting.preference.loss = GetParam();
  setting.engine.optimizer.weight_decay = 0;
  if (GetParam() == PreferenceLoss::sigmoid) setting.preference.label_smoothing = 0.1;
  Rank rank(setting, {}, make_single_communicator());
  for (int step = 0; step < 2; ++step) rank.step(2e-3);
  double norm = rank.step(0).grad_norm;
  std::vector<std::vector<float>> direction;
  for (const OptimizerPiece& piece : rank.engine().optimizer().pieces()) {
    const float* values = piece.grad.data<float>();
    direction.emplace_back(values, values + piece.grad.num_elements());
  }
  auto loss_at = [&](double factor) {
    size_t next = 0;
    for (OptimizerPiece piece : rank.engine().optimizer().pieces()) {
      const std::vector<float>& along = direction[next++];
      for (size_t i = 0; i < along.size(); ++i)
        piece.weight.data<float>()[i] += static_cast<float>(factor / norm) * along[i];
    }
    return rank.evaluate();
  };
  constexpr double kStep = 2e-3;
  double above = loss_at(kStep), below = loss_at(-2 * kStep);
  EXPECT_NEAR((above - below) / (2 * kStep), norm, 0.01 * norm);
}

INSTANTIATE_TEST_SUITE_P(Losses,
                         PreferenceGradient,
                         ::testing::Values(PreferenceLoss::sigmoid, PreferenceLoss::hinge, PreferenceLoss::ipo),
                         [](const auto& tested) {
                           return tested.param == PreferenceLoss::sigmoid ? "sigmoid"
                                  : tested.param == PreferenceLoss::hinge ? "hinge"
                                                                          : "ipo";
                         });

TEST(PreferenceLossFunction, has_the_slope_of_its_value) {
  for (PreferenceLoss loss : {PreferenceLoss::sigmoid, PreferenceLoss::hinge, PreferenceLoss::ipo}) {
    for (double smoothing : {0.0, 0.25}) {
      PreferenceOptions options{.loss = loss, .beta = 0.3, .label_smoothing = smoothing};
      for (double margin : {-2000.0, -7.0, -0.5, 0.0, 0.5, 2.0, 9.0, 2000.0}) {
        constexpr double kStep = 1e-5;
        double above = preference_loss(margin + kStep, options).value;
        double below = preference_loss(margin - kStep, options).value;
        double slope = preference_loss(margin, options).slope;
        EXPECT_NEAR((above - below) / (2 * kStep), slope, 1e-6 * std::max(1.0, std::abs(slope))) << margin;
      }
    }
  }
  EXPECT_DOUBLE_EQ(preference_loss(0, {}).value, std::log(2.0));
}

}  // namespace
}  // namespace weft
