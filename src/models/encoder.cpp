#include "models/encoder.h"

#include <algorithm>
#include <deque>

#include "core/error.h"
#include "models/batch_inputs.h"
#include "models/dropout_sites.h"
#include "models/encoder_block.h"
#include "models/rope_settings.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/rope.h"

namespace weft {
namespace {

class Encoder final : public LanguageModel {
 public:
  Encoder(const EncoderConfig& config, TensorParallelPlace place);

  const ModelInfo& info() const override { return config_.info; }
  Tensor hidden(Context& context, const Batch& batch, KvCache* cache) override;
  Tensor head_input(Context& context, const Tensor& hidden, const Batch* batch) override;
  Tensor pooled(Context& context, const Tensor& hidden, const Batch& batch) override;
  Tensor pair_logits(Context& context, const Tensor& pooled) override;
  Tensor replaced_logits(Context& context, const Tensor& hidden) override;
  Tensor task_logits(Context& context, const Tensor& hidden, const Batch& batch) override;
  Tensor task_transitions() const override { return transitions_ == nullptr ? Tensor() : transitions_->value; }
  LanguageModelHead head() const override { return {.weight = head_weight_, .bias = head_bias_}; }
  std::vector<NamedLinear> linears() override;
  KvCacheShape kv_cache_shape(DType dtype) const override;

 private:
  void add_embedding();
  void add_blocks();
  void add_heads();
  void add_task_head();
  Tensor classifier_input(Context& context, const Tensor& hidden, const Batch& batch);
  Linear add_head_linear(const std::string& name, int64_t out_features, int64_t in_features, bool is_task_head = false);
  void add_condition();
  void check(const Batch& batch, const KvCache* cache) const;
  Tensor conditions(Context& context, const Batch& batch) const;
  EncoderPass start(Context& context, const Batch& batch, KvCache* cache) const;
  Tensor make_rope_table(Context& context, const std::vector<int32_t>& positions) const;
  std::vector<int32_t> visible_keys(const Batch& batch, const BatchSequence& sequence) const;
  Tensor embed(Context& context, const Batch& batch, const EncoderPass& pass) const;
  Tensor add_positions(Context& context, Tensor x, const EncoderPass& pass) const;

