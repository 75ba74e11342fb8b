// A decoder in the formats that decoders come in.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "models/family.h"

namespace weft {

/// The names of its weights, and what its config says in a format beside what every decoder's does.
struct DecoderFormats {
  WeightMap huggingface;
  WeightMap keras_hdf5;
  WeightMap gguf;
  using AddKeys = std::function<void(const DecoderConfig& config, nlohmann::ordered_json& keys)>;
  AddKeys add_huggingface_keys = nullptr;  // `architectures` at least
  AddKeys add_keras_keys = nullptr;        // throw Error(bad_input) for what bert4keras3 cannot express
  std::string gguf_architecture = {};      // general.architecture
  /// Adds keys that begin with the architecture's name; throws Error(bad_input) for what GGUF cannot express beyond
  /// biases, output biases and activations other than the family's own.
  AddKeys add_gguf_keys = nullptr;
  bool gguf_qkv_bias = false;
  Activation gguf_activation = Activation::silu;
};

/// `own`: the format that the config was read from.
ModelDefinition decoder_definition(ModelFormat own, const DecoderConfig& config, const DecoderFormats& formats);

}  // namespace weft
