// The families of encoders, small and random: the same answer at every split, recomputed and from a cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "models/encoder_config.h"
#include "models/training_pass.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/loss.h"

namespace weft {
namespace {

using testing::expect_near;
using testing::expect_same;
using testing::Outcome;
using testing::RecomputeHooks;
using testing::values_of;

struct NamedEncoder {
  std::string name;
  std::function<Family()> family;
  std::string options;  // of the config, in place of the keys below
  AttentionPattern attention = AttentionPattern::bidirectional;
  ConditionConfig condition = {};
};

std::ostream& operator<<(std::ostream& stream, const NamedEncoder& encoder) {
  return stream << encoder.name;
}

constexpr const char* kConfig = R"({
  "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
  "max_position_embeddings": 20, "type_vocab_size": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.2,
  "attention_probs_dropout_prob": 0.25,
  "with_mlm": true})";
constexpr const char* kAllHeads = R"({"with_pool": true, "with_nsp": true, "embedding_size": 10})";

constexpr const char* kLabelledCondition =
    R"({"new_layer_norm_cond": true, "layer_norm_cond_size": 6, "layer_norm_cond_labels": ["a", "b", "c"]})";

const std::vector<NamedEncoder>& encoders() {
  constexpr AttentionPattern kCausal = AttentionPattern::causal;
  constexpr AttentionPattern kPrefix = AttentionPattern::prefix;
  static const std::vector<NamedEncoder> all = {
      {"bert", bert_family, kAllHeads},
      {"bert_causal", bert_family, "", kCausal},
      {"bert_prefix", bert_family, "", kPrefix},
      {"bert_wide_keys", bert_family, R"({"attention_head_size": 5, "attention_key_size": 8})", kPrefix},
      {"bert_hierarchical", bert_family, R"({"hierarchical_position": true, "max_position_embeddings": 4})"},
      {"bert_realformer", bert_family, R"({"residual_attention_scores": true})"},
      {"bert_shared_segments", bert_family, R"({"shared_segment_embeddings": true})"},
      {"bert_segment_attention", bert_family, R"({"segment_attention": true})", kPrefix},
      {"bert_condition",
       bert_family,
       "",
       AttentionPattern::bidirectional,
       {.width = 5, .hidden_width = 7, .activation = Activation::relu}},
      {"bert_condition_labels", bert_family, kLabelledCondition, kPrefix},
      {"nezha_condition_labels", nezha_family, kLabelledCondition, kCausal},
      {"bert_classifier", bert_family, R"({"new_task_head": true, "id2label": {"0": "no", "1": "yes", "2": "?"}})"},
      {"albert", albert_family, kAllHeads},
      {"albert_prefix", albert_family, R"({"embedding_size": 10})", kPrefix},
      {"albert_unshared", albert_unshared_family, kAllHeads},
      {"nezha", nezha_family, R"({"max_relative_position": 3, "with_pool": true, "with_nsp": true})"},
      {"nezha_causal", nezha_family, R"({"max_relative_position": 3})", kCausal},
      {"roberta", roberta_family, R"({"type_vocab_size": 1, "pad_token_id": 1})"},
      {"roberta_classifier",
       roberta_family,
       R"({"new_task_head": true, "id2label": {"0": "no", "1": "yes", "2": "?"}, "classifier_dropout": 0.3})"},
      {"distilbert", distilbert_family, ""},
      {"distilbert_classifier",
       distilbert_family,
       R"({"new_task_head": true, "id2label": {"0": "no", "1": "yes", "2": "?"}, "classifier_dropout": 0.3})"},
      {"mpnet", mpnet_family, ""},
      {"mpnet_causal", mpnet_family, "", kCausal},
      {"electra", electra_family, R"({"with_mlm": false, "with_discriminator": true, "embedding_size": 10})"},
      {"electra_generator", electra_family, R"({"generator": true, "embedding_size": 10})"},
      {"roformer", roformer_family, kAllHeads},
      {"roformer_prefix", roformer_family, "", kPrefix},
      {"roformer_v2", roformer_v2_family, R"({"embedding_size": 10})"},
      {"roformer_v2_prefix", roformer_v2_family, "", kPrefix},
      {"gau_alpha", gau_alpha_family, R"({"attention_key_size": 8, "hidden_act": "swish"})"},
      {"gau_alpha_causal", gau_alpha_family, R"({"attention_key_size": 8, "hidden_act": "swish"})", kCausal},
      {"deberta", deberta_family, R"({"bucket_size": 6})"},
      {"deberta_causal", deberta_family, R"({"bucket_size": 6})", kCausal}};
  return all;
}

