// Small decoders of each kind with random weights, for tests of what all families share.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/decoder_formats.h"
#include "models/registry.h"

namespace weft::testing {

struct NamedDecoder {
  std::string name;
  DecoderConfig config;
};

inline DecoderConfig small_decoder(int64_t num_heads, int64_t num_kv_heads) {
  DecoderConfig config;
  config.info = {.family = "test",
                 .vocab_size = 37,
                 .hidden_size = 24,
                 .intermediate_size = 32,
                 .num_layers = 3,
                 .num_heads = num_heads,
                 .num_kv_heads = num_kv_heads,
                 .head_dim = 6,
                 .max_positions = 64,
                 .tied_embedding = false,
                 .end_ids = {}};
  config.attention_scale = 1 / std::sqrt(6.0);
  config.inverse_frequency = rope_frequencies({}, 6);
  return config;
}

inline std::vector<NamedDecoder> small_decoders() {
  DecoderConfig llama = small_decoder(4, 4);
  llama.norm.round_before_weight = true;
  DecoderConfig qwen = small_decoder(8, 2);
  qwen.qkv_bias = true;
  qwen.output_bias = true;
  qwen.info.tied_embedding = true;
  DecoderConfig gemma2 = small_decoder(4, 1);
  gemma2.norm.weight_offset = 1;
  gemma2.norm_after_branches = true;
  gemma2.embedding_scale = std::sqrt(24.0);
  gemma2.activation = Activation::gelu_tanh;
  gemma2.attention_soft_cap = 5;
  gemma2.logit_soft_cap = 3;
  gemma2.windows = {3, 0, 3};
  gemma2.info.tied_embedding = true;
  // SmolLM2's heads: shared unevenly by two ranks; and an odd number of query heads for each key/value head.
  DecoderConfig uneven = small_decoder(9, 3);
  DecoderConfig odd_groups = small_decoder(6, 2);
  return {{"llama", llama}, {"qwen", qwen}, {"gemma2", gemma2}, {"uneven", uneven}, {"odd_groups", odd_groups}};
}

/// The model at a place, every value random; not too small, so that no path vanishes.
inline std::unique_ptr<LanguageModel> make_random(Context& context,
                                                  const DecoderConfig& config,
                                                  TensorParallelPlace place,
                                                  DType dtype) {
  auto model = make_decoder(config, place);
  initialise_parameters(context, *model, {.dtype = dtype, .for_training = true}, 17);
  return model;
}

}  // namespace weft::testing
