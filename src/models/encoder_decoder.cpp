#include "models/encoder_decoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "models/batch_inputs.h"
#include "models/dropout_sites.h"
#include "models/rope_settings.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/rope.h"

namespace weft {
namespace {

/// What is the same for all blocks of one stack in one forward pass.
struct StackPass {
  int64_t num_tokens = 0;
  std::vector<AttentionSpan> spans;        // sequences
  std::vector<AttentionSpan> cross_spans;  // their sources
  int64_t first_source_token = 0;          // of the batch, in the whole step's
  KvCache* cache = nullptr;
  Tensor rope_table;             // of the tokens' positions; undefined where positions are a bias
  std::vector<int32_t> buckets;  // of distances from `lowest` on
  int64_t lowest = 0;
};

/// Dropout of one place.
Tensor drop(Context& context, const Tensor& x, float probability, uint32_t site, int64_t num_tokens) {
  return BranchDropout{probability, site}.forward(context, x, num_tokens);
}

/// A block: norm, attention, residual; the same with the source in decoders; norm, feed-forward, residual. From
/// {residual stream, what the block before adds to it (none before the first), shared tensors…} to {stream, what this
/// one adds}.
struct StackBlock {
  RmsNorm attention_norm, cross_norm, mlp_norm;
  BiasedAttention attention, cross;
  const Parameter* bias_table = nullptr;  // of its own
  OptionallyGatedMlp mlp;
};

class EncoderDecoder final : public LanguageModel {
 public:
  EncoderDecoder(const EncoderDecoderConfig& config, TensorParallelPlace place);

  const ModelInfo& info() const override { return config_.info; }
  Tensor hidden(Context& context, const Batch& batch, KvCache* cache) override;
  Tensor head_input(Context& context, const Tensor& hidden, const Batch* batch) override;
  LanguageModelHead head() const override { return {.weight = head_weight_}; }
  std::vector<NamedLinear> linears() override;

 private:
  struct Stack {
    std::string name;  // "encoder"
    bool is_decoder = false;
    std::vector<StackBlock> blocks;
    const Parameter* bias_table = nullptr;  // that all blocks share
    Linear mapping;                         // E to H
    RmsNorm final_norm;
    int64_t first_block = 0;

    DropoutStack dropout() const { return is_decoder ? DropoutStack::decoder : DropoutStack::first; }
  };

  void add_stack(Stack& stack, int64_t num_layers);
  void add_head();
  StackBlock make_block(const Stack& stack, int64_t layer);
  BiasedAttention make_attention(const std::string& prefix, int64_t layer, bool is_causal, uint32_t site);
  const Parameter* add_bias_table(const std::string& name);
  void check(const Batch& batch, const KvCache* cache) const;

  Tensor begin_stream(Context& context, const Stack& stack, Tensor embedded, int64_t num_tokens) const;
  StackPass start(Context& context, const Stack& stack, const Batch& batch, KvCache* cache) const;
  void add_positions(Context& context, const Stack& stack, int64_t highest, StackPass& pass) const;
  Tensor encode(Context& context, const Batch& batch);
  Tensor run_stack(Context& context,
                   const Stack& stack,
                   Tensor embedded,
                   const Tensor& source,
                   const std::shared_ptr<const StackPass>& pass);
  std::vector<Tensor> run_layer(Context& context,
                                const Stack& stack,
                                size_t layer,
                                const std::vector<Tensor>& inputs,
                                const StackPass& pass) const;
  void cache_sources(Context& context, const Tensor& source, const Batch& batch, KvCache& cache);
  Tensor scaled(Context& context, const Tensor& x) const;
  std::string observed(const Stack& stack, const std::string& what) const;

