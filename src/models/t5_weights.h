// How T5's weights are called in TensorFlow checkpoints, Keras files of bert4keras3 and safetensors. Ours are the names
// of Hugging Face's T5.
#pragma once

#include <optional>

#include "models/encoder_decoder.h"
#include "models/family.h"

namespace weft {

/// Where the formats' files depart from each other.
struct T5Names {
  bool has_rms_norm_names = false;     // TensorFlow: rms_norm for layer_norm (mT5, T5-PEGASUS)
  bool has_late_encoder_norm = false;  // Keras: written by a model without dropout and cross bias
};

WeightMap t5_weights(const EncoderDecoderConfig& config, const T5Names& names, ModelFormat format);

/// The encoder alone or the decoder alone in a Keras file of both, whose names are not those that it would have by
/// itself; null where the file holds nothing else.
std::optional<WeightMap> half_in_whole_keras_file(const EncoderDecoderConfig& whole,
                                                  bool is_encoder,
                                                  const T5Names& names,
                                                  const CheckpointReader& reader);

}  // namespace weft
