// T5 and T5 v1.1 (Raffel et al., 2020), Flan-T5 (Chung et al., 2022), ChatYuan, mT5 (Xue et al., 2021), T5-PEGASUS (Su,
// 2021); MisakaT5, bert4keras3's T5 with rotary positions; and UMT5 (Chung et al., 2023), whose layers have tables of
// positions of their own.

#include "checkpoint/reader.h"
#include "models/kept_tokens.h"
#include "models/model_config.h"
#include "models/t5_config.h"
#include "models/t5_weights.h"

namespace weft {
namespace {

/// The source of the model that has both halves.
ModelSource whole_of(ModelSource source) {
  source.encoder_alone = false;
  for (std::string_view half : {"_encoder", "_decoder"}) {
    if (source.alias.ends_with(half)) source.alias.resize(source.alias.size() - half.size());
  }
  return source;
}

ModelDefinition define(const ModelSource& source, bool has_bias_per_layer) {
  EncoderDecoderConfig config = read_t5(source, has_bias_per_layer);
  const ModelConfig& from = source.config;
  std::shared_ptr<const RowSelection> selection = read_kept_tokens(source, config.info.vocab_size);
  if (selection != nullptr) config.info.vocab_size = static_cast<int64_t>(selection->rows.size());
  T5Names names;
  if (source.format == ModelFormat::tensorflow && source.reader != nullptr) {
    names.has_rms_norm_names = source.reader->find("encoder/rms_norm/scale") != nullptr;
  } else {
    names.has_rms_norm_names = source.alias.starts_with("mt5") || source.alias == "t5_pegasus";
  }
  bool has_huggingface_keys = from.has("d_model");
  bool seed_has_cross_bias =
      has_huggingface_keys ? config.has_cross_bias : from.boolean_or("cross_position_bias", true);
  names.has_late_encoder_norm = config.dropout == 0 && !seed_has_cross_bias;
  std::optional<WeightMap> stored;
  bool is_half = config.num_encoder_layers == 0 || config.num_decoder_layers == 0;
  if (is_half && source.format == ModelFormat::keras_hdf5 && source.reader != nullptr) {
    EncoderDecoderConfig whole = read_t5(whole_of(source), has_bias_per_layer);
    stored = half_in_whole_keras_file(whole, config.info.is_encoder, names, *source.reader);
    if (stored) cut_vocabulary(*stored, source.format, {"shared.weight", "lm_head.weight"}, selection);
  }
  auto make = [config](TensorParallelPlace place) { return make_encoder_decoder(config, place); };
  return {.info = config.info,
          .make = make,
          .weights =
              [config, names, selection, own = source.format](ModelFormat format) {
                WeightMap map = t5_weights(config, names, format);
                if (format == own) cut_vocabulary(map, own, {"shared.weight", "lm_head.weight"}, selection);
                return map;
              },
          .stored = std::move(stored),
          .config =
              [config, has_huggingface_keys](ModelFormat format) {
                bool has_its_keys = (format == ModelFormat::huggingface) == has_huggingface_keys;
                return has_its_keys ? "" : t5_config_json(config, format);
              },
          .decoder = std::nullopt};
}

}  // namespace

Family t5_family() {
  return {.name = "t5",
          .huggingface_types = {"t5", "mt5"},
          .seed_names = {"t5",
                         "t5.1.0",
                         "t5.1.1",
                         "mt5.1.1",
                         "t5_pegasus",
                         "misakat5",
                         "t5_encoder",
                         "t5_decoder",
                         "t5.1.0_encoder",
                         "t5.1.0_decoder",
                         "t5.1.1_encoder",
                         "t5.1.1_decoder",
                         "mt5.1.1_encoder",
                         "mt5.1.1_decoder"},
          .gguf_architectures = {},
          .define = [](const ModelSource& source) { return define(source, false); }};
}

Family umt5_family() {
  return {.name = "umt5",
          .huggingface_types = {"umt5"},
          .seed_names = {},
          .gguf_architectures = {},
          .define = [](const ModelSource& source) { return define(source, true); }};
}

}  // namespace weft