  EncoderDecoderConfig config_;
  VocabularyEmbedding tokens_;
  Stack encoder_, decoder_;
  Linear output_mapping_;  // H to E
  const Parameter* head_weight_ = nullptr;
};

/// As T5 begins (Mesh TensorFlow; transformers' _init_weights): sums of products of unit variance, and scores of
/// attention that need no 1 / √d.
InitialValue initial_value(const Parameter& parameter, const EncoderDecoderConfig& config) {
  if (parameter.full_shape.rank() == 1) return {};
  auto deviation = [](double fan) { return InitialValue{.deviation = static_cast<float>(1 / std::sqrt(fan))}; };
  auto width = static_cast<double>(config.info.hidden_size);
  if (parameter.name == "shared.weight") {
    return deviation(config.info.tied_embedding && config.output_scale == 1 ? width : 1);
  }
  if (parameter.name.ends_with("relative_attention_bias.weight")) return deviation(width);
  auto inputs = static_cast<double>(parameter.full_shape[1]);
  bool is_query = parameter.name.ends_with("Attention.q.weight");
  return deviation(is_query ? inputs * static_cast<double>(config.info.head_dim) : inputs);
}

EncoderDecoder::EncoderDecoder(const EncoderDecoderConfig& config, TensorParallelPlace place)
    : LanguageModel(place), config_(config) {
  const ModelInfo& info = config_.info;
  embedding_table_ = &parameters_.add(
      "shared.weight", {info.vocab_size, config_.embedding_size}, {ShardKind::vocabulary}, info.tied_embedding);
  tokens_.table = embedding_table_;
  encoder_.name = "encoder";
  decoder_.name = "decoder";
  decoder_.is_decoder = true;
  decoder_.first_block = config_.num_encoder_layers;
  if (config_.num_encoder_layers > 0) add_stack(encoder_, config_.num_encoder_layers);
  if (config_.num_decoder_layers > 0) add_stack(decoder_, config_.num_decoder_layers);
  if (info.has_language_model_head) add_head();
  for (Parameter& parameter : parameters_.all()) parameter.initial = initial_value(parameter, config_);
}

void EncoderDecoder::add_head() {
  const ModelInfo& info = config_.info;
  if (config_.embedding_size != info.hidden_size) {
    output_mapping_ = add_linear(parameters_,
                                 {.name = "decoder.output_mapping",
                                  .out_features = config_.embedding_size,
                                  .in_features = info.hidden_size,
                                  .shard = {},
                                  .with_bias = true,
                                  .partial_gradient = true});
  }
  head_weight_ = embedding_table_;
  if (info.tied_embedding) return;
  head_weight_ = add_linear(parameters_,
                            {.name = "lm_head",
                             .out_features = info.vocab_size,
                             .in_features = config_.embedding_size,
                             .shard = {ShardKind::vocabulary}})
                     .weight;
}

void EncoderDecoder::add_stack(Stack& stack, int64_t num_layers) {
  if (config_.embedding_size != config_.info.hidden_size) {
    stack.mapping = add_linear(parameters_,
                               {.name = stack.name + ".embedding_mapping",
                                .out_features = config_.info.hidden_size,
                                .in_features = config_.embedding_size,
                                .shard = {},
                                .with_bias = true});
  }
  bool shares_table = !config_.has_bias_per_layer && !config_.is_rotary;
  if (shares_table) stack.bias_table = add_bias_table(stack.name + ".block.0");
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    parameters_.set_block(stack.first_block + layer);
    stack.blocks.push_back(make_block(stack, layer));
  }
  parameters_.set_block(kOuterBlock);
  stack.final_norm =
      add_rms_norm_layer(parameters_, stack.name + ".final_layer_norm", config_.info.hidden_size, {.eps = config_.eps});
}

const Parameter* EncoderDecoder::add_bias_table(const std::string& block) {
  int64_t heads = config_.info.num_heads;
  return &parameters_.add(block + ".layer.0.SelfAttention.relative_attention_bias.weight",
                          {config_.num_buckets, heads},
                          {ShardKind::head_columns, heads, heads});
}

StackBlock EncoderDecoder::make_block(const Stack& stack, int64_t layer) {
  const ModelInfo& info = config_.info;
  std::string name = stack.name + ".block." + std::to_string(layer);
  auto norm = [&](int part) {
    return add_rms_norm_layer(
        parameters_, name + ".layer." + std::to_string(part) + ".layer_norm", info.hidden_size, {.eps = config_.eps});
  };
  StackBlock block;
  if (config_.has_bias_per_layer) block.bias_table = add_bias_table(name);
  block.attention_norm = norm(0);
  auto site = [&](BlockDropout place) { return block_dropout_site(layer, place, stack.dropout()); };
  block.attention =
      make_attention(name + ".layer.0.SelfAttention.", layer, stack.is_decoder, site(BlockDropout::attention_weights));
  if (stack.is_decoder) {
    block.cross_norm = norm(1);
    block.cross =
        make_attention(name + ".layer.1.EncDecAttention.", layer, false, site(BlockDropout::cross_attention_weights));
  }
  int last = stack.is_decoder ? 2 : 1;
  block.mlp_norm = norm(last);
  std::string mlp = name + ".layer." + std::to_string(last) + ".DenseReluDense.";
  auto projection = [&](const char* part, int64_t out_features, int64_t in_features, ShardKind kind) {
    return add_linear(parameters_,
                      {.name = mlp + part, .out_features = out_features, .in_features = in_features, .shard = {kind}});
  };
  if (config_.is_gated) block.mlp.gate = projection("wi_0", info.intermediate_size, info.hidden_size, ShardKind::rows);
  block.mlp.up =
      projection(config_.is_gated ? "wi_1" : "wi", info.intermediate_size, info.hidden_size, ShardKind::rows);
  block.mlp.down = projection("wo", info.hidden_size, info.intermediate_size, ShardKind::columns);
  block.mlp.activation = config_.activation;
  return block;
}

BiasedAttention EncoderDecoder::make_attention(const std::string& prefix,
                                               int64_t layer,
                                               bool is_causal,
                                               uint32_t site) {
  const ModelInfo& info = config_.info;
  int64_t heads = info.num_heads;
  int64_t width = heads * info.head_dim;
  auto add = [&](const char* part, int64_t out_features, int64_t in_features, ShardKind kind) {
    return add_linear(parameters_,
                      {.name = prefix + part,
                       .out_features = out_features,
                       .in_features = in_features,
                       .shard = {kind, heads, heads}});
  };
  BiasedAttention attention;
  attention.q = add("q", width, info.hidden_size, ShardKind::heads);
  attention.k = add("k", width, info.hidden_size, ShardKind::heads);
  attention.v = add("v", width, info.hidden_size, ShardKind::heads);
  attention.o = add("o", info.hidden_size, width, ShardKind::head_columns);
  attention.options = {.head_dim = info.head_dim,
                       .mask = {.scale = 1, .causal = is_causal},
                       .dropout = {.probability = config_.attention_dropout,
                                   .site = site,
                                   .head_begin = kv_head_range(heads, parameters_.place()).begin,
                                   .global_heads = heads}};
  attention.layer = layer;
  return attention;
}

void EncoderDecoder::check(const Batch& batch, const KvCache* cache) const {
  check_token_ids(batch.ids, config_.info.vocab_size);
  check_token_ids(batch.source_ids, config_.info.vocab_size);
  if (config_.num_decoder_layers == 0) {
    if (cache != nullptr) fail_input("{} without its decoder cannot generate", config_.info.family);
    return;
  }
  for (const BatchSource& source : batch.sources) {
    if (source.length < 1) fail_input("a source without tokens was given to {}", config_.info.family);
  }
  if (cache == nullptr && batch.sources.size() != batch.sequences.size()) {
    fail_input("{} continues from sources: {} were given for {} sequences",
               config_.info.family,
               batch.sources.size(),
               batch.sequences.size());
  }
  if (config_.num_encoder_layers == 0 && !batch.source_states.defined() && !batch.sources.empty()) {
    fail_input("{} without its encoder takes the states of sources, not their tokens", config_.info.family);
  }
}

std::string EncoderDecoder::observed(const Stack& stack, const std::string& what) const {
  bool is_alone = config_.num_decoder_layers == 0;
  return is_alone ? what : stack.name + "_" + what;
}

/// What a stack makes of its embedded tokens before its first block.
Tensor EncoderDecoder::begin_stream(Context& context, const Stack& stack, Tensor embedded, int64_t num_tokens) const {
  if (stack.mapping.weight != nullptr) embedded = linear(context, embedded, stack.mapping.parameters());
  return drop(context, embedded, config_.dropout, embedding_dropout_site(stack.dropout()), num_tokens);
}

StackPass EncoderDecoder::start(Context& context, const Stack& stack, const Batch& batch, KvCache* cache) const {
  StackPass pass;
  int64_t highest = 0;
  if (!stack.is_decoder) {
    bool is_alone = config_.num_decoder_layers == 0;
    pass.num_tokens = static_cast<int64_t>(is_alone ? batch.ids.size() : batch.source_ids.size());
    auto add_span = [&](int64_t begin, int64_t length) {
      pass.spans.push_back({.begin = begin, .length = length});
      highest = std::max(highest, length - 1);
    };
    if (is_alone) {
      for (const BatchSequence& sequence : batch.sequences) add_span(sequence.begin, sequence.length);
    } else {
      for (const BatchSource& source : batch.sources) add_span(source.begin, source.length);
    }
    pass.lowest = -highest;
  } else {
    pass.num_tokens = batch.num_tokens();
    pass.cache = cache;
    pass.first_source_token = batch.first_source_token;
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      const BatchSequence& sequence = batch.sequences[s];
      AttentionSpan span{
          .begin = sequence.begin, .length = sequence.length, .past = sequence.past, .slot = sequence.slot};
      pass.spans.push_back(span);
      span.slot = cache != nullptr ? sequence.source_slot : 0;
      span.key_count = cache != nullptr ? sequence.source_length : batch.sources[s].length;
      span.key_begin = cache != nullptr ? 0 : batch.sources[s].begin;
      pass.cross_spans.push_back(span);
      pass.lowest = std::min(pass.lowest, 1 - sequence.past - sequence.length);
      highest = std::max(highest, sequence.length - 1);
      if (config_.has_cross_bias) highest = std::max(highest, span.key_count - 1);
    }
  }
  add_positions(context, stack, highest, pass);
  return pass;
}