/// Every value random, and large enough that scores differ and no path vanishes.
std::unique_ptr<LanguageModel> make_random(Context& context, const NamedEncoder& encoder, TensorParallelPlace place) {
  std::shared_ptr<const ModelConfig> config = ModelConfig::from_json_text(kConfig, "config.json", encoder.options);
  ModelSource source{.config = *config, .family = encoder.name, .attention = encoder.attention};
  std::unique_ptr<LanguageModel> model;
  if (encoder.condition.width == 0) {
    model = encoder.family().define(source).make(place);
  } else {
    EncoderConfig conditional = read_encoder(source);
    conditional.info.condition = encoder.condition;
    model = make_encoder(conditional, place);
  }
  for (Parameter& parameter : model->parameters().all()) {
    // New ones begin as zeros.
    if (parameter.name.find("condition.") != std::string::npos) parameter.initial = {};
  }
  initialise_parameters(context, *model, {.dtype = DType::f64, .for_training = true}, 17);
  for (Parameter& parameter : model->parameters().all()) {
    if (parameter.is_norm) continue;
    for (int64_t i = 0; i < parameter.value.num_elements(); ++i) parameter.value.data<double>()[i] *= 10;
  }
  return model;
}

/// Sources and targets of different length; ids, segments and positions that all families know.
Batch two_texts() {
  Batch batch;
  batch.add({3, 36, 7, 7, 1, 12, 30}, {0, 0, 0, 0, 1, 1, 1});
  batch.add({0, 18, 19, 20, 2, 5, 11, 9, 4, 22, 35}, {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1});
  return batch;
}

/// A label a text, of models whose norms take one.
void add_condition_labels(const LanguageModel& model, Batch& batch) {
  auto labels = static_cast<int64_t>(model.info().condition.labels.size());
  if (labels == 0) return;
  for (const BatchSequence& text : batch.sequences) {
    batch.condition_labels.push_back(static_cast<int32_t>(text.length % labels));
  }
}

struct EncoderPassOptions {
  int ranks = 1;
  bool sequence_parallel = false;
  BlockHooks* hooks = nullptr;
  const LoraOptions* lora = nullptr;  // of an adapter; then only its factors have gradients
  Batch batch = {};                   // both texts if empty
  int64_t first_token = 0;
  bool sums_tokens = false;  // the loss is that of the language model's head alone
};

class EncoderRank {
 public:
  EncoderRank(const NamedEncoder& encoder,
              const EncoderPassOptions& options,
              const std::shared_ptr<Communicator>& communicator)
      : context_(make_cpu_context(1)) {
    context_.tensor_parallel = communicator.get();
    context_.sequence_parallel = options.sequence_parallel;
    context_.training = true;
    context_.random = {.seed = 3, .step = 4, .site = 0};
    context_.blocks = options.hooks;
    model_ = make_random(context_, encoder, {communicator->rank(), communicator->size()});
    set_trainable(*model_, options.lora == nullptr);
    adapter_ = testing::attach_random(*model_, options.lora, context_, DType::f64);
    batch_ = options.batch.ids.empty() ? two_texts() : options.batch;
    context_.first_token = options.first_token;
    sums_tokens_ = options.sums_tokens;
    add_condition_labels(*model_, batch_);
    if (encoder.condition.width == 0) return;
    batch_.condition = context_.empty({2, encoder.condition.width}, DType::f64);
    for (int64_t i = 0; i < batch_.condition.num_elements(); ++i) {
      batch_.condition.data<double>()[i] = 2 * RandomKey{.seed = 6}.uniform(static_cast<uint64_t>(i)) - 1;
    }
  }

  /// Forward and backward of the sum of all heads' losses; what it computed besides.
  void run(Outcome& outcome, std::mutex& mutex) {
    Tape tape;
    context_.tape = &tape;
    Tensor hidden = model_->hidden(context_, batch_, nullptr);
    Tensor loss = total_loss(hidden);
    tape.backward(context_, loss);
    context_.tape = nullptr;
    std::vector<Parameter*> parameters = testing::all_parameters(*model_, adapter_.get());
    GradientFinisher(model_->parameters().place()).finish(context_, parameters);
    std::lock_guard lock(mutex);
    outcome.loss = values_of(loss)[0];
    outcome.logits = values_of(hidden);
    testing::collect_gradients(parameters, outcome.gradients);
  }

