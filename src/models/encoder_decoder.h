// The encoder-decoder that T5 and its kin are settings of: pre-norm blocks without biases, relative positions as a bias
// of attention scores (Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
// Transformer", 2020). Also each half alone.
//
// Axes: T tokens of a packed batch, H hidden size, E embedding size, V vocabulary.
#pragma once

#include <memory>
#include <string>

#include "models/model.h"
#include "nn/encoder_decoder_layers.h"

namespace weft {

struct EncoderDecoderConfig {
  ModelInfo info;                  // num_layers is that of the decoder, or of an encoder alone
  int64_t num_encoder_layers = 0;  // 0: a decoder alone, whose sources come as states
  int64_t num_decoder_layers = 0;  // 0: an encoder alone
  int64_t embedding_size = 0;      // other than hidden_size: dense layers between
  int64_t num_buckets = 32;
  int64_t max_distance = 128;
  bool is_rotary = false;              // MisakaT5: self-attention rotates queries and keys instead
  bool has_bias_per_layer = false;     // UMT5: each layer has a table of its own; else those of a stack share one
  bool has_cross_bias = false;         // the decoder's table serves cross-attention too
  bool has_cached_cross_bias = false;  // and so it does through a cache (not in bert4keras3)
  bool is_gated = true;                // the feed-forward
  Activation activation = Activation::gelu_tanh;
  double eps = 1e-6;
  double output_scale = 1;  // of what the output layer reads
  float dropout = 0;
  float attention_dropout = 0;  // of attention weights
};

std::unique_ptr<LanguageModel> make_encoder_decoder(const EncoderDecoderConfig& config, TensorParallelPlace place);

}  // namespace weft
