#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

#include "models/initial_state.h"
#include "models/training_pass.h"

namespace weft {
namespace {

constexpr int64_t kVocabulary = 61;

class Rwkv6Model : public ::testing::Test {
 protected:
  Rwkv6Model() {
    std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "rwkv6_shape.json";
    std::ofstream(path) << R"({"model_type": "rwkv6", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2,)"
                        << R"( "head_size": 16, "intermediate_size": 48, "decomposer_size": 4, "time_decay_size": 4})";
    opened_ = open_model({.path = path.string(), .family = {}, .compat = {}});
    model_ = opened_.make({});
    for (Parameter& parameter : model_->parameters().all()) parameter.initial = {};
    initialise_parameters(context_, *model_, {.dtype = DType::f32, .for_training = true}, 7);
    spread_parameters();
  }

  /// Initial weights would leave the products, the mixes and the decays almost without effect.
  void spread_parameters() {
    uint32_t site = 0;
    for (Parameter& parameter : model_->parameters().all()) {
      RandomKey key{.seed = 9, .step = 0, .site = site++};
      bool is_decay = parameter.name.ends_with("decay.up.bias");
      bool is_mix = parameter.full_shape.rank() == 1 && parameter.name.find("mix_") != std::string::npos;
      float* values = parameter.value.data<float>();
      for (int64_t i = 0; i < parameter.value.num_elements(); ++i) {
        float uniform = key.uniform(static_cast<uint64_t>(i));
        if (is_decay) values[i] = -7 + 8 * uniform;  // from thousands of tokens to one
        if (is_mix) values[i] = uniform;
        if (parameter.is_matrix) values[i] = 0.6f * (uniform - 0.5f);
      }
    }
  }

  static std::vector<int32_t> random_ids(int64_t count) {
    std::vector<int32_t> ids;
    RandomKey key{.seed = 3};
    for (int64_t i = 0; i < count; ++i) {
      ids.push_back(static_cast<int32_t>(key.bits(static_cast<uint64_t>(i)) % kVocabulary));
    }
    return ids;
  }

  /// Of the activations of a training pass over one sequence.
  int64_t peak_bytes(int64_t tokens) {
    Context context = make_cpu_context(1);
    context.training = true;
    set_trainable(*model_, true);
    Batch batch;
    batch.add(random_ids(tokens));
    Tape tape;
    context.tape = &tape;
    Tensor hidden = model_->hidden(context, batch, nullptr);
    LanguageModelLoss loss =
        language_model_loss(context, *model_, hidden, testing::next_tokens(batch), {}, LossReduction::mean);
    tape.backward(context, loss.loss);
    return context.allocator->memory().peak_total();
  }