 private:
  Tensor total_loss(const Tensor& hidden) {
    Tensor loss;
    auto include = [&](const Tensor& part) { loss = loss ? add(context_, loss, part) : part; };
    auto whole = [&](const Tensor& logits) { return share_gradient_over_tp(context_, logits); };
    if (model_->info().has_language_model_head) {
      std::vector<int32_t> targets = testing::next_tokens(batch_);
      LossReduction reduction = sums_tokens_ ? LossReduction::sum : LossReduction::mean;
      include(language_model_loss(context_, *model_, hidden, targets, {}, reduction, &batch_).loss);
    }
    if (sums_tokens_) return loss;
    Tensor pooled = model_->pooled(context_, hidden, batch_);
    if (Tensor pair = pooled ? model_->pair_logits(context_, pooled) : Tensor()) {
      std::vector<int32_t> pairs = {1, 0};
      include(softmax_cross_entropy(context_, whole(pair), pairs));
    }
    if (Tensor replaced = model_->replaced_logits(context_, hidden)) {
      std::vector<float> targets(static_cast<size_t>(batch_.num_tokens()));
      for (size_t i = 0; i < targets.size(); i += 3) targets[i] = 1;
      include(binary_cross_entropy(context_, whole(replaced), targets));
    }
    if (Tensor classes = model_->task_logits(context_, hidden, batch_)) {
      std::vector<int32_t> labels = {2, 0};
      include(softmax_cross_entropy(context_, whole(classes), labels));
    }
    return loss;
  }

  Context context_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Adapter> adapter_;
  Batch batch_;
  bool sums_tokens_ = false;
};

Outcome run_pass(const NamedEncoder& encoder, const EncoderPassOptions& options) {
  Outcome outcome;
  std::mutex mutex;
  run_thread_ranks(options.ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    EncoderRank(encoder, options, communicator).run(outcome, mutex);
  });
  return outcome;
}

/// Whether a key's bias, which adds the same to all scores of a query, had no gradient but for rounding.
bool is_rounding(const std::string& name, const std::vector<double>& gradient) {
  bool is_of_key = name.ends_with("key.bias") || name.ends_with("k_lin.bias") || name.ends_with("attn.k.bias");
  return is_of_key && std::all_of(gradient.begin(), gradient.end(), [](double g) { return std::abs(g) < 1e-13; });
}

void drop_rounding(Outcome& outcome) {
  std::erase_if(outcome.gradients, [](const auto& entry) { return is_rounding(entry.first, entry.second); });
}

class Encoders : public ::testing::TestWithParam<NamedEncoder> {};

TEST_P(Encoders, GiveEveryParameterAGradient) {
  Context context = make_cpu_context(1);
  Outcome outcome = run_pass(GetParam(), {});
  EXPECT_EQ(outcome.gradients.size(), make_random(context, GetParam(), {})->parameters().all().size());
  for (const auto& [name, gradient] : outcome.gradients) {
    if (is_rounding(name, gradient)) continue;
    EXPECT_TRUE(std::any_of(gradient.begin(), gradient.end(), [](double g) { return std::abs(g) > 1e-9; })) << name;
  }
}

TEST_P(Encoders, GiveOnRanksWhatOneRankGives) {
  Outcome one = run_pass(GetParam(), {});
  drop_rounding(one);
  for (int ranks : {2, 4}) {
    for (bool sequence_parallel : {false, true}) {
      SCOPED_TRACE(::testing::Message() << ranks << " ranks, sequence parallel " << sequence_parallel);
      Outcome several = run_pass(GetParam(), {.ranks = ranks, .sequence_parallel = sequence_parallel});
      drop_rounding(several);
      expect_same(several, one);
    }
  }
}

/// GAU-alpha's base_proj is computed by every rank.
TEST_P(Encoders, GiveTheSameAdapterGradientsOnRanks) {
  LoraOptions lora{.rank = 3, .alpha = 5, .dropout = 0.3};
  Outcome one = run_pass(GetParam(), {.lora = &lora});
  for (int ranks : {2, 4}) {
    for (bool sequence_parallel : {false, true}) {
      SCOPED_TRACE(::testing::Message() << ranks << " ranks, sequence parallel " << sequence_parallel);
      expect_same(run_pass(GetParam(), {.ranks = ranks, .sequence_parallel = sequence_parallel, .lora = &lora}), one);
    }
  }
}

