// T5 and its kin, the early GPTs and RWKV-6, small and random: the same answer at every split, recomputed, batched and
// from a cache; gradients against finite differences.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/error.h"
#include "models/model_config.h"
#include "models/training_pass.h"

namespace weft {
namespace {

using testing::expect_near;
using testing::expect_same;
using testing::Outcome;
using testing::RecomputeHooks;
using testing::values_of;

struct NamedModel {
  std::string name;
  std::function<Family()> family;
  const char* config;
  std::string options = "";  // of the config, in place of its keys
  ModelFormat format = ModelFormat::huggingface;
  std::string alias = "";
  bool compat = false;
};

std::ostream& operator<<(std::ostream& stream, const NamedModel& model) {
  return stream << model.name;
}

constexpr const char* kT5 = R"({
  "vocab_size": 37, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 3,
  "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "dropout_rate": 0.2,
  "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})";
constexpr const char* kGpt = R"({
  "vocab_size": 37, "n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 20, "resid_pdrop": 0.2})";
constexpr const char* kRwkv6 = R"({
  "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "head_size": 6, "intermediate_size": 32,
  "decomposer_size": 5, "time_decay_size": 7})";

const std::vector<NamedModel>& models() {
  constexpr const char* kTied = R"({"feed_forward_proj": "relu", "tie_word_embeddings": true})";
  static const std::vector<NamedModel> all = {
      {"t5", t5_family, kT5},
      {"t5_tied", t5_family, kT5, kTied},
      {"t5_cross_bias", t5_family, kT5, R"({"cross_position_bias": true})"},
      {"t5_mapped", t5_family, kT5, R"({"embedding_size": 10})"},
      {"t5_mapped_and_tied", t5_family, kT5, R"({"embedding_size": 10, "tie_word_embeddings": true})"},
      {"t5_encoder", t5_family, kT5, "", ModelFormat::huggingface, "t5_encoder"},
      {"t5_decoder", t5_family, kT5, "", ModelFormat::huggingface, "t5_decoder"},
      {"umt5", umt5_family, kT5},
      {"umt5_cross_bias", umt5_family, kT5, R"({"cross_position_bias": true, "tie_word_embeddings": true})"},
      {"gpt", gpt_family, kGpt},
      {"gpt2", gpt2_family, kGpt},
      {"gpt2_ml", gpt2_ml_family, kGpt},
      {"rwkv6", rwkv6_family, kRwkv6},
      {"rwkv6_with_inner_norms", rwkv6_family, kRwkv6, "", ModelFormat::keras_hdf5},
      {"rwkv6_that_skips_zero", rwkv6_family, kRwkv6, "", ModelFormat::keras_hdf5, "", true}};
  return all;
}

/// Every value random, and large enough that scores differ and no path vanishes.
std::unique_ptr<LanguageModel> make_declared(const NamedModel& named, TensorParallelPlace place) {
  std::shared_ptr<const ModelConfig> config = ModelConfig::from_json_text(named.config, "config.json", named.options);
  Family family = named.family();
  ModelSource source{.format = named.format,
                     .config = *config,
                     .compat = named.compat,
                     .family = family.name,
                     .alias = named.alias.empty() ? family.name : named.alias};
  return family.define(source).make(place);
}

/// Numbers of one size whatever the family begins with: no layer without effect.
std::unique_ptr<LanguageModel> make_random(Context& context, const NamedModel& named, TensorParallelPlace place) {
  std::unique_ptr<LanguageModel> model = make_declared(named, place);
  for (Parameter& parameter : model->parameters().all()) parameter.initial = {};
  initialise_parameters(context, *model, {.dtype = DType::f64, .for_training = true}, 17);
  for (Parameter& parameter : model->parameters().all()) {
    if (parameter.is_norm) continue;
    for (int64_t i = 0; i < parameter.value.num_elements(); ++i) parameter.value.data<double>()[i] *= 10;
  }
  return model;
}

