#include "launcher/train_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/run.pb.h"
#include "config/run_config.h"

namespace weft {
namespace {

using testing::ElementsAre;
using testing::Pair;

RunConfig parse(const std::string& text) {
  return parse_run_config(text, "x.textproto");
}

TEST(TrainOptions, an_empty_config_has_the_defaults_of_the_schema) {
  RunConfig config = parse("");
  OptimizerOptions optimizer = optimizer_options(config.message());
  EXPECT_EQ(optimizer.kind, OptimizerKind::adamw);
  EXPECT_EQ(optimizer.beta2, 0.999);
  EXPECT_EQ(optimizer.momentum, 0);
  EXPECT_EQ(optimizer.master_weights, MasterWeights::full);
  EXPECT_TRUE(optimizer.bias_correction);
  EngineOptions engine = engine_options(config.message());
  EXPECT_EQ(engine.zero_stage, 1);
  EXPECT_EQ(engine.clip_norm, 1);
  EXPECT_EQ(engine.recompute, Recompute::none);
  EXPECT_EQ(engine.adversarial, Adversarial::none);
  EXPECT_EQ(compute_dtype(config.message()), DType::bf16);
}

TEST(TrainOptions, every_field_of_the_optimizer_arrives) {
  RunConfig config = parse(R"(train { seed: 7 optimizer {
    kind: LAMB beta1: 0.8 beta2: 0.7 epsilon: 1e-5 epsilon_placement: KERAS bias_correction: false weight_decay: 0.3
    weight_decay_exclude: "norm" decay_vectors: false layer_adaptation_exclude: "bias"
    layer_adaptation_includes_decay: false learning_rate_factors { pattern: "head" factor: 10 }
    ema_momentum: 0.99 lookahead_steps: 5 lookahead_alpha: 0.4 lazy_rows: true } })");
  OptimizerOptions options = optimizer_options(config.message());
  EXPECT_EQ(options.kind, OptimizerKind::lamb);
  EXPECT_EQ(options.beta1, 0.8);
  EXPECT_EQ(options.beta2, 0.7);
  EXPECT_EQ(options.epsilon, 1e-5);
  EXPECT_EQ(options.epsilon_placement, EpsilonPlacement::keras);
  EXPECT_FALSE(options.bias_correction);
  EXPECT_EQ(options.weight_decay, 0.3);
  EXPECT_THAT(options.weight_decay_exclude, ElementsAre("norm"));
  EXPECT_FALSE(options.decay_vectors);
  EXPECT_THAT(options.layer_adaptation_exclude, ElementsAre("bias"));
  EXPECT_FALSE(options.layer_adaptation_includes_decay);
  EXPECT_THAT(options.learning_rate_factors, ElementsAre(Pair("head", 10)));
  EXPECT_EQ(options.ema_momentum, 0.99);
  EXPECT_EQ(options.lookahead_steps, 5);
  EXPECT_EQ(options.lookahead_alpha, 0.4);
  EXPECT_TRUE(options.lazy_rows);
  EXPECT_EQ(options.seed, 7U);
}

TEST(TrainOptions, the_master_weights_follow_the_precision) {
  auto masters = [](const char* precision) { return optimizer_options(parse(precision).message()).master_weights; };
  EXPECT_EQ(masters("precision { compute: F32 }"), MasterWeights::none);
  EXPECT_EQ(masters("precision { compute: BF16 master_weights: STOCHASTIC_ROUNDING }"), MasterWeights::stochastic);
  EXPECT_EQ(compute_dtype(parse("precision { compute: F32 }").message()), DType::f32);
}

struct DecayCase {
  std::string optimizer;
  double beta2, momentum;
};

const std::vector<DecayCase> kDecays = {{"kind: ADAMW", 0.999, 0},
                                        {"kind: LAMB", 0.999, 0},
                                        {"kind: LION", 0.99, 0},
                                        {"kind: LION beta2: 0.999", 0.999, 0},
                                        {"kind: ADAFACTOR", 0.999, 0},
                                        {"kind: SGD", 0.999, 0},
                                        {"kind: SGD momentum: 0.9", 0.999, 0.9},
                                        {"kind: MUON", 0.999, 0.95},
                                        {"kind: MUON momentum: 0", 0.999, 0}};

TEST(TrainOptions, defaults_of_decays_follow_the_kind) {
  for (const DecayCase& of : kDecays) {
    RunConfig config = parse("train { optimizer { " + of.optimizer + " } }");
    RunConfig printed = parse(config.to_text());
    for (const RunConfig* read : {&config, &printed}) {
      OptimizerOptions options = optimizer_options(read->message());
      EXPECT_EQ(options.beta2, of.beta2) << of.optimizer;
      EXPECT_EQ(options.momentum, of.momentum) << of.optimizer;
    }
    RunConfig from_json = parse_run_config(config.to_json(), "x.json");
    EXPECT_EQ(from_json.to_text(), config.to_text()) << of.optimizer;
  }
}