Batch one_text(const Batch& all, size_t index) {
  const BatchSequence& text = all.sequences[index];
  Batch one;
  one.add({all.ids.begin() + text.begin, all.ids.begin() + text.begin + text.length},
          {all.segment_ids.begin() + text.begin, all.segment_ids.begin() + text.begin + text.length});
  return one;
}

/// DeBERTa's adapters also see its table of positions, which is no part of a batch.
TEST_P(Encoders, DropByTheTokensPlaceInTheStep) {
  const NamedEncoder& encoder = GetParam();
  Context context = make_cpu_context(1);
  bool has_head = make_random(context, encoder, {})->info().has_language_model_head;
  if (!has_head || encoder.condition.width > 0) return;
  LoraOptions lora{.rank = 3, .dropout = 0.3};
  EncoderPassOptions options{.lora = &lora, .sums_tokens = true};
  Outcome both = run_pass(encoder, options);
  options.batch = one_text(two_texts(), 0);
  Outcome first = run_pass(encoder, options);
  options.first_token = options.batch.num_tokens();
  options.batch = one_text(two_texts(), 1);
  Outcome second = run_pass(encoder, options);
  EXPECT_NEAR(first.loss + second.loss, both.loss, 1e-10);
  for (auto& [name, gradient] : first.gradients) {
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += second.gradients.at(name)[i];
    expect_near(gradient, both.gradients.at(name), name);
  }
}

TEST_P(Encoders, GiveTheSameBitsRecomputed) {
  for (int ranks : {1, 2}) {
    EncoderPassOptions options{.ranks = ranks, .sequence_parallel = ranks > 1};
    Outcome kept = run_pass(GetParam(), options);
    for (Recompute mode : {Recompute::selective, Recompute::block}) {
      RecomputeHooks hooks(mode);
      options.hooks = &hooks;
      Outcome recomputed = run_pass(GetParam(), options);
      EXPECT_EQ(recomputed.loss, kept.loss) << ranks;
      ASSERT_EQ(recomputed.gradients.size(), kept.gradients.size());
      for (const auto& [name, gradient] : kept.gradients) {
        EXPECT_EQ(recomputed.gradients.at(name), gradient) << name << " on " << ranks << " ranks";
      }
    }
  }
}

/// Hidden states of the last tokens from a cache: the first tokens at once, then one at a time.
std::vector<double> cached_hidden(
    Context& context, LanguageModel& model, const Batch& whole, int64_t first, KvCache& cache) {
  std::vector<double> values;
  const BatchSequence& text = whole.sequences[0];
  for (int64_t begin = 0; begin < text.length;) {
    int64_t end = begin == 0 ? first : begin + 1;
    Batch part;
    part.add({whole.ids.begin() + begin, whole.ids.begin() + end},
             {whole.segment_ids.begin() + begin, whole.segment_ids.begin() + end},
             begin,
             1);
    part.condition_labels = whole.condition_labels;
    std::vector<double> some = values_of(model.hidden(context, part, &cache));
    values.insert(values.end(), some.begin(), some.end());
    begin = end;
  }
  return values;
}

TEST_P(Encoders, GiveFromACacheWhatTheyGiveAtOnce) {
  const NamedEncoder& encoder = GetParam();
  Batch given;
  given.add({0, 18, 19, 20, 2, 5, 11, 9, 4}, {0, 0, 0, 0, 1, 1, 1, 1, 1});
  run_thread_ranks(2, [&](const std::shared_ptr<Communicator>& communicator) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = communicator.get();
    std::unique_ptr<LanguageModel> model = make_random(context, encoder, {communicator->rank(), 2});
    Batch text = given;
    add_condition_labels(*model, text);
    KvCache cache(context, model->kv_cache_shape(DType::f64), 2, 12);
    if (encoder.attention == AttentionPattern::bidirectional) {
      EXPECT_THROW(cached_hidden(context, *model, text, 4, cache), Error);
      return;
    }
    // Tokens of segment_attention see the targets that come after them.
    if (encoder.options.find("segment_attention") != std::string::npos) return;
    std::vector<double> whole = values_of(model->hidden(context, text, nullptr));
    for (int64_t first : {4, 7}) expect_near(cached_hidden(context, *model, text, first, cache), whole, "hidden");
  });
}

