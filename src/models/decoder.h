// The pre-norm decoder that Llama, Qwen2, Gemma and Gemma2 are settings of: grouped-query rotary attention, gated
// feed-forward, RMS norms, and optionally norms after each branch (Gemma2). A family's file fills DecoderConfig from
// each config format.
//
// Axes: T tokens of a packed batch, H hidden size, V vocabulary (local columns).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/model.h"
#include "models/rope_settings.h"
#include "nn/layers.h"

namespace weft {

struct DecoderConfig {
  ModelInfo info;
  bool qkv_bias = false;
  bool output_bias = false;
  RmsNormOptions norm;
  bool norm_after_branches =
      false;                   // Gemma2: attention and feed-forward outputs are normed before the residual addition
  double embedding_scale = 1;  // Gemma: sqrt(hidden_size)
  Activation activation = Activation::silu;
  double attention_scale = 0;     // multiplies q·k; usually 1 / sqrt(head_dim)
  double attention_soft_cap = 0;  // 0: none
  double logit_soft_cap = 0;      // 0: none
  float attention_dropout = 0;    // of attention weights
  std::vector<int64_t> windows;   // a layer's sliding window, 0 for full attention; empty: full everywhere
  RopeSettings rope;
  std::vector<double> inverse_frequency;  // [head_dim / 2], by the rope settings
};

/// 0 where no layer has one.
int64_t widest_window(const DecoderConfig& config);

std::unique_ptr<LanguageModel> make_decoder(const DecoderConfig& config, TensorParallelPlace place);

}  // namespace weft
