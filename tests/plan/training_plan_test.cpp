// Plans of training against what steps of the engine then use, by the memory tags of their allocators.
#include "plan/training_plan.h"

#include <gtest/gtest.h>

#include "models/small_decoders.h"
#include "plan/measured_training.h"

namespace weft {
namespace {

constexpr double kPlanTolerance = 0.05;

struct TrainingCase {
  std::string name;
  DecoderConfig (*shape)();
  TrainingSetup setup;
  std::optional<LoraOptions> lora = std::nullopt;
};

/// 9 query and 3 key/value heads, which two ranks share unevenly.
DecoderConfig llama() {
  DecoderConfig config = testing::small_decoder(9, 3);
  config.info.vocab_size = 1501;
  config.info.hidden_size = 144;
  config.info.head_dim = 16;
  config.info.intermediate_size = 304;
  config.info.num_layers = 4;
  config.info.tied_embedding = true;
  config.inverse_frequency = rope_frequencies({}, 16);
  return config;
}

DecoderConfig gemma2() {
  DecoderConfig config = testing::small_decoder(8, 4);
  config.info.vocab_size = 1000;
  config.info.hidden_size = 128;
  config.info.head_dim = 32;
  config.info.intermediate_size = 384;
  config.info.num_layers = 3;
  config.norm_after_branches = true;
  config.qkv_bias = true;
  config.logit_soft_cap = 30;
  config.inverse_frequency = rope_frequencies({}, 32);
  return config;
}

void expect_near(const std::string& what, int64_t planned, int64_t measured, double tolerance) {
  EXPECT_NEAR(static_cast<double>(planned), static_cast<double>(measured), tolerance * static_cast<double>(measured))
      << what;
}

/// For messages.
void PrintTo(const TrainingCase& one, std::ostream* out) {  // NOLINT(readability-identifier-naming): GoogleTest's
  *out << one.name;
}

class TrainingPlanned : public ::testing::TestWithParam<TrainingCase> {};

TEST_P(TrainingPlanned, AgreesWithTheRun) {
  const TrainingCase& one = GetParam();
  OpenedModel opened;
  opened.definition = decoder_definition(ModelFormat::huggingface, one.shape(), {});
  TrainingPlanner planner(opened, one.lora, one.setup.tensor);
  std::vector<testing::Measured> ranks = testing::train_all(
      [&] { return one.setup; }, one.lora, [&](TensorParallelPlace place) { return make_decoder(one.shape(), place); });
  int64_t largest = 0;
  for (const testing::Measured& rank : ranks) largest = std::max(largest, rank.peak_total);
  TrainingMemory plan = planner.plan(one.setup);
  expect_near("peak in all, planned for " + std::string(plan.moment), plan.peak_total, largest, kPlanTolerance);
  for (int tensor_rank = 0; tensor_rank < one.setup.tensor; ++tensor_rank) {
    BytesByTag most{};
    for (const testing::Measured& rank : ranks) {
      if (rank.place.rank != tensor_rank) continue;
      for (size_t tag = 0; tag < kNumMemoryTags; ++tag) most[tag] = std::max(most[tag], rank.peaks[tag]);
    }
    TrainingMemory own = planner.plan_rank(one.setup, tensor_rank);
    auto measured = [&](MemoryTag tag) { return most[static_cast<size_t>(tag)]; };
    EXPECT_EQ(own.peak(MemoryTag::weights), measured(MemoryTag::weights));
    EXPECT_EQ(own.peak(MemoryTag::optimizer), measured(MemoryTag::optimizer));
    EXPECT_EQ(own.peak(MemoryTag::activations), measured(MemoryTag::activations));
    EXPECT_EQ(own.peak(MemoryTag::grads), measured(MemoryTag::grads));
    expect_near("workspace", own.peak(MemoryTag::workspace), measured(MemoryTag::workspace), kPlanTolerance);
  }
}

TrainingSetup setup(DType dtype, Recompute recompute = Recompute::none, int64_t every = 1) {
  TrainingSetup result;
  result.dtype = dtype;
  result.micro_batch_rows = 3;
  result.sequence_length = 60;
  result.engine.recompute = recompute;
  result.engine.recompute_every = every;
  result.engine.overlap_gradient_reduction = false;
  if (dtype == DType::f32) result.engine.optimizer.master_weights = MasterWeights::none;
  return result;
}

TrainingSetup on_mesh(TrainingSetup result, int data, int tensor, int zero_stage, int64_t num_micro_batches = 1) {
  result.data = data;
  result.tensor = tensor;
  result.engine.zero_stage = zero_stage;
  result.num_micro_batches = num_micro_batches;
  return result;
}

std::vector<TrainingCase> one_rank_cases() {
  std::vector<TrainingCase> cases;
  const LoraOptions plain{.rank = 4}, dropout{.rank = 4, .dropout = 0.1, .target_modules = {"q_proj", "down_proj"}};
  for (const auto& shape : {std::pair{"llama", &llama}, {"gemma2", &gemma2}}) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      auto add = [&](const std::string& what, const TrainingSetup& one, std::optional<LoraOptions> lora = {}) {
        std::string name = shape.first + ("_" + std::string(dtype_name(dtype))) + "_" + what;
        cases.push_back({name, shape.second, one, std::move(lora)});
      };
      add("full", setup(dtype));
      add("selective", setup(dtype, Recompute::selective));
      add("block", setup(dtype, Recompute::block));
      add("block_2", setup(dtype, Recompute::block, 2));
      add("lora", setup(dtype), plain);
      add("lora_selective", setup(dtype, Recompute::selective), plain);
      add("lora_block_dropout", setup(dtype, Recompute::block), dropout);
      TrainingSetup quantized = setup(dtype, Recompute::block);
      quantized.quantization = Quantization::int4;
      add("quantized", quantized, plain);
    }
  }
  TrainingSetup norms = setup(DType::bf16);
  norms.engine.train_norms = true;
  cases.push_back({"norms", llama, norms, dropout});
  return cases;
}