TEST_P(Encoders, SequencesOfABatchDoNotSeeEachOther) {
  const NamedEncoder& encoder = GetParam();
  if (encoder.condition.width > 0) return;
  Context context = make_cpu_context(1);
  std::unique_ptr<LanguageModel> model = make_random(context, encoder, {});
  Batch both = two_texts();
  Batch second = one_text(both, 1);
  add_condition_labels(*model, both);
  add_condition_labels(*model, second);
  std::vector<double> together = values_of(model->hidden(context, both, nullptr));
  together.erase(together.begin(), together.begin() + 7 * model->info().hidden_size);
  expect_near(values_of(model->hidden(context, second, nullptr)), together, "hidden");
}

/// What a norm of a label is to that of a list of numbers, its row of the table.
TEST(ConditionalEncoder, LabelsAreRowsOfATableAndNewLayersChangeNothing) {
  Context context = make_cpu_context(1);
  NamedEncoder encoder{"bert", bert_family, kLabelledCondition, AttentionPattern::causal};
  std::unique_ptr<LanguageModel> model = make_random(context, encoder, {});
  Batch labels = two_texts();
  labels.condition_labels = {2, 0};
  Batch vectors = two_texts();
  const Tensor& table = model->parameters().find("condition.embedding.weight")->value;
  for (int64_t label : {2, 0}) {
    for (int64_t i = 0; i < 6; ++i) {
      vectors.condition_values.push_back(static_cast<float>(table.data<double>()[label * 6 + i]));
    }
  }
  std::vector<double> hidden = values_of(model->hidden(context, labels, nullptr));
  std::vector<double> same = values_of(model->hidden(context, vectors, nullptr));
  for (size_t i = 0; i < hidden.size(); ++i) EXPECT_NEAR(hidden[i], same[i], 1e-6);
  auto config = ModelConfig::from_json_text(kConfig, "config.json", kLabelledCondition);
  auto fresh = bert_family().define({.config = *config, .family = "bert"}).make({});
  for (const Parameter& parameter : fresh->parameters().all()) {
    if (parameter.name.ends_with("weight_dense.weight") || parameter.name.ends_with("bias_dense.weight")) {
      EXPECT_EQ(parameter.initial.deviation, 0) << parameter.name;
      EXPECT_TRUE(parameter.is_task_head) << parameter.name;
    }
  }
  EXPECT_THROW(model->hidden(context, two_texts(), nullptr), Error);
  labels.condition_labels.clear();
  labels.condition_values = {1, 2};
  EXPECT_THROW(model->hidden(context, labels, nullptr), Error);
}

INSTANTIATE_TEST_SUITE_P(All, Encoders, ::testing::ValuesIn(encoders()), [](const auto& tested) {
  return tested.param.name;
});

/// What is said of a batch that the model cannot take.
std::string refusal_of(const NamedEncoder& encoder, const Batch& batch) {
  Context context = make_cpu_context(1);
  std::unique_ptr<LanguageModel> model = make_random(context, encoder, {});
  try {
    model->hidden(context, batch, nullptr);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    return error.what();
  }
  return "none";
}

TEST(Encoder, RefusesWhatLiesOutsideItsTables) {
  const NamedEncoder& bert = encoders()[0];
  Batch long_text, unknown_segment, negative, unknown_token;
  long_text.add(std::vector<int32_t>(21, 1));
  unknown_segment.add({1, 2}, {0, 2});
  unknown_token.add({1, 37});
  negative.add({1, 2});
  negative.position_ids = {0, -1};
  EXPECT_NE(refusal_of(bert, long_text).find("position 20 is beyond the model's 20"), std::string::npos);
  EXPECT_NE(refusal_of(bert, unknown_segment).find("segment id 2"), std::string::npos);
  EXPECT_NE(refusal_of(bert, negative).find("position -1"), std::string::npos);
  EXPECT_NE(refusal_of(bert, unknown_token).find("token id 37"), std::string::npos);
}

TEST(Encoder, RefusesDegreesThatItsHeadsDoNotAllow) {
  Context context = make_cpu_context(1);
  EXPECT_THROW(make_random(context, encoders()[0], {0, 3}), Error);
}

}  // namespace
}  // namespace weft
