// RWKV-6 (Peng et al., "Eagle and Finch: RWKV with matrix-valued states and dynamic recurrence", 2024): a recurrent
// model whose blocks mix a token with the one before it and with a state of constant size.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/batch_inputs.h"
#include "models/family.h"
#include "models/initial_state.h"
#include "models/model_config.h"
#include "models/registry.h"
#include "models/rwkv6_weights.h"
#include "nn/rwkv_layers.h"
#include "ops/collective.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr double kNormEps = 1e-5;

struct Rwkv6Config {
  ModelInfo info;
  int64_t mix_rank = 32;    // of what the data say about mixing
  int64_t decay_rank = 64;  // and about decay
  float dropout = 0;
  /// bert4keras3's files hold a second weight and bias inside each head's norm.
  bool has_inner_norm = false;
  /// bert4keras3: id 0 is padding wherever it stands and leaves the state as it is.
  bool skips_zero = false;
};

class Rwkv6 final : public LanguageModel {
 public:
  Rwkv6(const Rwkv6Config& config, TensorParallelPlace place);

  const ModelInfo& info() const override { return config_.info; }
  Tensor hidden(Context& context, const Batch& batch, KvCache* cache) override;
  LanguageModelHead head() const override { return {.weight = head_weight_}; }
  std::vector<NamedLinear> linears() override;
  KvCacheShape kv_cache_shape(DType dtype) const override;

 private:
  struct Block {
    LayerNorm time_norm, channel_norm;
    TimeMix time_mix;
    ChannelMix channel_mix;
  };

  Block make_block(int64_t layer);
  void add_initial_state(const std::string& name, Block& block);
  TimeMix make_time_mix(const std::string& name);
  ChannelMix make_channel_mix(const std::string& name);
  RecurrentPass start(const Batch& batch, KvCache* cache) const;
  const Parameter* add_vector(const std::string& name, int64_t width, Shard shard = {});

  Rwkv6Config config_;
  VocabularyEmbedding embedding_;
  LayerNorm embedding_norm_, final_norm_;
  std::vector<Block> blocks_;
  const Parameter* head_weight_ = nullptr;
};

/// As BlinkDL's trainer begins (RWKV-LM, RWKV-v5/src/model.py), with normal numbers of the same deviation in place of
/// orthogonal matrices and uniform numbers. Blocks that change nothing at first, decays from thousands of tokens to
/// one.
InitialValue initial_value(const Parameter& parameter, const ModelInfo& info) {
  auto width = static_cast<double>(info.hidden_size);
  auto layers = static_cast<double>(info.num_layers), layer = static_cast<double>(parameter.block);
  double depth = layers > 1 ? layer / (layers - 1) : 0;  // 0 … 1
  double power = 1 - layer / layers;                     // 1 … nearly 0
  auto ends_with_any = [&](std::initializer_list<std::string_view> ends) {
    return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return parameter.name.ends_with(end); });
  };
  auto exactly = [](auto centre) {
    return InitialValue{.deviation = 0,
                        .centre = [centre](int64_t i) { return static_cast<float>(centre(static_cast<double>(i))); }};
  };
  auto mix = [&](double exponent, double offset) {
    return exactly([=](double i) { return 1 - (std::pow(i / width, exponent) + offset); });
  };
  if (ends_with_any({"mix_x", "ffn.mix_k", "ffn.mix_r", "mix_w.up.bias", "mix_k.up.bias"})) return mix(power, 0);
  if (ends_with_any({"mix_v.up.bias"})) return mix(power, 0.3 * depth);
  if (ends_with_any({"mix_r.up.bias", "mix_g.up.bias"})) return mix(0.5 * power, 0);
  if (ends_with_any({"decay.up.bias"})) {
    return exactly([=](double i) { return -6 + 5 * std::pow(i / (width - 1), 0.7 + 1.3 * depth); });
  }
  if (ends_with_any({"att.bonus"})) {
    return exactly([=](double i) { return depth * (1 - i / (width - 1)) + (std::fmod(i + 1, 3) - 1) * 0.1; });
  }
  if (ends_with_any({"ln_x.weight"})) return exactly([=](double) { return std::pow((1 + layer) / layers, 0.7); });
  if (ends_with_any({"att.output.weight", "ffn.value.weight", "ffn.receptance.weight", ".down.weight"})) {
    return {.deviation = 0};
  }
  if (parameter.is_task_head) return {.deviation = 0};
  if (parameter.full_shape.rank() == 1) return {};
  constexpr double kUniform = 0.57735026918962576;  // the deviation of uniform numbers up to 1
  auto deviation = [](double value) { return InitialValue{.deviation = static_cast<float>(value)}; };
  if (ends_with_any({".up.weight"})) return deviation(0.01 * kUniform);
  if (parameter.name == "emb.weight") return deviation(1e-4 * kUniform);
  if (parameter.name == "head.weight") return deviation(0.5 / std::sqrt(width));
  auto longer = static_cast<double>(std::max(parameter.full_shape[0], parameter.full_shape[1]));
  return deviation((ends_with_any({"att.key.weight", "att.gate.weight"}) ? 0.1 : 1.0) / std::sqrt(longer));
}