  Context context_ = make_cpu_context(1);
  OpenedModel opened_;
  std::unique_ptr<LanguageModel> model_;
};

TEST_F(Rwkv6Model, ChunksAndSingleTokensGiveTheSameLogits) {
  constexpr int64_t kTokens = 4096;
  std::vector<int32_t> ids = random_ids(kTokens);
  Batch whole;
  whole.add(ids);
  Tensor expected = model_->logits(context_, model_->hidden(context_, whole, nullptr));
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    largest = std::max(largest, std::abs(double{expected.data<float>()[i]}));
  }
  KvCache cache(context_, model_->kv_cache_shape(DType::f32), 1, 1);
  for (int64_t token = 0; token < kTokens; ++token) {
    Batch one;
    one.ids = {ids[static_cast<size_t>(token)]};
    one.sequences = {{.begin = 0, .length = 1, .past = token}};
    Tensor logits = model_->logits(context_, model_->hidden(context_, one, &cache));
    for (int64_t i = 0; i < kVocabulary; ++i) {
      double of_chunks = expected.data<float>()[token * kVocabulary + i];
      difference = std::max(difference, std::abs(double{logits.data<float>()[i]} - of_chunks));
    }
  }
  EXPECT_LE(difference, 1e-5 * largest);
  EXPECT_GT(largest, 0.1);
}

TEST_F(Rwkv6Model, BeginsWithLongAndShortMemoriesAndBlocksThatChangeNothing) {
  std::unique_ptr<LanguageModel> fresh = opened_.make({});
  initialise_parameters(context_, *fresh, {.dtype = DType::f32, .for_training = true}, 7);
  auto values = [&](const std::string& name) {
    const Tensor& value = fresh->parameters().find(name)->value;
    return std::vector<float>(value.data<float>(), value.data<float>() + value.num_elements());
  };
  int64_t width = model_->info().hidden_size;
  std::string last = "blocks." + std::to_string(model_->info().num_layers - 1) + ".";
  for (const std::string& block : {std::string("blocks.0."), last}) {
    std::vector<float> decay = values(block + "att.decay.up.bias");
    EXPECT_FLOAT_EQ(decay.front(), -6);
    EXPECT_FLOAT_EQ(decay.back(), -1);
    EXPECT_TRUE(std::is_sorted(decay.begin(), decay.end()));
    for (const char* zero : {"att.output.weight", "ffn.value.weight", "ffn.receptance.weight"}) {
      std::vector<float> weights = values(block + zero);
      EXPECT_TRUE(std::all_of(weights.begin(), weights.end(), [](float value) { return value == 0; })) << zero;
    }
  }
  EXPECT_LT(values(last + "att.decay.up.bias")[static_cast<size_t>(width / 2)],
            values("blocks.0.att.decay.up.bias")[static_cast<size_t>(width / 2)]);
  std::vector<float> mix = values("blocks.0.att.mix_k.up.bias");
  EXPECT_FLOAT_EQ(mix.front(), 1);
  EXPECT_NEAR(mix.back(), 1.0 / static_cast<double>(width), 1e-6);
  double squares = 0;
  std::vector<float> key = values("blocks.0.att.key.weight");
  for (float value : key) squares += double{value} * double{value};
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(key.size())), 0.1 / std::sqrt(static_cast<double>(width)), 1e-3);
}

/// The model with learned states and inputs before the first, on a rank of some.
std::unique_ptr<LanguageModel> make_tuned(const Context& context, TensorParallelPlace place, float deviation) {
  OpenedModel opened = open_model({.path = (std::filesystem::path(::testing::TempDir()) / "rwkv6_shape.json").string(),
                                   .family = {},
                                   .compat = {},
                                   .overrides = initial_state_overrides(InitialState::learned_with_shifts)});
  std::unique_ptr<LanguageModel> model = opened.make(place);
  for (Parameter& parameter : model->parameters().all()) {
    parameter.initial = parameter.is_task_head ? InitialValue{.deviation = deviation} : InitialValue{.deviation = 0.2f};
  }
  initialise_parameters(context, *model, {.dtype = DType::f64, .for_training = true}, 7);
  return model;
}

Batch two_beginnings() {
  Batch batch;
  batch.add({3, 36, 7, 7, 1});
  batch.add({8, 18, 19});
  return batch;
}

struct TunedPass {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;
};

TunedPass run_tuned(int ranks, bool sequence_parallel) {
  TunedPass pass;
  std::mutex mutex;
  run_thread_ranks(ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = communicator.get();
    context.sequence_parallel = sequence_parallel;
    auto model = make_tuned(context, {communicator->rank(), ranks}, 0.5f);
    set_trainable(*model, false);
    std::vector<Parameter*> learned;
    for (Parameter& parameter : model->parameters().all()) {
      if (!parameter.is_task_head) continue;
      parameter.value.set_grad_slot(std::make_shared<GradSlot>());
      parameter.value.grad_slot()->tag = MemoryTag::grads;
      learned.push_back(&parameter);
    }
    Batch batch = two_beginnings();
    Tape tape;
    context.tape = &tape;
    Tensor hidden = model->hidden(context, batch, nullptr);
    Tensor loss =
        language_model_loss(context, *model, hidden, testing::next_tokens(batch), {}, LossReduction::mean).loss;
    tape.backward(context, loss);
    context.tape = nullptr;
    GradientFinisher({communicator->rank(), ranks}).finish(context, learned);
    std::lock_guard lock(mutex);
    pass.loss = *loss.data<double>();
    testing::collect_gradients(learned, pass.gradients);
  });
  return pass;
}