void EncoderDecoder::add_positions(Context& context, const Stack& stack, int64_t highest, StackPass& pass) const {
  if (!config_.is_rotary) {
    DistanceBuckets buckets{.num_buckets = config_.num_buckets,
                            .max_distance = config_.max_distance,
                            .is_bidirectional = !stack.is_decoder};
    pass.buckets = buckets.buckets(pass.lowest, highest);
    return;
  }
  std::vector<int32_t> positions(static_cast<size_t>(pass.num_tokens));
  for (const AttentionSpan& span : pass.spans) {
    auto begin = positions.begin() + span.begin;
    std::iota(begin, begin + span.length, static_cast<int32_t>(span.past));
  }
  pass.rope_table =
      rope_table(context, positions, rope_frequencies({}, config_.info.head_dim), embedding_table_->value.dtype());
}

std::vector<Tensor> EncoderDecoder::run_layer(Context& context,
                                              const Stack& stack,
                                              size_t layer,
                                              const std::vector<Tensor>& inputs,
                                              const StackPass& pass) const {
  const StackBlock& block = stack.blocks[layer];
  // {stream}, then {stream, branch}; behind them the bias that all blocks share and the source.
  size_t shared = layer == 0 ? 1 : 2;
  ResidualNorm first = layer == 0 ? block.attention_norm.forward_pass(context, inputs[0])
                                  : block.attention_norm.forward_add(context, inputs[1], inputs[0]);
  if (layer > 0) context.observe(observed(stack, "hidden/" + std::to_string(layer)), first.sum);
  DistanceBias bias;
  if (block.bias_table != nullptr) {
    bias = distance_bias(context, block.bias_table->value, pass.buckets, pass.lowest);
  } else if (stack.bias_table != nullptr) {
    bias = {.values = inputs[shared++], .zero = -pass.lowest};
  }
  auto dropped = [&](const Tensor& x, BlockDropout place) {
    uint32_t site = block_dropout_site(static_cast<int64_t>(layer), place, stack.dropout());
    return drop(context, x, config_.dropout, site, pass.num_tokens);
  };
  Tensor attended =
      block.attention.forward(context, first.normed, pass.num_tokens, pass.spans, bias, pass.rope_table, pass.cache);
  attended = dropped(attended, BlockDropout::attention);
  ResidualNorm middle;
  if (stack.is_decoder) {
    middle = block.cross_norm.forward_add(context, attended, first.sum);
    const DistanceBias none;
    bool has_cross_bias = pass.cache == nullptr ? config_.has_cross_bias : config_.has_cached_cross_bias;
    const DistanceBias& cross_bias = has_cross_bias ? bias : none;
    Tensor crossed;
    if (pass.cache != nullptr) {
      crossed = block.cross.forward_cached_cross(
          context, middle.normed, pass.num_tokens, pass.cross_spans, cross_bias, *pass.cache);
    } else {
      Context numbered = context;
      numbered.first_token = pass.first_source_token;
      BiasedAttention::SourceKeys source = block.cross.project(numbered, inputs[shared]);
      crossed =
          block.cross.forward_cross(context, middle.normed, pass.num_tokens, pass.cross_spans, cross_bias, source);
    }
    attended = dropped(crossed, BlockDropout::cross_attention);
  } else {
    middle.sum = first.sum;
  }
  ResidualNorm last = block.mlp_norm.forward_add(context, attended, middle.sum);
  Tensor branch = dropped(block.mlp.forward(context, last.normed, pass.num_tokens), BlockDropout::feed_forward);
  return {last.sum, branch};
}

