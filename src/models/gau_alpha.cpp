// GAU-alpha (Su, 2022): RoFormerV2's embedding and head around gated attention units (Hua et al., "Transformer Quality
// in Linear Time", 2022), each attention and gated feed-forward in one.

#include <array>

#include "models/dropout_sites.h"
#include "models/encoder_block.h"
#include "models/encoder_config.h"
#include "ops/activation.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/rope.h"

namespace weft {
namespace {

/// Axes: e intermediate_size, s size of the one head's queries and keys. The gates and values are split over the
/// tensor-parallel ranks; what queries and keys are made of every rank computes, and sees a part of its gradient.
class GatedAttentionUnit final : public EncoderBlock {
 public:
  GatedAttentionUnit(ParameterStore& store, const EncoderConfig& config, int64_t layer) {
    std::string name = block_name(config, layer) + ".gau.";
    int64_t hidden = config.info.hidden_size;
    int64_t expanded = config.info.intermediate_size;
    int64_t head_dim = config.info.head_dim;
    auto add = [&](const char* part, int64_t out_features, int64_t in_features, ShardKind kind) {
      return add_linear(store,
                        {.name = name + part,
                         .out_features = out_features,
                         .in_features = in_features,
                         .shard = {kind},
                         .partial_gradient = kind == ShardKind::replicated});
    };
    gate_ = add("gate_proj", expanded, hidden, ShardKind::rows);
    value_ = add("value_proj", expanded, hidden, ShardKind::rows);
    base_ = add("base_proj", head_dim, hidden, ShardKind::replicated);
    output_ = add("output_proj", hidden, expanded, ShardKind::columns);
    for (const Parameter** scale : {&query_scale_, &key_scale_}) {
      Parameter& parameter =
          store.add(name + (scale == &query_scale_ ? "query_scale.weight" : "key_scale.weight"), {head_dim});
      parameter.partial_gradient = true;
      parameter.is_norm = true;
      *scale = &parameter;
    }
    options_ = attention_options(config, store.place());
    options_.normalization = ScoreNormalization::softmax_plus;
    activation_ = config.activation;
    norm_ = add_post_norm(store, config, name + "norm", hidden, config.eps);
    dropout_ = config.dropout;
  }

  std::vector<Tensor> forward(Context& context,
                              const std::vector<Tensor>& inputs,
                              const EncoderPass& pass,
                              int64_t layer) const override {
    const Tensor& x = inputs[0];
    Tensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
    std::vector<Tensor> projected =
        column_parallel(context, whole, std::array<const Linear*, 3>{&gate_, &value_, &base_});
    Tensor value = activation(context, projected[1], activation_);
    Tensor base = activation(context, projected[2], activation_);
    Tensor query = scale_columns(context, base, query_scale_->value);
    Tensor key = scale_columns(context, base, key_scale_->value);
    query = rope(context, query, pass.rope_table, options_.head_dim, true);
    key = rope(context, key, pass.rope_table, options_.head_dim, true);
    Tensor mixed = attend(context, {.q = &query, .k = &key, .v = &value}, pass, layer);
    Tensor gated = gated_activation(context, projected[0], mixed, activation_);
    Tensor branch = row_parallel(context, gated, output_);
    uint32_t site = block_dropout_site(layer, BlockDropout::attention);
    branch = BranchDropout{dropout_, site}.forward(context, branch, pass.num_tokens);
    return {norm_.forward_add(context, branch, x, pass)};
  }

  std::vector<Linear*> linears() override { return {&gate_, &value_, &base_, &output_}; }

 private:
  Tensor attend(Context& context, const RelativeAttentionInputs& inputs, const EncoderPass& pass, int64_t layer) const {
    if (pass.cache == nullptr) {
      RelativeAttentionOptions options = options_;
      options.dropout.site = block_dropout_site(layer, BlockDropout::attention_weights);
      return relative_attention(context, inputs, pass.spans, pass.positions, {}, options).out;
    }
    return cached_relative_attention(
        context, inputs, pass.cache->keys(layer), pass.cache->values(layer), pass.spans, {}, options_);
  }

  Linear gate_, value_, base_, output_;
  const Parameter* query_scale_ = nullptr;
  const Parameter* key_scale_ = nullptr;
  RelativeAttentionOptions options_;
  Activation activation_ = Activation::silu;
  PostNorm norm_;
  float dropout_ = 0;
};

/// Gates, values and base lie side by side in one matrix of the checkpoint.
std::vector<WeightRow> gau_rows(const EncoderConfig& config, ModelFormat format, const std::string& /*prefix*/) {
  bool is_keras = format == ModelFormat::keras_hdf5;
  std::string ours = block_name(config, -1) + ".{i}.gau.";
  std::string theirs = is_keras ? "layers/gated_attention_unit{#i}/" : "GAU_alpha/encoder/layer_{i}/gau/";
  std::string kernel = is_keras ? "/vars/0" : "/kernel";
  std::string scale = is_keras ? "/vars/0" : "/gamma";
  int64_t expanded = config.info.intermediate_size;
  int64_t total = 2 * expanded + config.info.head_dim;
  constexpr WeightTransform kTranspose = WeightTransform::transpose;
  return {{ours + "gate_proj.weight", theirs + "i_dense" + kernel, kTranspose, {0, total}},
          {ours + "value_proj.weight", theirs + "i_dense" + kernel, kTranspose, {expanded, total}},
          {ours + "base_proj.weight", theirs + "i_dense" + kernel, kTranspose, {2 * expanded, total}},
          {ours + "query_scale.weight", theirs + "q_scaleoffset" + scale},
          {ours + "key_scale.weight", theirs + "k_scaleoffset" + scale},
          {ours + "output_proj.weight", theirs + "o_dense" + kernel, kTranspose}};
}

ModelDefinition define_gau(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "gau_alpha";
  config.positions = AbsolutePositions::rotary;
  config.has_bias = config.has_layer_norm = config.has_head_transform = config.has_head_bias = false;
  config.eps = config.embedding_eps = 1e-7;
  config.dropout_before_embedding_norm = true;
  config.info.num_heads = config.info.num_kv_heads = 1;
  config.info.head_dim = source.config.size("attention_key_size", 4096);
  config.value_dim = config.info.intermediate_size;
  config.splits_value_dim = true;
  config.make_block = [](ParameterStore& store, const EncoderConfig& of, int64_t layer) {
    return std::make_unique<GatedAttentionUnit>(store, of, layer);
  };
  EncoderNames names{.block_rows = gau_rows, .has_huggingface = false};
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family gau_alpha_family() {
  return {.name = "gau_alpha",
          .huggingface_types = {},
          .seed_names = {"gau", "gau_alpha"},
          .gguf_architectures = {},
          .define = define_gau};
}

}  // namespace weft
