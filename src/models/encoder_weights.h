// How encoders' weights are called in TensorFlow checkpoints, Keras files of bert4keras3 and safetensors. Ours are the
// names of Hugging Face's BERT under the family's prefix.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/encoder.h"
#include "models/family.h"
#include "models/weight_map.h"

namespace weft {

/// Where a family departs from BERT.
struct EncoderNames {
  std::string tensorflow_prefix = "bert";
  std::string tensorflow_embeddings = {};  // empty: PREFIX/embeddings
  std::string tensorflow_mapping = "bert/encoder/embedding_hidden_mapping_in";
  std::string tensorflow_transform = "cls/predictions/transform/dense";
  std::string tensorflow_transform_norm = "cls/predictions/transform/LayerNorm";
  std::string tensorflow_bias = "cls/predictions/output_bias";
  std::string huggingface_prefix = "bert";
  std::string huggingface_mapping = "bert.embeddings_project";
  std::string huggingface_pooler = "bert.pooler.dense";
  std::string huggingface_pair_head = "cls.seq_relationship";
  std::string huggingface_transform = "cls.predictions.transform.dense";
  std::string huggingface_transform_norm = "cls.predictions.transform.LayerNorm";
  std::string huggingface_bias = "cls.predictions.bias";
  std::string huggingface_decoder = "cls.predictions.decoder";  // the tied copy of table and bias
  /// Rows of the blocks in a format; null: BERT's.
  std::function<std::vector<WeightRow>(const EncoderConfig& config, ModelFormat format, const std::string& prefix)>
      block_rows = nullptr;
  /// Rows of the embedding and the heads in Keras files, where the layers are not BERT's; null: BERT's.
  std::function<std::vector<WeightRow>(const EncoderConfig& config)> keras_outer_rows = nullptr;
  bool has_huggingface = true;
  bool names_parameters = true;  // parameters have transformers' names, where it has the family
  bool has_tensorflow = true;
  bool has_keras = true;
  std::vector<std::string> keras_ignored = {};
  std::string keras_head = "layers/scale_offset/vars/0";  // tells that the output layer is there
};

/// The map of a format. `reader` (or null) decides between spellings that a format has had over time.
WeightMap encoder_weights(const EncoderConfig& config,
                          const EncoderNames& names,
                          ModelFormat format,
                          const CheckpointReader* reader);

/// Rows of BERT's blocks.
std::vector<WeightRow> bert_block_rows(const EncoderConfig& config, ModelFormat format, const std::string& prefix);

/// Which heads a checkpoint holds.
struct HeadsPresent {
  bool pooler = false, pair = false, language_model = false, replaced = false;
};
HeadsPresent heads_in(const EncoderConfig& config,
                      const EncoderNames& names,
                      ModelFormat format,
                      const CheckpointReader& reader);

/// Number of Keras layers named dense, dense_1, … in a file.
int64_t count_keras_dense(const CheckpointReader& reader);

/// "layers/dense/vars/0" for number 0, "layers/dense_3/vars/1", …
std::string keras_layer(const std::string& kind, int64_t number);

}  // namespace weft