const std::vector<std::vector<int32_t>> kTexts = {{3, 36, 7, 0, 1}, {0, 18, 19, 20, 2, 5, 11, 9, 4, 22, 35}};
const std::vector<std::vector<int32_t>> kSources = {{8, 8, 30, 1, 2, 3, 4, 5, 17, 18, 12, 29, 6, 25}, {2, 33, 19}};

/// Instead of sources, for decoders alone.
Tensor source_states(const Context& context, size_t source, int64_t width) {
  auto length = static_cast<int64_t>(kSources[source].size());
  Tensor states = context.empty({length, width}, DType::f64);
  RandomKey key{.seed = 40 + source};
  for (int64_t i = 0; i < length * width; ++i) states.data<double>()[i] = key.uniform(static_cast<uint64_t>(i)) - 0.5;
  return states;
}

void add_source(const Context& context, LanguageModel& model, size_t source, int64_t slot, Batch& batch) {
  batch.add_source(kSources[source], slot);
  if (model.parameters().find("encoder.final_layer_norm.weight") != nullptr) return;
  int64_t width = model.info().hidden_size;
  Tensor one = source_states(context, source, width);
  if (!batch.source_states) {
    batch.source_states = one;
    return;
  }
  Tensor both = context.empty({batch.source_states.size(0) + one.size(0), width}, DType::f64);
  double* end =
      std::copy_n(batch.source_states.data<double>(), batch.source_states.num_elements(), both.data<double>());
  std::copy_n(one.data<double>(), one.num_elements(), end);
  batch.source_states = both;
}

Batch texts(const Context& context, LanguageModel& model, const std::vector<size_t>& which) {
  Batch batch;
  for (size_t text : which) {
    batch.add(kTexts[text]);
    if (model.info().has_source) add_source(context, model, text, 0, batch);
  }
  return batch;
}

struct SplitOptions {
  int ranks = 1;
  bool sequence_parallel = false;
  BlockHooks* hooks = nullptr;
  const LoraOptions* lora = nullptr;  // of an adapter; then only its factors have gradients
  /// Of the two; they are numbered as if both were in the batch.
  std::vector<size_t> which = {0, 1};
  LossReduction reduction = LossReduction::mean;
};

/// One rank's model and the pass over both texts.
class SequenceRank {
 public:
  SequenceRank(const NamedModel& named, const SplitOptions& options, const std::shared_ptr<Communicator>& communicator)
      : context_(make_cpu_context(1)) {
    context_.tensor_parallel = communicator.get();
    context_.sequence_parallel = options.sequence_parallel;
    context_.training = true;
    context_.random = {.seed = 3, .step = 4, .site = 0};
    context_.blocks = options.hooks;
    model_ = make_random(context_, named, {communicator->rank(), communicator->size()});
    set_trainable(*model_, options.lora == nullptr);
    adapter_ = testing::attach_random(*model_, options.lora, context_, DType::f64);
    batch_ = texts(context_, *model_, options.which);
    reduction_ = options.reduction;
    if (options.which[0] == 0) return;
    context_.first_token = static_cast<int64_t>(kTexts[0].size());
    batch_.first_source_token = static_cast<int64_t>(kSources[0].size());
  }

  LanguageModel& model() { return *model_; }

  double loss() {
    hidden_ = model_->hidden(context_, batch_, nullptr);
    if (!model_->info().has_language_model_head) return loss_of_states();
    std::vector<int32_t> targets = testing::next_tokens(batch_);
    loss_ = language_model_loss(context_, *model_, hidden_, targets, {}, reduction_, &batch_).loss;
    return values_of(loss_)[0];
  }