Rwkv6::Rwkv6(const Rwkv6Config& config, TensorParallelPlace place) : LanguageModel(place), config_(config) {
  const ModelInfo& info = config_.info;
  embedding_table_ = &parameters_.add("emb.weight", {info.vocab_size, info.hidden_size}, {ShardKind::vocabulary});
  embedding_.table = embedding_table_;
  embedding_norm_ = add_layer_norm_layer(parameters_, "blocks.0.ln0", info.hidden_size, kNormEps);
  for (int64_t layer = 0; layer < info.num_layers; ++layer) {
    parameters_.set_block(layer);
    blocks_.push_back(make_block(layer));
  }
  parameters_.set_block(kOuterBlock);
  final_norm_ = add_layer_norm_layer(parameters_, "ln_out", info.hidden_size, kNormEps);
  if (info.has_language_model_head) {
    head_weight_ = add_linear(parameters_,
                              {.name = "head",
                               .out_features = info.vocab_size,
                               .in_features = info.hidden_size,
                               .shard = {ShardKind::vocabulary}})
                       .weight;
  }
  for (Parameter& parameter : parameters_.all()) parameter.initial = initial_value(parameter, info);
}

/// A vector that all ranks read inside tensor-parallel regions, where each sees a part of its gradient; or, with a
/// shard, a rank's part.
const Parameter* Rwkv6::add_vector(const std::string& name, int64_t width, Shard shard) {
  Parameter& parameter = parameters_.add(name, {width}, shard);
  parameter.partial_gradient = shard.kind == ShardKind::replicated;
  return &parameter;
}

Rwkv6::Block Rwkv6::make_block(int64_t layer) {
  std::string name = "blocks." + std::to_string(layer) + ".";
  Block block;
  block.time_norm = add_layer_norm_layer(parameters_, name + "ln1", config_.info.hidden_size, kNormEps);
  block.time_mix = make_time_mix(name + "att.");
  block.channel_norm = add_layer_norm_layer(parameters_, name + "ln2", config_.info.hidden_size, kNormEps);
  block.channel_mix = make_channel_mix(name + "ffn.");
  block.time_mix.layer = block.channel_mix.layer = layer;
  add_initial_state(name, block);
  return block;
}

