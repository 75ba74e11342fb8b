#include "models/adapter.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "models/training_pass.h"

namespace weft {
namespace {

using testing::expect_near;
using testing::NamedDecoder;
using testing::Outcome;
using testing::PassOptions;
using testing::Rank;
using testing::run_pass;
using testing::values_of;

class AdapterOf : public ::testing::TestWithParam<NamedDecoder> {
 protected:
  std::vector<double> logits(LanguageModel& model) {
    Tensor hidden = model.hidden(context_, testing::two_sequences(), nullptr);
    return values_of(model.logits(context_, hidden));
  }
  Context context_ = make_cpu_context(2);
};

TEST_P(AdapterOf, WithZeroBIsTheBaseToTheBit) {
  auto model = testing::make_random(context_, GetParam().config, {}, DType::f32);
  std::vector<double> base = logits(*model);
  Adapter adapter(*model, {.rank = 2, .dropout = 0.5});
  adapter.initialise(context_, DType::f32, 1);
  adapter.attach();
  EXPECT_EQ(logits(*model), base);
}

TEST_P(AdapterOf, MergedEqualsAttachedAndUnmergedTheBase) {
  auto model = testing::make_random(context_, GetParam().config, {}, DType::f64);
  std::vector<double> base = logits(*model);
  Adapter adapter(*model, {.rank = 2, .alpha = 3});
  testing::randomise(adapter, context_, DType::f64);
  adapter.attach();
  std::vector<double> attached = logits(*model);
  double difference = 0;
  for (size_t i = 0; i < base.size(); ++i) difference = std::max(difference, std::abs(attached[i] - base[i]));
  EXPECT_GT(difference, 1e-4);
  adapter.merge(context_);
  expect_near(logits(*model), attached, "merged");
  adapter.unmerge(context_);
  expect_near(logits(*model), base, "unmerged");
}

TEST_P(AdapterOf, BesidePackedBf16WeightsIsCloseToF32) {
  auto model = testing::make_random(context_, GetParam().config, {}, DType::f32);
  auto packed = make_decoder(GetParam().config, {});
  initialise_parameters(context_, *packed, {.dtype = DType::bf16}, 17);
  Adapter adapter(*model, {.rank = 2});
  testing::randomise(adapter, context_, DType::f32);
  Adapter packed_adapter(*packed, {.rank = 2});
  testing::randomise(packed_adapter, context_, DType::bf16);
  adapter.attach();
  packed_adapter.attach();
  std::vector<double> expected = logits(*model);
  std::vector<double> actual = logits(*packed);
  double largest = 0;
  for (double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 0.05 * largest);
}

TEST_P(AdapterOf, GradientsEqualDifferenceQuotients) {
  constexpr double kStep = 1e-5;
  LoraOptions lora{.rank = 2, .alpha = 3, .dropout = 0.25};
  run_thread_ranks(1, [&](const std::shared_ptr<Communicator>& communicator) {
    Rank rank(GetParam().config, PassOptions{.lora = &lora, .train_base = false}, communicator);
    rank.run(LossReduction::mean);
    auto loss = [&] {
      Tensor hidden = rank.model->hidden(rank.context, rank.batch, nullptr);
      return values_of(
          language_model_loss(rank.context, *rank.model, hidden, testing::next_tokens(rank.batch), {}).loss)[0];
    };
    for (Parameter& parameter : rank.adapter->parameters().all()) {
      Tensor grad = parameter.value.grad_slot()->tensor;
      for (int64_t i = 0; i < parameter.value.num_elements(); i += 17) {
        double& element = parameter.value.data<double>()[i];
        double original = element;
        element = original + kStep;
        double above = loss();
        element = original - kStep;
        double below = loss();
        element = original;
        EXPECT_NEAR(grad.data<double>()[i], (above - below) / (2 * kStep), 1e-8) << parameter.name << " " << i;
      }
    }
  });
}

TEST_P(AdapterOf, DropsByTheTokensPlaceInTheStep) {
  LoraOptions lora{.rank = 2, .dropout = 0.5};
  Batch whole = testing::two_sequences();
  Batch second;
  second.add({whole.ids.begin() + 5, whole.ids.end()});
  PassOptions options{.lora = &lora, .train_base = false, .reduction = LossReduction::sum};
  Outcome both = run_pass(GetParam().config, options);
  options.batch.add({whole.ids.begin(), whole.ids.begin() + 5});
  Outcome parts = run_pass(GetParam().config, options);
  options.batch = second;
  options.first_token = 5;
  Outcome rest = run_pass(GetParam().config, options);
  EXPECT_NEAR(both.loss, parts.loss + rest.loss, 1e-12);
  for (auto& [name, gradient] : parts.gradients) {
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += rest.gradients[name][i];
    expect_near(gradient, both.gradients[name], name);
  }
}

INSTANTIATE_TEST_SUITE_P(All, AdapterOf, ::testing::ValuesIn(testing::small_decoders()), [](const auto& tested) {
  return tested.param.name;
});

class AdapterTargets : public ::testing::Test {
 protected:
  std::vector<std::string> layers(const LoraOptions& options) {
    Adapter adapter(*model_, options);
    std::vector<std::string> names;
    for (const Parameter& parameter : adapter.parameters().all()) {
      if (parameter.name.ends_with(".lora_A.weight")) names.push_back(parameter.name);
    }
    return names;
  }
  std::string message(const LoraOptions& options) {
    try {
      layers(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_input);
      return error.what();
    }
    return "";
  }
  std::unique_ptr<LanguageModel> model_ = make_decoder(testing::small_decoder(4, 4), {});
};

TEST_F(AdapterTargets, AreNamedAsPeftDoes) {
  EXPECT_EQ(layers({.target_modules = {"q_proj"}, .layers = {1}}),
            std::vector<std::string>{"base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"});
}

TEST_F(AdapterTargets, AreLastPartsOrPatterns) {
  EXPECT_EQ(layers({}).size(), 21u);
  EXPECT_EQ(layers({.target_modules = {"q_proj", "mlp.up_proj"}}).size(), 6u);
  EXPECT_EQ(layers({.target_modules = {"model.layers.*.mlp.*"}}).size(), 9u);
  EXPECT_EQ(layers({.target_modules = {"*.2.*v_proj"}}).size(), 1u);
  EXPECT_EQ(layers({.layers = {0, 2}}).size(), 14u);
}

TEST_F(AdapterTargets, ThatDoNotExistAreRefusedWithThoseThatDo) {
  EXPECT_NE(message({.target_modules = {"q_proj", "query"}}).find("'query' matches no layer"), std::string::npos);
  EXPECT_NE(message({.target_modules = {"proj"}}).find("down_proj, gate_proj"), std::string::npos);
  EXPECT_NE(message({.target_modules = {"*.9.*"}}), "");
  EXPECT_NE(message({.layers = {3}}).find("layers 0 … 2"), std::string::npos);
  EXPECT_NE(message({.layers = {-1}}), "");
}

TEST_F(AdapterTargets, RankDropoutAndAlphaAreChecked) {
  EXPECT_NE(message({.rank = -1}), "");
  EXPECT_NE(message({.rank = 1 << 20}), "");
  EXPECT_NE(message({.dropout = 1}), "");
  EXPECT_NE(message({.dropout = std::nan("")}), "");
  EXPECT_NE(message({.alpha = std::nan("")}), "");
}

TEST_F(AdapterTargets, PatternsTakeNoExponentialTime) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "*o";
  EXPECT_NE(message({.target_modules = {pattern + "x"}}), "");
}

TEST(LoraScale, IsAlphaOverRankOrItsRoot) {
  EXPECT_EQ((LoraOptions{.rank = 4, .alpha = 6}.scale()), 1.5);
  EXPECT_EQ((LoraOptions{.rank = 4, .alpha = 6, .rank_stabilised = true}.scale()), 3.0);
}

}  // namespace
}  // namespace weft