  void run(Outcome& outcome, std::mutex& mutex) {
    Tape tape;
    context_.tape = &tape;
    double value = loss();
    if (loss_) {
      tape.backward(context_, loss_);
    } else {
      add_grad(context_, hidden_.grad_slot(), weights_of_states());
      tape.backward(context_);
    }
    context_.tape = nullptr;
    std::vector<Parameter*> parameters = testing::all_parameters(*model_, adapter_.get());
    GradientFinisher(model_->parameters().place()).finish(context_, parameters);
    std::lock_guard lock(mutex);
    outcome.loss = value;
    outcome.logits = values_of(hidden_);
    testing::collect_gradients(parameters, outcome.gradients);
  }

 private:
  /// Each rank gives its part of the gradient of hidden states.
  Tensor weights_of_states() const {
    Tensor weights = context_.empty(hidden_.shape(), DType::f64);
    for (int64_t i = 0; i < weights.num_elements(); ++i) {
      double whole = RandomKey{.seed = 8}.uniform(static_cast<uint64_t>(i)) - 0.5;
      weights.data<double>()[i] = whole / context_.tensor_parallel->size();
    }
    return weights;
  }

  double loss_of_states() const {
    Tensor weights = weights_of_states();
    double sum = 0;
    for (int64_t i = 0; i < weights.num_elements(); ++i) sum += weights.data<double>()[i] * hidden_.data<double>()[i];
    return sum * context_.tensor_parallel->size();
  }

  Context context_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Adapter> adapter_;
  Batch batch_;
  LossReduction reduction_ = LossReduction::mean;
  Tensor hidden_, loss_;
};

Outcome run_split(const NamedModel& named, const SplitOptions& options) {
  Outcome outcome;
  std::mutex mutex;
  run_thread_ranks(options.ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    SequenceRank(named, options, communicator).run(outcome, mutex);
  });
  return outcome;
}

TEST(SequenceModel, T5BeginsWithScoresThatNeedNoScale) {
  Context context = make_cpu_context(1);
  auto deviation = [&](const NamedModel& named, const char* name) {
    std::unique_ptr<LanguageModel> model = make_declared(named, {});
    initialise_parameters(context, *model, {.dtype = DType::f64, .for_training = true}, 17);
    std::vector<double> values = values_of(model->parameters().find(name)->value);
    double squares = 0;
    for (double value : values) squares += value * value;
    return std::sqrt(squares / static_cast<double>(values.size()));
  };
  const NamedModel& t5 = models()[0];
  EXPECT_NEAR(deviation(t5, "shared.weight"), 1, 0.15);
  EXPECT_NEAR(deviation(t5, "lm_head.weight"), 1 / std::sqrt(24.0), 0.03);
  EXPECT_NEAR(deviation(t5, "decoder.block.2.layer.1.EncDecAttention.q.weight"), 1 / std::sqrt(24.0 * 6), 0.01);
  EXPECT_NEAR(deviation(t5, "encoder.block.0.layer.0.SelfAttention.k.weight"), 1 / std::sqrt(24.0), 0.03);
  EXPECT_NEAR(deviation(t5, "encoder.block.1.layer.1.DenseReluDense.wo.weight"), 1 / std::sqrt(32.0), 0.03);
  EXPECT_NEAR(deviation(t5, "encoder.block.1.layer.1.layer_norm.weight"), 1, 0.05);
}

/// A key's bias adds the same to all scores of a query: its gradient is rounding.
void drop_rounding(Outcome& outcome) {
  std::erase_if(outcome.gradients, [](const auto& entry) { return entry.first.ends_with("self.key.bias"); });
}

class SequenceModels : public ::testing::TestWithParam<NamedModel> {};

TEST_P(SequenceModels, GiveEveryParameterAGradient) {
  Context context = make_cpu_context(1);
  Outcome outcome = run_split(GetParam(), {});
  EXPECT_EQ(outcome.gradients.size(), make_random(context, GetParam(), {})->parameters().all().size());
  drop_rounding(outcome);
  for (const auto& [name, gradient] : outcome.gradients) {
    EXPECT_TRUE(std::any_of(gradient.begin(), gradient.end(), [](double g) { return std::abs(g) > 1e-9; })) << name;
  }
}