/// Beside frozen weights these alone are trained.
void Rwkv6::add_initial_state(const std::string& name, Block& block) {
  const ModelInfo& info = config_.info;
  if (info.initial_state == InitialState::zeros) return;
  auto learned = [](Parameter& parameter) {
    parameter.is_task_head = true;
    return &parameter;
  };
  block.time_mix.initial_state = learned(parameters_.add(name + "att.initial_state",
                                                         {info.hidden_size, info.head_dim},
                                                         {ShardKind::heads, info.num_heads, info.num_heads}));
  if (info.initial_state != InitialState::learned_with_shifts) return;
  for (const Parameter** shift : {&block.time_mix.initial_shift, &block.channel_mix.initial_shift}) {
    std::string part = shift == &block.time_mix.initial_shift ? "att." : "ffn.";
    Parameter& parameter = parameters_.add(name + part + "initial_shift", {info.hidden_size});
    parameter.partial_gradient = true;  // read inside tensor-parallel regions
    *shift = learned(parameter);
  }
}

TimeMix Rwkv6::make_time_mix(const std::string& name) {
  const ModelInfo& info = config_.info;
  int64_t width = info.hidden_size;
  Shard heads{ShardKind::heads, info.num_heads, info.num_heads};
  auto add = [&](const std::string& part, int64_t out_features, int64_t in_features, Shard shard, bool with_bias) {
    return add_linear(parameters_,
                      {.name = name + part,
                       .out_features = out_features,
                       .in_features = in_features,
                       .shard = shard,
                       .with_bias = with_bias,
                       .partial_gradient = shard.kind == ShardKind::replicated});
  };
  auto low_rank = [&](const std::string& part, int64_t rank, Shard shard) {
    return LowRankLinear{.down = add(part + ".down", rank, width, {}, false),
                         .up = add(part + ".up", width, rank, shard, true)};
  };
  TimeMix mix;
  mix.base_mix = add_vector(name + "mix_x", width);
  constexpr std::array kInputs = {"r", "k", "v", "w", "g"};
  for (size_t i = 0; i < kInputs.size(); ++i) {
    mix.mixes[i] = low_rank(std::string("mix_") + kInputs[i], config_.mix_rank, {});
  }
  mix.decay = low_rank("decay", config_.decay_rank, heads);
  mix.bonus = add_vector(name + "bonus", width, heads);
  mix.receptance = add("receptance", width, width, heads, false);
  mix.key = add("key", width, width, heads, false);
  mix.value = add("value", width, width, heads, false);
  mix.gate = add("gate", width, width, heads, false);
  mix.output = add("output", width, width, {ShardKind::head_columns, info.num_heads, info.num_heads}, false);
  mix.norm_weight = add_vector(name + "ln_x.weight", width, heads);
  mix.norm_bias = add_vector(name + "ln_x.bias", width, heads);
  parameters_.find(name + "ln_x.weight")->is_norm = true;
  parameters_.find(name + "ln_x.bias")->is_norm = true;
  if (config_.has_inner_norm) {
    mix.inner_norm_weight = add_vector(name + "ln_x.inner.weight", info.head_dim);
    mix.inner_norm_bias = add_vector(name + "ln_x.inner.bias", info.head_dim);
    parameters_.find(name + "ln_x.inner.weight")->is_norm = true;
    parameters_.find(name + "ln_x.inner.bias")->is_norm = true;
  }
  mix.head_size = info.head_dim;
  return mix;
}

ChannelMix Rwkv6::make_channel_mix(const std::string& name) {
  const ModelInfo& info = config_.info;
  auto add = [&](const char* part, int64_t out_features, int64_t in_features, ShardKind kind) {
    return add_linear(parameters_,
                      {.name = name + part,
                       .out_features = out_features,
                       .in_features = in_features,
                       .shard = {kind},
                       .partial_gradient = kind == ShardKind::replicated});
  };
  ChannelMix mix;
  mix.key_mix = add_vector(name + "mix_k", info.hidden_size);
  mix.receptance_mix = add_vector(name + "mix_r", info.hidden_size);
  mix.key = add("key", info.intermediate_size, info.hidden_size, ShardKind::rows);
  mix.receptance = add("receptance", info.hidden_size, info.hidden_size, ShardKind::replicated);
  mix.value = add("value", info.hidden_size, info.intermediate_size, ShardKind::columns);
  return mix;
}