Tensor EncoderDecoder::run_stack(Context& context,
                                 const Stack& stack,
                                 Tensor embedded,
                                 const Tensor& source,
                                 const std::shared_ptr<const StackPass>& pass) {
  context.observe(observed(stack, "hidden/0"), embedded);
  std::vector<Tensor> shared;
  if (stack.bias_table != nullptr) {
    shared.push_back(distance_bias(context, stack.bias_table->value, pass->buckets, pass->lowest).values);
  }
  if (source) shared.push_back(source);
  std::vector<Tensor> stream = {std::move(embedded)};
  for (size_t layer = 0; layer < stack.blocks.size(); ++layer) {
    auto block = stack.first_block + static_cast<int64_t>(layer);
    std::vector<Tensor> inputs = stream;
    inputs.insert(inputs.end(), shared.begin(), shared.end());
    stream = run_block(
        context, block, inputs, [this, &stack, layer, pass](Context& running, const std::vector<Tensor>& given) {
          return run_layer(running, stack, layer, given, *pass);
        });
  }
  ResidualNorm last = stack.final_norm.forward_add(context, stream[1], stream[0]);
  context.observe(observed(stack, "hidden/" + std::to_string(stack.blocks.size())), last.sum);
  context.observe(observed(stack, "final"), last.normed);
  Tensor out = drop(context, last.normed, config_.dropout, output_dropout_site(stack.dropout()), pass->num_tokens);
  return enter_tensor_parallel(context, out, pass->num_tokens);
}