TEST_P(SequenceModels, GiveOnRanksWhatOneRankGives) {
  Outcome one = run_split(GetParam(), {});
  drop_rounding(one);
  for (int ranks : {2, 4}) {
    for (bool sequence_parallel : {false, true}) {
      SCOPED_TRACE(::testing::Message() << ranks << " ranks, sequence parallel " << sequence_parallel);
      Outcome several = run_split(GetParam(), {.ranks = ranks, .sequence_parallel = sequence_parallel});
      drop_rounding(several);
      expect_same(several, one);
    }
  }
}

/// RWKV-6's ffn.receptance is computed by every rank.
TEST_P(SequenceModels, GiveTheSameAdapterGradientsOnRanks) {
  LoraOptions lora{.rank = 3, .alpha = 5, .dropout = 0.3};
  Outcome one = run_split(GetParam(), {.lora = &lora});
  for (int ranks : {2, 4}) {
    for (bool sequence_parallel : {false, true}) {
      SCOPED_TRACE(::testing::Message() << ranks << " ranks, sequence parallel " << sequence_parallel);
      expect_same(run_split(GetParam(), {.ranks = ranks, .sequence_parallel = sequence_parallel, .lora = &lora}), one);
    }
  }
}

/// Dropout of the model and of its adapter, sources included, does not depend on what else is in the batch.
TEST_P(SequenceModels, DropByTheTokensPlaceInTheStep) {
  if (make_declared(GetParam(), {})->info().has_language_model_head == false) return;
  LoraOptions lora{.rank = 3, .dropout = 0.3};
  SplitOptions options{.lora = &lora, .reduction = LossReduction::sum};
  Outcome both = run_split(GetParam(), options);
  options.which = {0};
  Outcome first = run_split(GetParam(), options);
  options.which = {1};
  Outcome second = run_split(GetParam(), options);
  EXPECT_NEAR(first.loss + second.loss, both.loss, 1e-10);
  for (auto& [name, gradient] : first.gradients) {
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += second.gradients.at(name)[i];
    expect_near(gradient, both.gradients.at(name), name);
  }
}

/// A block that runs again sums what several blocks give to one tensor (T5's biases and source) in another order.
bool is_same_to_the_bit(const NamedModel& model, Recompute mode) {
  return mode == Recompute::selective || model.name.find("t5") == std::string::npos;
}

TEST_P(SequenceModels, GiveTheSameRecomputed) {
  for (int ranks : {1, 2}) {
    SplitOptions options{.ranks = ranks, .sequence_parallel = ranks > 1};
    Outcome kept = run_split(GetParam(), options);
    for (Recompute mode : {Recompute::selective, Recompute::block}) {
      RecomputeHooks hooks(mode);
      options.hooks = &hooks;
      Outcome recomputed = run_split(GetParam(), options);
      if (!is_same_to_the_bit(GetParam(), mode)) {
        drop_rounding(kept);
        drop_rounding(recomputed);
        expect_same(recomputed, kept);
        continue;
      }
      EXPECT_EQ(recomputed.loss, kept.loss) << ranks;
      ASSERT_EQ(recomputed.gradients.size(), kept.gradients.size());
      for (const auto& [name, gradient] : kept.gradients) {
        EXPECT_TRUE(recomputed.gradients.at(name) == gradient) << name << " on " << ranks << " ranks";
      }
    }
  }
}

