#include "models/t5_weights.h"

#include <fmt/format.h>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/registry.h"

namespace weft {
namespace {

constexpr WeightTransform kTranspose = WeightTransform::transpose;

using Rows = std::vector<WeightRow>;

/// The parts of one block in a format; `layer` counts within the stack.
struct BlockNames {
  std::string attention, cross, mlp;                 // with the separator behind
  std::string attention_norm, cross_norm, mlp_norm;  // whole
};

/// What a format calls projections within attention and feed-forward.
struct PartNames {
  std::string q, k, v, o, gate, up, down, only_up;
};

void add_block(Rows& rows,
               const EncoderDecoderConfig& config,
               bool is_decoder,
               int64_t layer,
               const BlockNames& theirs,
               const PartNames& parts) {
  std::string ours = fmt::format("{}.block.{}.layer.", is_decoder ? "decoder" : "encoder", layer);
  auto add_attention = [&](const std::string& own, const std::string& prefix) {
    rows.push_back({own + "q.weight", prefix + parts.q, kTranspose});
    rows.push_back({own + "k.weight", prefix + parts.k, kTranspose});
    rows.push_back({own + "v.weight", prefix + parts.v, kTranspose});
    rows.push_back({own + "o.weight", prefix + parts.o, kTranspose});
  };
  add_attention(ours + "0.SelfAttention.", theirs.attention);
  rows.push_back({ours + "0.layer_norm.weight", theirs.attention_norm});
  if (is_decoder) {
    add_attention(ours + "1.EncDecAttention.", theirs.cross);
    rows.push_back({ours + "1.layer_norm.weight", theirs.cross_norm});
  }
  std::string mlp = ours + (is_decoder ? "2." : "1.");
  rows.push_back({mlp + "layer_norm.weight", theirs.mlp_norm});
  if (config.is_gated) {
    rows.push_back({mlp + "DenseReluDense.wi_0.weight", theirs.mlp + parts.gate, kTranspose});
    rows.push_back({mlp + "DenseReluDense.wi_1.weight", theirs.mlp + parts.up, kTranspose});
  } else {
    rows.push_back({mlp + "DenseReluDense.wi.weight", theirs.mlp + parts.only_up, kTranspose});
  }
  rows.push_back({mlp + "DenseReluDense.wo.weight", theirs.mlp + parts.down, kTranspose});
}

std::string numbered(const std::string& kind, int64_t number) {
  return "layers/" + kind + (number == 0 ? "" : "_" + std::to_string(number));
}

/// Keras numbers norms in the order of depth in the graph: where the model has both stacks, the decoder's first norm
/// and the encoder's last ones are interleaved, differently with and without what hangs between them.
struct KerasNorms {
  int64_t encoder_layers, decoder_layers;
  bool is_late;

