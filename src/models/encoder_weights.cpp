#include "models/encoder_weights.h"

#include <algorithm>
#include <array>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/encoder_block.h"
#include "models/registry.h"
#include "models/weight_rows.h"

namespace weft {
namespace {

constexpr WeightTransform kTranspose = WeightTransform::transpose;

using Rows = std::vector<WeightRow>;

constexpr std::array kTaskLayers = {"classifier",
                                    "classifier.dense",
                                    "classifier.out_proj",
                                    "pre_classifier",
                                    "pooler.dense",
                                    "qa_outputs",
                                    "global_pointer.dense",
                                    "relations.dense"};

void add_task_rows(Rows& rows, const Spelling& spelling) {
  for (const char* layer : kTaskLayers) add_pair(rows, layer, layer, spelling);
  rows.push_back({"crf.transitions", "crf.transitions"});
}

void add_keras_norm(Rows& rows, const EncoderConfig& config, const std::string& ours, const std::string& theirs) {
  if (!config.has_layer_norm) return;
  add_pair(rows, ours, theirs, kKerasNorm);
  if (!config.info.condition.is_there()) return;
  for (const char* part : {"hidden", "weight", "bias"}) {
    std::string_view keras = std::string_view(part) == "weight" ? "gamma"
                             : std::string_view(part) == "bias" ? "beta"
                                                                : part;
    rows.push_back({ours + ".condition." + part + "_dense.weight",
                    theirs + "/" + std::string(keras) + "_dense/vars/0",
                    kTranspose});
  }
}

std::string first_present(const CheckpointReader* reader, std::initializer_list<std::string> names) {
  for (const std::string& name : names) {
    if (reader != nullptr && reader->find(name) != nullptr) return name;
  }
  return *names.begin();
}

Rows tensorflow_rows(const EncoderConfig& config, const EncoderNames& names) {
  Rows rows;
  const std::string theirs = names.tensorflow_embeddings.empty() ? names.tensorflow_prefix + "/embeddings/"
                                                                 : names.tensorflow_embeddings + "/";
  const std::string ours = config.prefix + ".embeddings.";
  for (const char* table : {"word_embeddings", "token_type_embeddings", "position_embeddings"}) {
    rows.push_back({ours + table + ".weight", theirs + table});
  }
  add_pair(rows, ours + "LayerNorm", theirs + "LayerNorm", kTensorflowNorm);
  add_pair(rows, config.prefix + ".embeddings_project", names.tensorflow_mapping, kTensorflowDense);
  add_pair(rows, config.prefix + ".pooler.dense", names.tensorflow_prefix + "/pooler/dense", kTensorflowDense);
  add_pair(rows, "cls.seq_relationship", "cls/seq_relationship/output_", {"weights", "bias"});
  add_pair(rows, "cls.predictions.transform.dense", names.tensorflow_transform, kTensorflowDense);
  add_pair(rows, "cls.predictions.transform.LayerNorm", names.tensorflow_transform_norm, kTensorflowNorm);
  rows.push_back({"cls.predictions.mapping.weight", "cls/predictions/mapping/kernel", kTranspose});
  add_task_rows(rows, kTensorflowDense);
  rows.push_back({"cls.predictions.bias", names.tensorflow_bias});
  add_pair(rows, "discriminator_predictions.dense", "discriminator_predictions/dense", kTensorflowDense);
  add_pair(rows, "discriminator_predictions.dense_prediction", "discriminator_predictions/dense_1", kTensorflowDense);
  return rows;
}

Rows huggingface_rows(const EncoderConfig& config,
                      const EncoderNames& names,
                      const std::string& prefix,
                      const CheckpointReader* reader) {
  Rows rows;
  const std::string theirs = prefix + "embeddings.";
  const std::string ours = config.prefix + ".embeddings.";
  auto with_prefix = [&](const std::string& name) {
    return name.starts_with(names.huggingface_prefix + ".") ? prefix + name.substr(names.huggingface_prefix.size() + 1)
                                                            : name;
  };
  for (const char* table : {"word_embeddings", "token_type_embeddings", "position_embeddings"}) {
    rows.push_back({ours + table + ".weight", theirs + table + ".weight"});
  }
  add_pair(rows, ours + "LayerNorm", theirs + "LayerNorm", kTorch);
  add_pair(rows, config.prefix + ".embeddings_project", with_prefix(names.huggingface_mapping), kTorch);
  add_pair(rows, config.prefix + ".pooler.dense", with_prefix(names.huggingface_pooler), kTorch);
  add_pair(rows, "cls.seq_relationship", names.huggingface_pair_head, kTorch);
  add_pair(rows, "cls.predictions.transform.dense", names.huggingface_transform, kTorch);
  add_pair(rows, "cls.predictions.transform.LayerNorm", names.huggingface_transform_norm, kTorch);
  rows.push_back({"cls.predictions.mapping.weight", "cls.predictions.mapping.weight"});
  add_task_rows(rows, kTorch);
  rows.push_back(
      {"cls.predictions.bias", first_present(reader, {names.huggingface_bias, names.huggingface_decoder + ".bias"})});
  for (const char* part : {"dense", "dense_prediction"}) {
    std::string head = std::string("discriminator_predictions.") + part;
    add_pair(rows, head, head, kTorch);
  }
  return rows;
}

Rows keras_outer_rows(const EncoderConfig& config) {
  Rows rows;
  const std::string ours = config.prefix + ".embeddings.";
  rows.push_back({ours + "word_embeddings.weight", keras_layer("embedding", 0) + "/vars/0"});
  rows.push_back({ours + "token_type_embeddings.weight", keras_layer("embedding", 1) + "/vars/0"});
  rows.push_back({ours + "position_embeddings.weight", keras_layer("position_embedding", 0) + "/vars/0"});
  add_keras_norm(rows, config, ours + "LayerNorm", "layers/layer_normalization");
  int64_t dense = 0;
  auto add_dense = [&](const std::string& name) { add_pair(rows, name, keras_layer("dense", dense++), kKerasDense); };
  bool has_mapping = config.embedding_size != config.info.hidden_size;
  if (has_mapping) add_dense(config.prefix + ".embeddings_project");
  if (config.info.has_language_model_head && config.has_head_transform) add_dense("cls.predictions.transform.dense");
  if (config.info.has_language_model_head && !config.has_head_transform && has_mapping) {
    add_dense("cls.predictions.mapping");
  }
  if (config.has_pooler) add_dense(config.prefix + ".pooler.dense");
  if (config.has_pair_head) add_dense("cls.seq_relationship");
  if (config.has_replaced_head) {
    add_dense("discriminator_predictions.dense");
    add_dense("discriminator_predictions.dense_prediction");
  }
  add_keras_norm(rows,
                 config,
                 "cls.predictions.transform.LayerNorm",
                 config.shares_blocks ? "layers/layer_normalization_3" : "layers/layer_normalization{#2L+1}");
  rows.push_back({"cls.predictions.bias", "layers/scale_offset/vars/0"});
  for (const char* layer : kTaskLayers) add_pair(rows, layer, keras_layer(layer, 0), kKerasDense);
  rows.push_back({"crf.transitions", keras_layer("crf", 0) + "/vars/0"});
  return rows;
}

void add_old_norm_names(Rows& rows, const CheckpointReader& reader, const std::string& prefix) {
  if (reader.find(prefix + "embeddings.LayerNorm.gamma") == nullptr) return;
  for (WeightRow& row : rows) {
    size_t at = row.theirs.find("LayerNorm.");
    if (at == std::string::npos) continue;
    row.theirs = row.theirs.substr(0, at) + (row.theirs.ends_with("weight") ? "LayerNorm.gamma" : "LayerNorm.beta");
  }
}

/// Files of sentence-transformers drop the prefix.
std::string huggingface_prefix(const EncoderNames& names, const CheckpointReader* reader) {
  bool is_bare = reader != nullptr && reader->find("embeddings.word_embeddings.weight") != nullptr;
  return is_bare ? "" : names.huggingface_prefix + ".";
}

}  // namespace

std::vector<WeightRow> bert_block_rows(const EncoderConfig& config, ModelFormat format, const std::string& prefix) {
  Rows rows;
  bool shared = config.shares_blocks;
  std::string ours = block_name(config, -1) + (shared ? "." : ".{i}.");
  if (format == ModelFormat::keras_hdf5) {
    std::string number = shared ? "" : "{#i}";
    std::string attention = "layers/multi_head_attention" + number + "/";
    add_pair(rows, ours + "attention.self.query", attention + "q_dense", kKerasDense);
    add_pair(rows, ours + "attention.self.key", attention + "k_dense", kKerasDense);
    add_pair(rows, ours + "attention.self.value", attention + "v_dense", kKerasDense);
    add_pair(rows, ours + "attention.output.dense", attention + "o_dense", kKerasDense);
    add_pair(rows, ours + "intermediate.dense", "layers/feed_forward" + number + "/i0_dense", kKerasDense);
    add_pair(rows, ours + "output.dense", "layers/feed_forward" + number + "/o_dense", kKerasDense);
    std::string norm = "layers/layer_normalization";
    add_keras_norm(rows, config, ours + "attention.output.LayerNorm", norm + (shared ? "_1" : "{#2i+1}"));
    add_keras_norm(rows, config, ours + "output.LayerNorm", norm + (shared ? "_2" : "{#2i+2}"));
    return rows;
  }
  bool is_tensorflow = format == ModelFormat::tensorflow;
  const Spelling& dense = is_tensorflow ? kTensorflowDense : kTorch;
  const Spelling& norm = is_tensorflow ? kTensorflowNorm : kTorch;
  std::string theirs = prefix + (is_tensorflow ? "encoder/layer_{i}/" : "encoder.layer.{i}.");
  auto path = [&](std::string name) {
    if (is_tensorflow) std::replace(name.begin(), name.end(), '.', '/');
    return theirs + name;
  };
  for (const char* part : {"attention.self.query",
                           "attention.self.key",
                           "attention.self.value",
                           "attention.output.dense",
                           "intermediate.dense",
                           "output.dense"}) {
    add_pair(rows, ours + part, path(part), dense);
  }
  for (const char* part : {"attention.output.LayerNorm", "output.LayerNorm"}) {
    add_pair(rows, ours + part, path(part), norm);
  }
  return rows;
}

std::string keras_layer(const std::string& kind, int64_t number) {
  return "layers/" + kind + (number == 0 ? "" : "_" + std::to_string(number));
}

int64_t count_keras_dense(const CheckpointReader& reader) {
  int64_t count = 0;
  while (reader.find(keras_layer("dense", count) + "/vars/0") != nullptr) ++count;
  return count;
}

WeightMap encoder_weights(const EncoderConfig& config,
                          const EncoderNames& names,
                          ModelFormat format,
                          const CheckpointReader* reader) {
  WeightMap map;
  auto blocks = names.block_rows ? names.block_rows : bert_block_rows;
  auto append = [&](const Rows& rows) { map.rows.insert(map.rows.end(), rows.begin(), rows.end()); };
  bool exists = format == ModelFormat::huggingface  ? names.has_huggingface
                : format == ModelFormat::tensorflow ? names.has_tensorflow
                                                    : format == ModelFormat::keras_hdf5 && names.has_keras;
  if (!exists) fail_input("{} models do not exist as {} checkpoints", config.info.family, model_format_name(format));
  if (format == ModelFormat::keras_hdf5) {
    append(blocks(config, format, ""));
    append(names.keras_outer_rows ? names.keras_outer_rows(config) : keras_outer_rows(config));
    map.ignored = {"*seed_generator*"};
    map.ignored.insert(map.ignored.end(), names.keras_ignored.begin(), names.keras_ignored.end());
    return map;
  }
  if (format == ModelFormat::tensorflow) {
    append(blocks(config, format, names.tensorflow_prefix + "/"));
    append(tensorflow_rows(config, names));
    map.ignored = tensorflow_training_tensors();
    // Heads that are not asked for.
    for (const char* name : {"cls/*", "*/pooler/*", "generator*", "discriminator*"}) map.ignored.emplace_back(name);
    // The body of a model that shares its embedding with this one.
    if (!names.tensorflow_embeddings.empty())
      map.ignored.push_back(names.tensorflow_embeddings.substr(0, names.tensorflow_embeddings.find('/')) + "/*");
  } else {
    std::string prefix = huggingface_prefix(names, reader);
    append(blocks(config, format, prefix));
    append(huggingface_rows(config, names, prefix, reader));
    if (reader != nullptr) add_old_norm_names(map.rows, *reader, prefix);
    map.ignored = {"*position_ids",
                   "*embed_positions.weight",
                   "*token_type_ids",
                   "*relative_positions_encoding*",
                   names.huggingface_decoder + ".*",
                   "generator_lm_head.weight"};
    map.ignored.push_back(names.huggingface_bias);
  }
  return map;
}

HeadsPresent heads_in(const EncoderConfig& config,
                      const EncoderNames& names,
                      ModelFormat format,
                      const CheckpointReader& reader) {
  auto has = [&](const std::string& name) { return reader.find(name) != nullptr; };
  if (format == ModelFormat::tensorflow) {
    return {.pooler = has(names.tensorflow_prefix + "/pooler/dense/kernel"),
            .pair = has("cls/seq_relationship/output_weights"),
            .language_model = has(names.tensorflow_transform + "/kernel"),
            .replaced = has("discriminator_predictions/dense/kernel")};
  }
  if (format == ModelFormat::huggingface) {
    std::string prefix = huggingface_prefix(names, &reader);
    const std::string& pooler = names.huggingface_pooler;
    auto has_either = [&](const std::string& theirs, const std::string& ours) {
      return has(theirs + ".weight") || has(ours + ".weight");
    };
    return {.pooler = has_either(prefix + pooler.substr(names.huggingface_prefix.size() + 1),
                                 config.prefix + ".pooler.dense"),
            .pair = has_either(names.huggingface_pair_head, "cls.seq_relationship"),
            .language_model = has_either(names.huggingface_transform, "cls.predictions.transform.dense"),
            .replaced = has("discriminator_predictions.dense.weight")};
  }
  // Keras numbers its dense layers without saying what they are: mapping, then output layer, pooler and pair head.
  HeadsPresent heads{.language_model = has(names.keras_head)};
  int64_t rest = count_keras_dense(reader) - (config.embedding_size != config.info.hidden_size ? 1 : 0) -
                 (heads.language_model ? 1 : 0);
  const TensorInfo* last = reader.find(keras_layer("dense", count_keras_dense(reader) - 1) + "/vars/0");
  if (rest == 2 && last != nullptr && last->shape.rank() == 2) {
    heads.replaced = last->shape[1] == 1;
    heads.pooler = heads.pair = last->shape[1] == 2;
  }
  if (rest == 1) heads.pooler = true;
  return heads;
}

}  // namespace weft