TEST_F(Rwkv6Model, LearnsWhatItsSequencesStartFrom) {
  Context context = make_cpu_context(1);
  TunedPass pass = run_tuned(1, false);
  auto model = make_tuned(context, {}, 0.5f);
  EXPECT_EQ(pass.gradients.size(), 6u);
  auto loss_of = [&] {
    Batch batch = two_beginnings();
    Tensor hidden = model->hidden(context, batch, nullptr);
    return *language_model_loss(context, *model, hidden, testing::next_tokens(batch), {}, LossReduction::mean)
                .loss.data<double>();
  };
  for (auto& [name, gradient] : pass.gradients) {
    double* values = model->parameters().find(name)->value.data<double>();
    for (size_t i = 0; i < gradient.size(); i += 7) {
      constexpr double kStep = 1e-5;
      double value = values[i];
      values[i] = value + kStep;
      double above = loss_of();
      values[i] = value - kStep;
      double below = loss_of();
      values[i] = value;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-7) << name << " " << i;
    }
  }
}

TEST_F(Rwkv6Model, GivesTheSameGradientsOfInitialStatesOnRanks) {
  TunedPass one = run_tuned(1, false);
  for (bool sequence_parallel : {false, true}) {
    TunedPass two = run_tuned(2, sequence_parallel);
    EXPECT_NEAR(two.loss, one.loss, 1e-10);
    ASSERT_EQ(two.gradients.size(), one.gradients.size());
    for (const auto& [name, gradient] : one.gradients) testing::expect_near(two.gradients.at(name), gradient, name);
  }
}

TEST_F(Rwkv6Model, GoesOnFromItsInitialStatesTokenByToken) {
  Context context = make_cpu_context(1);
  auto model = make_tuned(context, {}, 0.5f);
  Batch whole;
  whole.add({3, 36, 7, 7, 1});
  std::vector<double> expected = testing::values_of(model->hidden(context, whole, nullptr));
  KvCache cache(context, model->kv_cache_shape(DType::f64), 2, 1);
  for (int round = 0; round < 2; ++round) {
    std::vector<double> found;
    for (size_t token = 0; token < whole.ids.size(); ++token) {
      Batch one;
      one.ids = {whole.ids[token]};
      one.sequences = {{.begin = 0, .length = 1, .past = static_cast<int64_t>(token), .slot = 1}};
      std::vector<double> some = testing::values_of(model->hidden(context, one, &cache));
      found.insert(found.end(), some.begin(), some.end());
    }
    testing::expect_near(found, expected, "hidden");
    cache.clear_states(1);
  }
  // States of zeros are none.
  auto zeros = make_tuned(context, {}, 0);
  std::vector<double> of_zeros = testing::values_of(zeros->hidden(context, whole, nullptr));
  EXPECT_GT(std::abs(of_zeros[0] - expected[0]), 1e-6);
  for (Parameter& parameter : model->parameters().all()) {
    if (parameter.is_task_head) parameter.value.fill_zero();
  }
  EXPECT_EQ(testing::values_of(model->hidden(context, whole, nullptr)), of_zeros);
}

TEST_F(Rwkv6Model, MemoryOfATrainingPassGrowsNoFasterThanItsLength) {
  int64_t small = peak_bytes(8192);
  for (int64_t factor : {2, 4}) EXPECT_LE(peak_bytes(factor * 8192), factor * small) << factor;
}

}  // namespace
}  // namespace weft