/// The largest element of each parameter's gradient and some others.
std::vector<size_t> elements_to_check(const std::vector<double>& gradient, size_t seed) {
  auto largest =
      std::max_element(gradient.begin(), gradient.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
  std::vector<size_t> elements = {static_cast<size_t>(largest - gradient.begin())};
  for (size_t i = 1; i <= 2; ++i) elements.push_back((seed * 7919 + i * 104729) % gradient.size());
  return elements;
}

TEST_P(SequenceModels, GradientsEqualFiniteDifferences) {
  Outcome outcome = run_split(GetParam(), {});
  run_thread_ranks(1, [&](const std::shared_ptr<Communicator>& communicator) {
    SequenceRank rank(GetParam(), {}, communicator);
    size_t seed = 0;
    for (Parameter& parameter : rank.model().parameters().all()) {
      const std::vector<double>& gradient = outcome.gradients.at(parameter.name);
      std::vector<size_t> elements = elements_to_check(gradient, ++seed);
      double scale = std::max(1e-3, std::abs(gradient[elements[0]]));
      for (size_t element : elements) {
        constexpr double kStep = 1e-6;
        double& value = parameter.value.data<double>()[element];
        double original = value;
        value = original + kStep;
        double above = rank.loss();
        value = original - kStep;
        double below = rank.loss();
        value = original;
        EXPECT_NEAR(gradient[element], (above - below) / (2 * kStep), 1e-6 * scale)
            << parameter.name << " element " << element;
      }
    }
  });
}

TEST_P(SequenceModels, SequencesOfABatchDoNotSeeEachOther) {
  Context context = make_cpu_context(1);
  std::unique_ptr<LanguageModel> model = make_random(context, GetParam(), {});
  std::vector<double> together = values_of(model->hidden(context, texts(context, *model, {0, 1}), nullptr));
  std::vector<double> apart = values_of(model->hidden(context, texts(context, *model, {0}), nullptr));
  std::vector<double> second = values_of(model->hidden(context, texts(context, *model, {1}), nullptr));
  apart.insert(apart.end(), second.begin(), second.end());
  expect_near(together, apart, "hidden");
}

/// Both texts through one cache, interleaved: the first tokens of each at once, then one of each at a time. Sources
/// come with the first tokens, into slots of another order.
class InterleavedCache {
 public:
  InterleavedCache(Context& context, LanguageModel& model)
      : context_(context), model_(model), cache_(context, model.kv_cache_shape(DType::f64), 3, 12, 3, 15) {
    for (int64_t slot = 0; slot < 3; ++slot) cache_.clear_states(slot);
  }

  std::array<std::vector<double>, 2> run(int64_t first) {
    std::array<std::vector<double>, 2> hidden;
    std::array<int64_t, 2> done = {0, 0};
    auto left = [&](size_t text) { return static_cast<int64_t>(kTexts[text].size()) - done[text]; };
    while (left(0) > 0 || left(1) > 0) {
      Batch batch;
      for (size_t text : {size_t{1}, size_t{0}}) {
        if (left(text) > 0) add(text, done[text], done[text] == 0 ? std::min(first, left(text)) : 1, batch);
      }
      Tensor out = model_.hidden(context_, batch, &cache_);
      for (const BatchSequence& sequence : batch.sequences) {
        size_t text = sequence.slot == 2 ? 0 : 1;
        done[text] += sequence.length;
        std::vector<double> rows = values_of(out.slice(sequence.begin, sequence.begin + sequence.length));
        hidden[text].insert(hidden[text].end(), rows.begin(), rows.end());
      }
    }
    for (int64_t slot = 0; slot < 3; ++slot) cache_.clear_states(slot);
    return hidden;
  }

 private:
  void add(size_t text, int64_t past, int64_t count, Batch& batch) {
    auto begin = kTexts[text].begin() + past;
    batch.add({begin, begin + count}, past, text == 0 ? 2 : 0);
    if (!model_.info().has_source) return;
    batch.sequences.back().source_slot = text == 0 ? 0 : 2;
    batch.sequences.back().source_length = static_cast<int64_t>(kSources[text].size());
    if (past == 0) add_source(context_, model_, text, batch.sequences.back().source_slot, batch);
  }

  Context& context_;
  LanguageModel& model_;
  KvCache cache_;
};

TEST_P(SequenceModels, GiveFromACacheWhatTheyGiveAtOnce) {
  if (GetParam().alias == "t5_encoder") return;
  for (int ranks : {1, 2}) {
    run_thread_ranks(ranks, [&](const std::shared_ptr<Communicator>& communicator) {
      Context context = make_cpu_context(1);
      context.tensor_parallel = communicator.get();
      std::unique_ptr<LanguageModel> model = make_random(context, GetParam(), {communicator->rank(), ranks});
      InterleavedCache cache(context, *model);
      std::array<std::vector<double>, 2> whole;
      for (size_t text : {size_t{0}, size_t{1}}) {
        whole[text] = values_of(model->hidden(context, texts(context, *model, {text}), nullptr));
      }
      for (int64_t first : {4, 1}) {
        std::array<std::vector<double>, 2> hidden = cache.run(first);
        for (size_t text : {size_t{0}, size_t{1}}) expect_near(hidden[text], whole[text], "hidden");
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(All, SequenceModels, ::testing::ValuesIn(models()), [](const auto& tested) {
  return tested.param.name;
});

const NamedModel& named(const std::string& name) {
  return *std::find_if(models().begin(), models().end(), [&](const NamedModel& model) { return model.name == name; });
}

/// The blocks of T5's stacks that an adapter of these layers is on: "encoder.block.1".
std::set<std::string> adapted_blocks(const std::vector<int64_t>& layers) {
  std::unique_ptr<LanguageModel> model = make_declared(named("t5"), {});
  Adapter adapter(*model, {.layers = layers});
  std::set<std::string> blocks;
  constexpr std::string_view kPrefix = "base_model.model.";
  for (const Parameter& parameter : adapter.parameters().all()) {
    blocks.insert(parameter.name.substr(kPrefix.size(), std::string_view("encoder.block.0").size()));
  }
  return blocks;
}

TEST(SequenceModel, AdaptersLayersAreNumberedInBothStacks) {
  using Blocks = std::set<std::string>;
  EXPECT_EQ(adapted_blocks({0}), (Blocks{"encoder.block.0", "decoder.block.0"}));
  EXPECT_EQ(adapted_blocks({1, 2}), (Blocks{"encoder.block.1", "decoder.block.1", "decoder.block.2"}));
  EXPECT_THROW(adapted_blocks({3}), Error);
}

std::string refusal_of(const std::string& name, const Batch& batch) {
  Context context = make_cpu_context(1);
  std::unique_ptr<LanguageModel> model = make_random(context, named(name), {});
  try {
    model->hidden(context, batch, nullptr);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    return error.what();
  }
  return "none";
}

TEST(SequenceModel, SaysWhatIsMissing) {
  Batch without, unknown_source, unknown, whole;
  without.add({1, 2});
  unknown_source.add({1, 2});
  unknown_source.add_source({37});
  unknown.add({-1});
  whole.add({1, 2});
  whole.add_source({1, 2, 3});
  EXPECT_NE(refusal_of("t5", without).find("0 were given for 1 sequences"), std::string::npos);
  EXPECT_NE(refusal_of("t5", unknown_source).find("token id 37"), std::string::npos);
  EXPECT_NE(refusal_of("t5_decoder", whole).find("takes the states of sources"), std::string::npos);
  EXPECT_NE(refusal_of("rwkv6", unknown).find("token id -1"), std::string::npos);
  EXPECT_EQ(refusal_of("t5", whole), "none");
}

TEST(SequenceModel, DegreesThatTheHeadsDoNotAllowAreRefused) {
  Context context = make_cpu_context(1);
  for (const char* name : {"t5", "umt5", "rwkv6"}) {
    EXPECT_THROW(make_random(context, named(name), {0, 3}), Error) << name;
  }
}

}  // namespace
}  // namespace weft