/// What the encoder makes of the sources, inside the tensor-parallel region.
Tensor EncoderDecoder::encode(Context& context, const Batch& batch) {
  if (batch.source_states) {
    const Tensor& states = batch.source_states;
    return enter_tensor_parallel(
        context, context.sequence_parallel ? split_tokens_to_tp(context, states) : states, states.size(0));
  }
  auto pass = std::make_shared<const StackPass>(start(context, encoder_, batch, nullptr));
  Context numbered = context;
  numbered.first_token = batch.first_source_token;
  Tensor embedded = tokens_.forward(numbered, batch.source_ids, 1);
  return run_stack(numbered, encoder_, begin_stream(numbered, encoder_, embedded, pass->num_tokens), {}, pass);
}

void EncoderDecoder::cache_sources(Context& context, const Tensor& source, const Batch& batch, KvCache& cache) {
  std::vector<AttentionSpan> spans;
  for (const BatchSource& one : batch.sources) {
    spans.push_back({.begin = one.begin, .length = one.length, .slot = one.slot});
  }
  for (StackBlock& block : decoder_.blocks) {
    BiasedAttention::SourceKeys projected = block.cross.project(context, source);
    write_attention_cache(context, projected.keys, cache.source_keys(block.cross.layer), spans);
    write_attention_cache(context, projected.values, cache.source_values(block.cross.layer), spans);
  }
}

Tensor EncoderDecoder::hidden(Context& context, const Batch& batch, KvCache* cache) {
  check(batch, cache);
  auto run = [&](const Stack& stack, const Tensor& source) {
    auto pass = std::make_shared<const StackPass>(start(context, stack, batch, cache));
    Tensor embedded = add_embedding_offset(context, tokens_.forward(context, batch.ids, 1), batch);
    return run_stack(context, stack, begin_stream(context, stack, embedded, pass->num_tokens), source, pass);
  };
  if (config_.num_decoder_layers == 0) return run(encoder_, {});
  Tensor source;
  if (!batch.sources.empty()) source = encode(context, batch);
  if (cache != nullptr && source) {
    cache_sources(context, source, batch, *cache);
    source = {};
  }
  Tensor out = run(decoder_, source);
  return config_.info.has_language_model_head ? out : scaled(context, out);
}

Tensor EncoderDecoder::scaled(Context& context, const Tensor& x) const {
  return config_.output_scale == 1 ? x : scale(context, x, config_.output_scale);
}

Tensor EncoderDecoder::head_input(Context& context, const Tensor& hidden, const Batch* /*batch*/) {
  Tensor x = scaled(context, hidden);
  return output_mapping_.weight == nullptr ? x : linear(context, x, output_mapping_.parameters());
}

std::vector<NamedLinear> EncoderDecoder::linears() {
  std::vector<NamedLinear> result;
  auto add_named = [&](Linear& linear) {
    if (linear.weight != nullptr) result.push_back(named_linear(linear));
  };
  for (Stack* stack : {&encoder_, &decoder_}) {
    for (StackBlock& block : stack->blocks) {
      for (BiasedAttention* attention : {&block.attention, &block.cross}) {
        for (Linear* linear : {&attention->q, &attention->k, &attention->v, &attention->o}) add_named(*linear);
      }
      for (Linear* linear : {&block.mlp.gate, &block.mlp.up, &block.mlp.down}) add_named(*linear);
    }
  }
  return result;
}

}  // namespace

std::unique_ptr<LanguageModel> make_encoder_decoder(const EncoderDecoderConfig& config, TensorParallelPlace place) {
  return std::make_unique<EncoderDecoder>(config, place);
}

}  // namespace weft