TEST(TrainOptions, the_schedule_arrives) {
  RunConfig config = parse(R"(train { learning_rate: 0.5 schedule { kind: PIECEWISE_LINEAR warmup_steps: 3
    minimum_factor: 0.1 power: 2 points { step: 10 factor: 1 } points { step: 20 factor: 0.1 } } })");
  ScheduleOptions options = schedule_options(config.message(), 30);
  EXPECT_EQ(options.kind, ScheduleKind::piecewise_linear);
  EXPECT_EQ(options.learning_rate, 0.5);
  EXPECT_EQ(options.warmup_steps, 3);
  EXPECT_EQ(options.total_steps, 30);
  EXPECT_EQ(options.minimum_factor, 0.1);
  EXPECT_EQ(options.power, 2);
  EXPECT_THAT(options.points, ElementsAre(Pair(10, 1.0), Pair(20, 0.1)));
}

TEST(TrainOptions, epochs_become_steps) {
  auto steps = [](const char* train, int64_t rows) { return total_steps(parse(train).message(), rows); };
  EXPECT_EQ(steps("train { steps: 12 }", 1000), 12);
  EXPECT_EQ(steps("train { epochs: 2 batch_size: 8 }", 100), 25);
  EXPECT_EQ(steps("train { epochs: 1 batch_size: 8 }", 101), 13);
  EXPECT_EQ(steps("train { epochs: 0.001 batch_size: 8 }", 100), 1);
}

TEST(TrainOptions, the_engine_gets_recomputation_and_adversary) {
  EngineOptions options = engine_options(parse(R"(lora { train_norms: true }
    train { freeze: ["a", "b.*"] clip_norm: 0.5 gradient_checkpointing: BLOCK checkpoint_every: 2
            adversarial { kind: GRADIENT_PENALTY epsilon: 0.2 } }
    parallel { zero_stage: 3 overlap_gradient_reduction: false })")
                                             .message());
  EXPECT_EQ(options.clip_norm, 0.5);
  EXPECT_EQ(options.recompute, Recompute::block);
  EXPECT_EQ(options.recompute_every, 2);
  EXPECT_EQ(options.adversarial, Adversarial::gradient_penalty);
  EXPECT_EQ(options.adversarial_epsilon, 0.2);
  EXPECT_EQ(options.zero_stage, 3);
  EXPECT_FALSE(options.overlap_gradient_reduction);
  EXPECT_TRUE(options.train_norms);
  EXPECT_THAT(options.freeze, ElementsAre("a", "b.*"));
}

TEST(TrainOptions, prompts_and_completions_are_rows_of_their_own_unless_the_config_says_otherwise) {
  auto packing = [](const char* text) { return training_data_options(parse(text).message()).packing; };
  EXPECT_EQ(packing("task { kind: LANGUAGE_MODEL }"), Packing::split);
  EXPECT_EQ(packing("task { kind: SEQUENCE_TO_SEQUENCE }"), Packing::none);
  EXPECT_EQ(packing("task { kind: SEQUENCE_TO_SEQUENCE } data { packing: WHOLE }"), Packing::whole);
  RunConfig printed = parse(parse("task { kind: SEQUENCE_TO_SEQUENCE }").to_text().c_str());
  EXPECT_EQ(training_data_options(printed.message()).packing, Packing::none);
}

TEST(TrainOptions, model_adapter_and_data_arrive) {
  RunConfig config =
      parse(R"(model { path: "m" family: "llama" compat: "bert4keras3" config: "c.json" set: ["a=1", "b=x=y"] }
    lora { rank: 4 alpha: 2 dropout: 0.1 rank_stabilised: true target_modules: "q_proj" layers: [1, 3] }
    data { sources { path: "a" weight: 2 } sources { path: "b" } sequence_length: 64 packing: WHOLE shuffle: false }
    evaluation { sources { path: "e" } } train { seed: 5 })");
  ModelOptions model = model_options(config.message());
  EXPECT_EQ(model.path, "m");
  EXPECT_EQ(model.family, "llama");
  EXPECT_EQ(model.compat, "bert4keras3");
  EXPECT_EQ(model.config, "c.json");
  EXPECT_THAT(model.set, ElementsAre("a=1", "b=x=y"));
  LoraOptions lora = lora_options(config.message());
  EXPECT_EQ(lora.rank, 4);
  EXPECT_EQ(lora.alpha, 2);
  EXPECT_EQ(lora.dropout, 0.1);
  EXPECT_TRUE(lora.rank_stabilised);
  EXPECT_THAT(lora.target_modules, ElementsAre("q_proj"));
  EXPECT_THAT(lora.layers, ElementsAre(1, 3));
  TrainingDataOptions data = training_data_options(config.message());
  ASSERT_EQ(data.sources.size(), 2U);
  EXPECT_EQ(data.sources[0].weight, 2);
  EXPECT_EQ(data.sources[1].path, "b");
  EXPECT_EQ(data.sequence_length, 64);
  EXPECT_EQ(data.packing, Packing::whole);
  EXPECT_FALSE(data.shuffle);
  EXPECT_EQ(data.seed, 5U);
  TrainingDataOptions evaluation = evaluation_data_options(config.message());
  ASSERT_EQ(evaluation.sources.size(), 1U);
  EXPECT_EQ(evaluation.sources[0].path, "e");
  EXPECT_FALSE(evaluation.shuffle);
}

}  // namespace
}  // namespace weft