RecurrentPass Rwkv6::start(const Batch& batch, KvCache* cache) const {
  RecurrentPass pass;
  pass.num_tokens = batch.num_tokens();
  pass.cache = cache;
  for (const BatchSequence& sequence : batch.sequences) {
    int64_t slot = cache == nullptr ? 0 : sequence.slot;  // all start alike
    pass.spans.push_back({.begin = sequence.begin, .length = sequence.length, .slot = slot});
  }
  if (!config_.skips_zero) return pass;
  for (int32_t id : batch.ids) pass.changes_state.push_back(id == 0 ? 0.0f : 1.0f);
  return pass;
}

Tensor Rwkv6::hidden(Context& context, const Batch& batch, KvCache* cache) {
  check_token_ids(batch.ids, config_.info.vocab_size);
  auto pass = std::make_shared<const RecurrentPass>(start(batch, cache));
  Tensor x = add_embedding_offset(context, embedding_.forward(context, batch.ids, 1), batch);
  x = embedding_norm_.forward(context, x);
  context.observe("hidden/0", x);
  std::vector<Tensor> stream = {x};
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const Block& block = blocks_[layer];
    stream =
        run_block(context,
                  static_cast<int64_t>(layer),
                  stream,
                  [&block, pass](Context& running, const std::vector<Tensor>& inputs) {
                    const Tensor& given = inputs[0];
                    Tensor normed = block.time_norm.forward(running, given);
                    Tensor middle = add(running, block.time_mix.forward(running, normed, *pass), given);
                    normed = block.channel_norm.forward(running, middle);
                    return std::vector<Tensor>{add(running, block.channel_mix.forward(running, normed, *pass), middle)};
                  });
    context.observe(fmt::format("hidden/{}", layer + 1), stream[0]);
  }
  Tensor last = final_norm_.forward(context, stream[0]);
  context.observe("final", last);
  return enter_tensor_parallel(context, last, batch.num_tokens());
}

std::vector<NamedLinear> Rwkv6::linears() {
  std::vector<NamedLinear> result;
  for (Block& block : blocks_) {
    TimeMix& time = block.time_mix;
    ChannelMix& channel = block.channel_mix;
    for (Linear* linear : {&time.receptance,
                           &time.key,
                           &time.value,
                           &time.gate,
                           &time.output,
                           &channel.key,
                           &channel.receptance,
                           &channel.value}) {
      result.push_back(named_linear(*linear));
    }
  }
  return result;
}

KvCacheShape Rwkv6::kv_cache_shape(DType dtype) const {
  HeadRange heads = kv_head_range(config_.info.num_heads, parameters_.place());
  KvCacheShape shape{.dtype = dtype};
  for (int64_t layer = 0; layer < config_.info.num_layers; ++layer) {
    const Block& block = blocks_[static_cast<size_t>(layer)];
    std::vector<CacheState> states = recurrent_states(heads.end - heads.begin,
                                                      config_.info.hidden_size,
                                                      embedding_table_->value.dtype(),
                                                      block.time_mix,
                                                      block.channel_mix);
    shape.states.insert(shape.states.end(), states.begin(), states.end());
  }
  return shape;
}