std::vector<TrainingCase> mesh_cases() {
  std::vector<TrainingCase> cases;
  for (auto [data, tensor] : {std::pair{2, 1}, {1, 2}, {2, 2}}) {
    for (int stage = 0; stage <= (data > 1 ? 3 : 0); ++stage) {
      std::string name = std::to_string(data) + "x" + std::to_string(tensor) + "_zero" + std::to_string(stage);
      TrainingSetup loaded = on_mesh(setup(DType::bf16), data, tensor, stage);
      loaded.loads_by_block = false;
      cases.push_back({name, llama, loaded});
      cases.push_back({name + "_accumulated", gemma2, on_mesh(setup(DType::f32), data, tensor, stage, 3)});
      cases.push_back({name + "_lora_block",
                       llama,
                       on_mesh(setup(DType::bf16, Recompute::block), data, tensor, stage),
                       LoraOptions{.rank = 4}});
    }
  }
  for (Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
    TrainingSetup one = on_mesh(setup(DType::bf16, recompute), 1, 2, 0);
    one.sequence_parallel = true;
    one.sequence_length = 61;  // an odd number of tokens: one is padding
    cases.push_back({"sequence_parallel_" + std::to_string(static_cast<int>(recompute)), llama, one});
  }
  for (int stage = 0; stage <= 2; ++stage) {
    TrainingSetup quantized = on_mesh(setup(DType::bf16), 2, 2, stage);
    quantized.quantization = Quantization::int8;
    cases.push_back({"quantized_zero" + std::to_string(stage), llama, quantized, LoraOptions{.rank = 4}});
  }
  TrainingSetup sampling = on_mesh(setup(DType::bf16), 2, 1, 3);
  sampling.writes_samples = true;
  cases.push_back({"samples", llama, sampling});
  for (int stage = 0; stage <= 3; ++stage) {
    TrainingSetup overlapped = on_mesh(setup(DType::bf16), 2, 1, stage, 2);
    overlapped.engine.overlap_gradient_reduction = true;
    cases.push_back({"overlapped_zero" + std::to_string(stage), llama, overlapped});
  }
  return cases;
}

std::vector<TrainingCase> optimizer_cases() {
  std::vector<TrainingCase> cases;
  auto add = [&](const std::string& name, OptimizerKind kind, int data, const auto& change) {
    // The penalty, a difference of gradients, wants f32.
    TrainingSetup one = on_mesh(setup(name == "penalty" ? DType::f32 : DType::bf16), data, 1, 1);
    one.engine.optimizer.kind = kind;
    change(one.engine);
    cases.push_back({name + "_" + std::to_string(data), gemma2, one});
  };
  auto nothing = [](EngineOptions&) {};
  for (int data : {1, 2}) {
    add("lamb", OptimizerKind::lamb, data, nothing);
    add("lion", OptimizerKind::lion, data, nothing);
    add("adafactor", OptimizerKind::adafactor, data, nothing);
    add("muon", OptimizerKind::muon, data, nothing);
    add("sgd", OptimizerKind::sgd, data, [](EngineOptions& engine) { engine.optimizer.momentum = 0.9; });
    add("lazy", OptimizerKind::adamw, data, [](EngineOptions& engine) { engine.optimizer.lazy_rows = true; });
    add("stochastic", OptimizerKind::adamw, data, [](EngineOptions& engine) {
      engine.optimizer.master_weights = MasterWeights::stochastic;
    });
    add("averages", OptimizerKind::adamw, data, [](EngineOptions& engine) {
      engine.optimizer.ema_momentum = 0.9;
      engine.optimizer.lookahead_steps = 2;
    });
    add("fgm", OptimizerKind::adamw, data, [](EngineOptions& engine) { engine.adversarial = Adversarial::fgm; });
    add("penalty", OptimizerKind::adamw, data, [](EngineOptions& engine) {
      engine.adversarial = Adversarial::gradient_penalty;
    });
  }
  cases.push_back(cases.back());
  cases.back().name += "_accumulated";
  cases.back().setup.num_micro_batches = 3;
  return cases;
}

std::string case_name(const ::testing::TestParamInfo<TrainingCase>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(OneRank, TrainingPlanned, ::testing::ValuesIn(one_rank_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Mesh, TrainingPlanned, ::testing::ValuesIn(mesh_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Optimizers, TrainingPlanned, ::testing::ValuesIn(optimizer_cases()), case_name);

}  // namespace
}  // namespace weft