  EncoderConfig config_;
  VocabularyEmbedding tokens_;
  const Parameter* segments_ = nullptr;
  const Parameter* positions_ = nullptr;
  const Parameter* condition_table_ = nullptr;  // of labels
  PostNorm embedding_norm_, final_norm_;
  Linear mapping_;  // E to H; without weight where they are equal
  std::shared_ptr<const RelativePositions> relative_;
  std::vector<std::unique_ptr<EncoderBlock>> blocks_;
  Linear pooler_, pair_head_, replaced_dense_, replaced_head_, task_dense_, task_layer_;
  const Parameter* transitions_ = nullptr;
  Linear head_dense_;  // of the transform, or H to E without one
  PostNorm head_norm_;
  const Parameter* head_weight_ = nullptr;
  const Parameter* head_bias_ = nullptr;
};

Encoder::Encoder(const EncoderConfig& config, TensorParallelPlace place) : LanguageModel(place), config_(config) {
  add_embedding();
  add_condition();
  add_blocks();
  if (config_.has_final_norm) {
    final_norm_ =
        add_post_norm(parameters_, config_, config_.prefix + ".final_norm", config_.info.hidden_size, config_.eps);
  }
  add_heads();
  for (Parameter& parameter : parameters_.all()) {
    parameter.name = renamed(config_.names, parameter, config_.info.num_layers);
  }
}

void Encoder::add_embedding() {
  const ModelInfo& info = config_.info;
  std::string name = config_.prefix + ".embeddings.";
  int64_t width = config_.embedding_size;
  embedding_table_ = &parameters_.add(
      name + "word_embeddings.weight", {info.vocab_size, width}, {ShardKind::vocabulary}, info.has_language_model_head);
  tokens_.table = embedding_table_;
  if (info.num_segments > 0 && !config_.segments_in_token_table) {
    segments_ = &parameters_.add(name + "token_type_embeddings.weight", {info.num_segments, width});
  }
  if (config_.positions == AbsolutePositions::learned || config_.positions == AbsolutePositions::hierarchical) {
    positions_ =
        &parameters_.add(name + "position_embeddings.weight", {info.max_positions + config_.first_position_row, width});
  }
  if (config_.has_embedding_norm) {
    embedding_norm_ = add_post_norm(parameters_, config_, name + "LayerNorm", width, config_.embedding_eps);
  }
  if (width != info.hidden_size) {
    mapping_ = add_linear(parameters_,
                          {.name = config_.prefix + ".embeddings_project",
                           .out_features = info.hidden_size,
                           .in_features = width,
                           .shard = {},
                           .with_bias = config_.has_bias});
  }
  if (config_.make_relative) relative_ = config_.make_relative(parameters_, config_);
}

void Encoder::add_condition() {
  const ConditionConfig& condition = config_.info.condition;
  if (condition.labels.empty()) return;
  Parameter& table =
      parameters_.add("condition.embedding.weight", {static_cast<int64_t>(condition.labels.size()), condition.width});
  table.is_task_head = condition.is_new;
  constexpr float kKerasDeviation = 0.0289f;  // of uniform numbers up to 0.05
  table.initial = {.deviation = kKerasDeviation};
  condition_table_ = &table;
}

void Encoder::add_blocks() {
  auto make = [&](int64_t layer) {
    return config_.make_block ? config_.make_block(parameters_, config_, layer)
                              : make_post_norm_block(parameters_, config_, relative_, layer);
  };
  if (config_.shares_blocks) {
    blocks_.push_back(make(-1));
    return;
  }
  for (int64_t layer = 0; layer < config_.info.num_layers; ++layer) {
    parameters_.set_block(layer);
    blocks_.push_back(make(layer));
  }
  parameters_.set_block(kOuterBlock);
}

/// Every rank computes the whole of it, and in backward sees a part of its gradient.
Linear Encoder::add_head_linear(const std::string& name, int64_t out_features, int64_t in_features, bool is_task_head) {
  Linear linear = add_linear(parameters_,
                             {.name = name,
                              .out_features = out_features,
                              .in_features = in_features,
                              .shard = {},
                              .with_bias = config_.has_bias || is_task_head,
                              .partial_gradient = true});
  for (const char* part : {".weight", ".bias"}) {
    if (Parameter* parameter = parameters_.find(name + part)) parameter->is_task_head = is_task_head;
  }
  return linear;
}

void Encoder::add_heads() {
  int64_t hidden = config_.info.hidden_size;
  int64_t width = config_.embedding_size;
  if (config_.has_pooler) {
    pooler_ = add_head_linear(config_.prefix + ".pooler.dense", hidden, hidden, config_.has_new_pooler);
  }
  if (config_.has_pair_head) pair_head_ = add_head_linear("cls.seq_relationship", 2, hidden);
  if (config_.has_replaced_head) {
    replaced_dense_ = add_head_linear("discriminator_predictions.dense", hidden, hidden);
    replaced_head_ = add_head_linear("discriminator_predictions.dense_prediction", 1, hidden);
  }
  add_task_head();
  if (!config_.info.has_language_model_head) return;
  head_weight_ = embedding_table_;
  if (config_.has_head_transform) {
    head_dense_ = add_head_linear("cls.predictions.transform.dense", width, hidden);
    head_norm_ =
        add_post_norm(parameters_, config_, "cls.predictions.transform.LayerNorm", width, config_.head_eps, true);
  } else if (width != hidden) {
    head_dense_ = add_head_linear("cls.predictions.mapping", width, hidden);
  }
  if (config_.has_head_bias) {
    head_bias_ = &parameters_.add("cls.predictions.bias", {config_.info.vocab_size}, {ShardKind::vocabulary});
  }
}

void Encoder::add_task_head() {
  const TaskHead& head = config_.info.task_head;
  auto labels = static_cast<int64_t>(head.labels.size());
  auto add = [&](const std::string& name, int64_t outputs) {
    task_layer_ = add_head_linear(name, outputs, config_.info.hidden_size, true);
  };
  switch (head.kind) {
    case TaskHead::Kind::none:
      return;
    case TaskHead::Kind::question_answering:
      return add("qa_outputs", 2);
    case TaskHead::Kind::global_pointer:
      return add("global_pointer.dense", labels * 2 * head.pointer_size);
    case TaskHead::Kind::relations:
      return add("relations.dense", (2 + 2 * labels) * 2 * head.pointer_size);
    case TaskHead::Kind::sequence_classification:
      if (!config_.classifier.dense.empty()) {
        int64_t hidden = config_.info.hidden_size;
        task_dense_ = add_head_linear(config_.classifier.dense, hidden, hidden, true);
      }
      return add(config_.classifier.output, labels);
    default:
      add("classifier", labels);
  }
  if (head.kind != TaskHead::Kind::crf) return;
  Parameter& transitions = parameters_.add("crf.transitions", {labels, labels});
  transitions.is_task_head = true;
  transitions.partial_gradient = true;
  transitions_ = &transitions;
}

void Encoder::check(const Batch& batch, const KvCache* cache) const {
  const ModelInfo& info = config_.info;
  check_token_ids(batch.ids, info.vocab_size);
  int64_t segments = config_.segments_in_token_table ? info.vocab_size : std::max<int64_t>(info.num_segments, 1);
  for (int32_t segment : batch.segment_ids) {
    if (segment < 0 || (info.num_segments > 1 && segment >= segments)) {
      fail_input("segment id {} is outside the model's {} segments", segment, segments);
    }
  }
  if (cache != nullptr && info.attention == AttentionPattern::bidirectional) {
    fail_input(
        "{} is an encoder whose tokens see what comes after them; to generate with it say --application lm or "
        "unilm",
        info.family);
  }
  WEFT_ASSERT(batch.segment_ids.empty() || batch.segment_ids.size() == batch.ids.size());
  WEFT_ASSERT(batch.position_ids.empty() || batch.position_ids.size() == batch.ids.size());
}

Tensor Encoder::conditions(Context& context, const Batch& batch) const {
  return conditions_of(context, config_.info.condition, condition_table_, batch, tokens_.table->value.dtype());
}

Tensor Encoder::make_rope_table(Context& context, const std::vector<int32_t>& positions) const {
  DType dtype = tokens_.table->value.dtype();
  int64_t width = config_.info.head_dim;
  if (config_.rotary_table == nullptr) return rope_table(context, positions, rope_frequencies({}, width), dtype);
  DType table_dtype = dtype == DType::f64 ? DType::f64 : DType::f32;
  Tensor table = context.empty({static_cast<int64_t>(positions.size()), width}, table_dtype);
  std::vector<float> rows;
  for (int32_t position : positions) {
    if (position < 0 || position >= config_.info.max_positions) {
      fail_input("position {} is beyond the {} of the checkpoint's rotary table; give shorter texts",
                 position,
                 config_.info.max_positions);
    }
    auto sines = config_.rotary_table->begin() + position * width;
    rows.insert(rows.end(), sines + width / 2, sines + width);
    rows.insert(rows.end(), sines, sines + width / 2);
  }
  table.set_values(rows.data(), DType::f32);
  return table;
}

/// Query i of a sequence sees the first keys up to the last one whose rank (running sum of segments, or the segment
/// itself) is not above its own.
std::vector<int32_t> Encoder::visible_keys(const Batch& batch, const BatchSequence& sequence) const {
  std::vector<int32_t> ranks;
  int32_t sum = 0;
  for (int64_t i = 0; i < sequence.length; ++i) {
    int32_t segment = batch.segment_ids.empty() ? 0 : batch.segment_ids[static_cast<size_t>(sequence.begin + i)];
    sum += segment;
    if (config_.segment_attention && !ranks.empty() && segment < ranks.back()) {
      fail_input("segment_attention needs segments in rising order; {} follows {}", segment, ranks.back());
    }
    ranks.push_back(config_.segment_attention ? segment : sum);
  }
  std::vector<int32_t> visible(ranks.size());
  size_t end = ranks.size();
  for (size_t i = ranks.size(); i-- > 0;) {
    if (i + 1 < ranks.size() && ranks[i] != ranks[i + 1]) end = i + 1;
    visible[i] = static_cast<int32_t>(sequence.past + static_cast<int64_t>(end));
  }
  return visible;
}

EncoderPass Encoder::start(Context& context, const Batch& batch, KvCache* cache) const {
  EncoderPass pass;
  pass.num_tokens = batch.num_tokens();
  pass.cache = cache;
  pass.condition = conditions(context, batch);
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const BatchSequence& sequence = batch.sequences[s];
    pass.spans.push_back(
        {.begin = sequence.begin, .length = sequence.length, .past = sequence.past, .slot = sequence.slot});
    if (config_.info.attention == AttentionPattern::prefix) {
      pass.spans.back().visible_keys = visible_keys(batch, sequence);
    }
    for (int64_t i = 0; i < sequence.length; ++i) {
      pass.positions.push_back(static_cast<int32_t>(sequence.past + i));
      pass.sequence_of.push_back(static_cast<int32_t>(s));
    }
  }
  if (!batch.position_ids.empty()) pass.positions = batch.position_ids;
  if (config_.positions == AbsolutePositions::rotary) {
    pass.rope_table = make_rope_table(context, pass.positions);
  }
  pass.sequence_of = rows_of_rank(context, std::move(pass.sequence_of), 0);
  return pass;
}

Tensor Encoder::add_positions(Context& context, Tensor x, const EncoderPass& pass) const {
  int64_t rows = config_.info.max_positions;
  bool is_hierarchical = config_.positions == AbsolutePositions::hierarchical;
  int64_t limit = is_hierarchical ? rows * rows : rows;
  for (int32_t position : pass.positions) {
    if (position >= 0 && position < limit) continue;
    fail_input("position {} is beyond the model's {}; give shorter texts", position, limit);
  }
  std::vector<int32_t> all_rows = pass.positions;
  for (int32_t& row : all_rows) row += static_cast<int32_t>(config_.first_position_row);
  std::vector<int32_t> mine = rows_of_rank(context, std::move(all_rows), -1);
  const Tensor& table = positions_->value;
  if (!is_hierarchical) return add(context, x, embedding(context, table, mine, 0, 1));
  // u = (P − αP₀) / (1 − α); a position is αu[p / N] + (1 − α)u[p mod N] (Su, "Hierarchical decomposition of position
  // embeddings", 2020): P[p mod N] + α/(1 − α)·(P[p / N] − P₀).
  auto factor = static_cast<float>(config_.hierarchical_alpha / (1 - config_.hierarchical_alpha));
  std::vector<int32_t> high, low, first;
  for (int32_t position : mine) {
    auto size = static_cast<int32_t>(rows);
    low.push_back(position < 0 ? -1 : position % size);
    high.push_back(position < 0 ? -1 : position / size);
    first.push_back(position < 0 ? -1 : 0);
  }
  x = add(context, x, embedding(context, table, low, 0, 1));
  x = add(context, x, embedding(context, table, high, 0, factor));
  return add(context, x, embedding(context, table, first, 0, -factor));
}

Tensor Encoder::embed(Context& context, const Batch& batch, const EncoderPass& pass) const {
  Tensor x = add_embedding_offset(context, tokens_.forward(context, batch.ids, 1), batch);
  // A model's only segment is that of second texts too.
  std::vector<int32_t> segments(batch.ids.size());
  if (config_.info.num_segments > 1 && !batch.segment_ids.empty()) segments = batch.segment_ids;
  if (config_.info.num_segments > 0 && config_.segments_in_token_table) {
    x = add(context, x, tokens_.forward(context, segments, 1));
  } else if (segments_ != nullptr) {
    x = add(context, x, embedding(context, segments_->value, rows_of_rank(context, segments, -1), 0, 1));
  }
  if (positions_ != nullptr) x = add_positions(context, x, pass);
  BranchDropout drop{config_.dropout, embedding_dropout_site()};
  if (config_.dropout_before_embedding_norm) x = drop.forward(context, x, pass.num_tokens);
  if (config_.has_embedding_norm) x = embedding_norm_.forward(context, x, pass);
  if (!config_.dropout_before_embedding_norm) x = drop.forward(context, x, pass.num_tokens);
  return mapping_.weight == nullptr ? x : linear(context, x, mapping_.parameters());
}

Tensor Encoder::hidden(Context& context, const Batch& batch, KvCache* cache) {
  check(batch, cache);
  auto pass = std::make_shared<const EncoderPass>(start(context, batch, cache));
  std::vector<Tensor> stream = {embed(context, batch, *pass)};
  bool has_shared = relative_ != nullptr && relative_->has_shared();
  if (has_shared) stream.push_back(relative_->shared(context));
  context.observe("hidden/0", stream[0]);
  for (int64_t layer = 0; layer < config_.info.num_layers; ++layer) {
    const EncoderBlock& block = *blocks_[config_.shares_blocks ? 0 : static_cast<size_t>(layer)];
    std::vector<Tensor> results =
        run_block(context, layer, stream, [&block, pass, layer](Context& running, const std::vector<Tensor>& inputs) {
          return block.forward(running, inputs, *pass, layer);
        });
    stream.resize(has_shared ? 2 : 1);
    stream[0] = results[0];
    if (results.size() > 1) stream.push_back(results[1]);
    context.observe("hidden/" + std::to_string(layer + 1), stream[0]);
  }
  if (config_.has_final_norm) stream[0] = final_norm_.forward(context, stream[0], *pass);
  context.observe("final", stream[0]);
  return enter_tensor_parallel(context, stream[0], batch.num_tokens());
}

Tensor Encoder::head_input(Context& context, const Tensor& hidden, const Batch* batch) {
  if (head_dense_.weight == nullptr) return hidden;
  Tensor x = linear(context, hidden, head_dense_.parameters());
  if (!config_.has_head_transform) return x;
  x = activation(context, x, config_.head_activation);
  EncoderPass pass;
  if (config_.info.condition.is_there()) {
    WEFT_ASSERT(batch != nullptr && batch->num_tokens() == hidden.size(0), "a conditional norm wants the batch");
    pass.condition = conditions(context, *batch);
    // The blocks' norms, outside of tensor-parallel regions, give the whole gradient of what this one gives a part of.
    if (!context.sequence_parallel) pass.condition = copy_to_tp(context, pass.condition);
    for (size_t s = 0; s < batch->sequences.size(); ++s) {
      pass.sequence_of.insert(
          pass.sequence_of.end(), static_cast<size_t>(batch->sequences[s].length), static_cast<int32_t>(s));
    }
  }
  x = head_norm_.forward(context, x, pass);
  context.observe("mlm_hidden", x);
  return x;
}

Tensor Encoder::pooled(Context& context, const Tensor& hidden, const Batch& batch) {
  if (pooler_.weight == nullptr) return {};
  Tensor x = linear(context, gather_rows(context, hidden, batch.first_tokens()), pooler_.parameters());
  return activation(context, x, config_.pool_activation);
}

Tensor Encoder::classifier_input(Context& context, const Tensor& hidden, const Batch& batch) {
  if (task_dense_.weight == nullptr) return sequence_vectors(context, hidden, batch);
  Tensor x = gather_rows(context, hidden, batch.first_tokens());
  float rate = config_.info.task_head.dropout;
  if (rate > 0 && config_.classifier.drops_input) {
    Context numbered = context;
    numbered.first_token = batch.first_sequence;
    x = dropout(numbered, x, rate, {.site = kTaskDenseDropoutSite, .global_width = x.size(1)});
  }
  return activation(context, linear(context, x, task_dense_.parameters()), config_.classifier.activation);
}

Tensor Encoder::task_logits(Context& context, const Tensor& hidden, const Batch& batch) {
  const TaskHead& head = config_.info.task_head;
  if (task_layer_.weight == nullptr) return {};
  bool is_of_sequences = head.kind == TaskHead::Kind::sequence_classification;
  Tensor x = is_of_sequences ? classifier_input(context, hidden, batch) : hidden;
  if (head.dropout > 0) {
    Context numbered = context;  // rows are tokens or sequences
    if (is_of_sequences) numbered.first_token = batch.first_sequence;
    x = dropout(numbered, x, head.dropout, {.site = kTaskDropoutSite, .global_width = x.size(1)});
  }
  return linear(context, x, task_layer_.parameters());
}

Tensor Encoder::pair_logits(Context& context, const Tensor& pooled) {
  if (pair_head_.weight == nullptr) return {};
  return linear(context, pooled, pair_head_.parameters());
}

Tensor Encoder::replaced_logits(Context& context, const Tensor& hidden) {
  if (replaced_head_.weight == nullptr) return {};
  Tensor x = activation(context, linear(context, hidden, replaced_dense_.parameters()), config_.head_activation);
  return linear(context, x, replaced_head_.parameters());
}

std::vector<NamedLinear> Encoder::linears() {
  std::vector<NamedLinear> result;
  for (const std::unique_ptr<EncoderBlock>& block : blocks_) {
    for (Linear* linear : block->linears()) {
      result.push_back(named_linear(*linear));
    }
  }
  return result;
}

KvCacheShape Encoder::kv_cache_shape(DType dtype) const {
  RelativeAttentionOptions options = attention_options(config_, parameters_.place());
  return {.num_layers = config_.info.num_layers,
          .num_kv_heads = options.num_kv_heads,
          .head_dim = options.head_dim,
          .value_head_dim = options.value_dim,
          .dtype = dtype};
}

}  // namespace

std::unique_ptr<LanguageModel> make_encoder(const EncoderConfig& config, TensorParallelPlace place) {
  return std::make_unique<Encoder>(config, place);
}

}  // namespace weft