Rwkv6Config read_config(const ModelSource& source) {
  const ModelConfig& from = source.config;
  Rwkv6Config config;
  ModelInfo& info = config.info;
  info.family = source.family;
  info.vocab_size = from.size("vocab_size");
  info.hidden_size = from.size("hidden_size", 1 << 20);
  info.num_layers = from.size("num_hidden_layers", kMaxLayers);
  const char* head_size = from.has("head_size") ? "head_size" : "attention_head_size";
  info.head_dim = from.size_or(head_size, 64, 1024);
  if (info.hidden_size % info.head_dim != 0) {
    fail_input("{}: hidden size {} is no multiple of heads of {}", from.path(), info.hidden_size, info.head_dim);
  }
  info.num_heads = info.num_kv_heads = info.hidden_size / info.head_dim;
  info.intermediate_size = from.size_or("intermediate_size", info.hidden_size * 7 / 2);
  info.is_recurrent = true;
  info.has_language_model_head = from.is_string("with_lm") || from.boolean_or("with_lm", true);
  config.mix_rank = from.size_or("decomposer_size", info.hidden_size >= 4096 ? 64 : 32, 1 << 16);
  config.decay_rank = from.size_or("time_decay_size", info.hidden_size >= 4096 ? 128 : 64, 1 << 16);
  info.initial_state = read_initial_state(from);
  config.has_inner_norm = source.format == ModelFormat::keras_hdf5;
  config.skips_zero = info.seed_masks_padding = source.compat;
  for (int64_t id : from.integers("eos_token_id")) {
    if (id >= 0 && id < info.vocab_size) info.end_ids.push_back(static_cast<int32_t>(id));
  }
  if (info.end_ids.empty()) info.end_ids = {0};
  return config;
}

std::vector<ConstantTensor> inner_norms(const Rwkv6Config& config) {
  std::vector<ConstantTensor> constants;
  auto width = static_cast<size_t>(config.info.head_dim);
  for (int64_t layer = 0; layer < config.info.num_layers; ++layer) {
    std::string number = layer == 0 ? "" : fmt::format("_{}", layer);
    std::string norm = fmt::format("layers/time_mix{}/group_norm/group_ln/vars/", number);
    constants.push_back({norm + "0", {config.info.head_dim}, std::vector<float>(width, 1)});
    constants.push_back({norm + "1", {config.info.head_dim}, std::vector<float>(width, 0)});
  }
  return constants;
}

int64_t count_blocks(const CheckpointReader& reader) {
  int64_t count = 0;
  while (reader.find(fmt::format("blocks.{}.ln1.weight", count)) != nullptr) ++count;
  return count;
}

/// Official checkpoints hold nothing but tensors.
std::string derive_config(const CheckpointReader& reader) {
  const TensorInfo* table = reader.find("emb.weight");
  const TensorInfo* bonus = reader.find("blocks.0.att.time_faaaa");
  const TensorInfo* mix = reader.find("blocks.0.att.time_maa_w1");
  const TensorInfo* decay = reader.find("blocks.0.att.time_decay_w1");
  const TensorInfo* key = reader.find("blocks.0.ffn.key.weight");
  for (const TensorInfo* tensor : {table, bonus, mix, decay, key}) {
    if (tensor == nullptr || tensor->shape.rank() != 2) return "";
  }
  return fmt::format(
      R"({{"model_type": "rwkv6", "vocab_size": {}, "hidden_size": {}, "num_hidden_layers": {}, "head_size": {}, )"
      R"("intermediate_size": {}, "decomposer_size": {}, "time_decay_size": {}}})",
      table->shape[0],
      table->shape[1],
      count_blocks(reader),
      bonus->shape[1],
      key->shape[0],
      mix->shape[1] / 5,
      decay->shape[1]);
}

ModelDefinition define_rwkv6(const ModelSource& source) {
  Rwkv6Config config = read_config(source);
  auto make = [config](TensorParallelPlace place) { return std::make_unique<Rwkv6>(config, place); };
  auto weights = [config](ModelFormat format) { return rwkv6_weights(format, config.mix_rank); };
  return {.info = config.info,
          .make = make,
          .weights = weights,
          .stored = own_names(source, make, weights(ModelFormat::huggingface)),
          .constants =
              [config](ModelFormat format) {
                bool lacks_them = format == ModelFormat::keras_hdf5 && !config.has_inner_norm;
                return lacks_them ? inner_norms(config) : std::vector<ConstantTensor>{};
              },
          .decoder = std::nullopt};
}

}  // namespace

Family rwkv6_family() {
  return {.name = "rwkv6",
          .huggingface_types = {"rwkv6"},
          .seed_names = {"rwkv6"},
          .gguf_architectures = {},
          .define = define_rwkv6,
          .derive_config = derive_config};
}

}  // namespace weft