  bool has_both() const { return encoder_layers > 0 && decoder_layers > 0; }
  int64_t encoder_attention(int64_t layer) const { return 2 * layer; }
  int64_t encoder_mlp(int64_t layer) const {
    bool is_last = layer + 1 == encoder_layers;
    return has_both() && is_late && is_last ? 2 * encoder_layers : 2 * layer + 1;
  }
  int64_t encoder_final() const { return !has_both() ? 2 * encoder_layers : 2 * encoder_layers + (is_late ? 2 : 1); }
  int64_t decoder_part(int64_t layer, int64_t part) const {
    if (!has_both()) return 3 * layer + part;
    int64_t base = 2 * encoder_layers;
    if (layer > 0) return base + 4 + 3 * (layer - 1) + part;
    if (part == 2) return base + 3;
    if (part == 1) return base + (is_late ? 1 : 2);
    return base - (is_late ? 1 : 0);
  }
  int64_t decoder_final() const {
    return !has_both() ? 3 * decoder_layers : 2 * encoder_layers + 1 + 3 * decoder_layers;
  }
};

WeightMap keras_weights(const EncoderDecoderConfig& config, const T5Names& names) {
  WeightMap map;
  int64_t encoders = config.num_encoder_layers, decoders = config.num_decoder_layers;
  KerasNorms norms{encoders, decoders, names.has_late_encoder_norm};
  auto norm = [](int64_t number) { return numbered("layer_normalization", number) + "/vars/0"; };
  auto attention = [](int64_t number) { return numbered("multi_head_attention", number) + "/"; };
  const PartNames parts{.q = "q_dense/vars/0",
                        .k = "k_dense/vars/0",
                        .v = "v_dense/vars/0",
                        .o = "o_dense/vars/0",
                        .gate = "i0_dense/vars/0",
                        .up = "i1_dense/vars/0",
                        .down = "o_dense/vars/0",
                        .only_up = "i0_dense/vars/0"};
  map.rows.push_back({"shared.weight", "layers/embedding/vars/0"});
  for (int64_t layer = 0; layer < encoders; ++layer) {
    BlockNames block{.attention = attention(layer),
                     .cross = {},
                     .mlp = numbered("feed_forward", layer) + "/",
                     .attention_norm = norm(norms.encoder_attention(layer)),
                     .cross_norm = {},
                     .mlp_norm = norm(norms.encoder_mlp(layer))};
    add_block(map.rows, config, false, layer, block, parts);
  }
  for (int64_t layer = 0; layer < decoders; ++layer) {
    BlockNames block{.attention = attention(encoders + 2 * layer),
                     .cross = attention(encoders + 2 * layer + 1),
                     .mlp = numbered("feed_forward", encoders + layer) + "/",
                     .attention_norm = norm(norms.decoder_part(layer, 0)),
                     .cross_norm = norm(norms.decoder_part(layer, 1)),
                     .mlp_norm = norm(norms.decoder_part(layer, 2))};
    add_block(map.rows, config, true, layer, block, parts);
  }
  int64_t table = 0, dense = 0;
  auto add_dense = [&](const std::string& ours) {
    std::string theirs = numbered("dense", dense++);
    map.rows.push_back({ours + ".weight", theirs + "/vars/0", kTranspose});
    map.rows.push_back({ours + ".bias", theirs + "/vars/1"});
  };
  bool has_mapping = config.embedding_size != config.info.hidden_size;
  for (const char* stack : {"encoder", "decoder"}) {
    bool is_encoder = std::string_view(stack) == "encoder";
    if ((is_encoder ? encoders : decoders) == 0) continue;
    std::string name = stack;
    map.rows.push_back({name + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                        numbered("relative_position_embedding_t5", table++) + "/vars/0"});
    map.rows.push_back(
        {name + ".final_layer_norm.weight", norm(is_encoder ? norms.encoder_final() : norms.decoder_final())});
    if (has_mapping) add_dense(name + ".embedding_mapping");
  }
  if (has_mapping && config.info.has_language_model_head) add_dense("decoder.output_mapping");
  map.rows.push_back({"lm_head.weight", numbered("dense", dense) + "/vars/0", kTranspose});
  map.ignored = {"*seed_generator*"};
  return map;
}

WeightMap tensorflow_weights(const EncoderDecoderConfig& config, const T5Names& names) {
  WeightMap map;
  std::string norm = names.has_rms_norm_names ? "rms_norm/scale" : "layer_norm/scale";
  const PartNames parts{.q = "q",
                        .k = "k",
                        .v = "v",
                        .o = "o",
                        .gate = "wi_0/kernel",
                        .up = "wi_1/kernel",
                        .down = "wo/kernel",
                        .only_up = "wi/kernel"};
  map.rows.push_back({"shared.weight", "shared/embedding"});
  for (bool is_decoder : {false, true}) {
    std::string stack = is_decoder ? "decoder" : "encoder";
    for (int64_t layer = 0; layer < (is_decoder ? config.num_decoder_layers : config.num_encoder_layers); ++layer) {
      std::string block = fmt::format("{}/block_{:03}/", stack, layer);
      std::string last = block + (is_decoder ? "layer_002/" : "layer_001/");
      BlockNames theirs{.attention = block + "layer_000/SelfAttention/",
                        .cross = block + "layer_001/EncDecAttention/",
                        .mlp = last + "DenseReluDense/",
                        .attention_norm = fmt::format("{}layer_000/{}", block, norm),
                        .cross_norm = fmt::format("{}layer_001/{}", block, norm),
                        .mlp_norm = last + norm};
      add_block(map.rows, config, is_decoder, layer, theirs, parts);
      if (layer == 0 || config.has_bias_per_layer) {
        map.rows.push_back(
            {fmt::format("{}.block.{}.layer.0.SelfAttention.relative_attention_bias.weight", stack, layer),
             theirs.attention + "relative_attention_bias",
             kTranspose});
      }
    }
    map.rows.push_back({stack + ".final_layer_norm.weight",
                        stack + (names.has_rms_norm_names ? "/rms_norm/scale" : "/final_layer_norm/scale")});
  }
  map.rows.push_back({"lm_head.weight", "decoder/logits/kernel", kTranspose});
  map.ignored = {"*_slot_*", "global_step", "*adam_m", "*adam_v"};
  // Of a model that is read by half.
  if (config.num_decoder_layers == 0) map.ignored.push_back("decoder/*");
  if (config.num_encoder_layers == 0) map.ignored.push_back("encoder/*");
  if (!config.info.has_language_model_head) map.ignored.push_back("decoder/logits/*");
  return map;
}

/// Ours are theirs.
WeightMap huggingface_weights_of(const EncoderDecoderConfig& config) {
  WeightMap map;
  std::unique_ptr<LanguageModel> model = make_encoder_decoder(config, {});
  for (const Parameter& parameter : model->parameters().all()) map.rows.push_back({parameter.name, parameter.name});
  map.ignored = {"encoder.embed_tokens.weight",
                 "decoder.embed_tokens.weight",
                 "lm_head.weight",
                 "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"};
  if (config.num_decoder_layers == 0) map.ignored.push_back("decoder.*");
  if (config.num_encoder_layers == 0) map.ignored.push_back("encoder.*");
  return map;
}

}  // namespace

WeightMap t5_weights(const EncoderDecoderConfig& config, const T5Names& names, ModelFormat format) {
  bool fits_seed = !config.has_bias_per_layer;
  switch (format) {
    case ModelFormat::huggingface:
      return huggingface_weights_of(config);
    case ModelFormat::keras_hdf5:
      if (!fits_seed) {
        fail_input("{}: each layer has its own table of positions, which bert4keras3's files have no place for",
                   config.info.family);
      }
      return keras_weights(config, names);
    case ModelFormat::tensorflow:
      return tensorflow_weights(config, names);
    default:
      fail_input("{} models do not exist as {} checkpoints", config.info.family, model_format_name(format));
  }
}

std::optional<WeightMap> half_in_whole_keras_file(const EncoderDecoderConfig& whole,
                                                  bool is_encoder,
                                                  const T5Names& names,
                                                  const CheckpointReader& reader) {
  int64_t last_attention = whole.num_encoder_layers + 2 * whole.num_decoder_layers - 1;
  if (reader.find(numbered("multi_head_attention", last_attention) + "/q_dense/vars/0") == nullptr) return std::nullopt;
  WeightMap map = keras_weights(whole, names);
  Rows rows;
  for (WeightRow& row : map.rows) {
    bool is_of_encoder = row.ours.starts_with("encoder.");
    if (row.ours == "shared.weight" || is_of_encoder == is_encoder) {
      rows.push_back(std::move(row));
    } else {
      map.ignored.push_back(row.theirs);
    }
  }
  map.rows = std::move(rows);
  return map;
}

}  // namespace weft
