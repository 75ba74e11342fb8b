// Root-mean-square norm and layer norm, alone or fused with the residual addition before them.
#pragma once

#include <cstdint>
#include <span>

#include "autograd/context.h"

namespace weft {

struct RmsNormOptions {
  double eps = 1e-6;
  float weight_offset = 0;           // Gemma multiplies by 1 + weight
  bool round_before_weight = false;  // Llama rounds the normalised value to the compute dtype first
};

/// x is [rows, width], weight [width]. (Without a weight: layer_norm with subtract_mean false.)
Tensor rms_norm(Context& context, const Tensor& x, const Tensor& weight, const RmsNormOptions& options);

struct ResidualNorm {
  Tensor sum;     // x + residual
  Tensor normed;  // rms_norm(sum)
};

/// One pass over memory for the addition and the norm after it.
ResidualNorm add_rms_norm(
    Context& context, const Tensor& x, const Tensor& residual, const Tensor& weight, const RmsNormOptions& options);

/// add_rms_norm of rms_norm(x, inner_weight): one pass where nothing is recorded and the device can.
ResidualNorm add_normed_rms_norm(Context& context,
                                 const Tensor& x,
                                 const Tensor& inner_weight,
                                 const Tensor& residual,
                                 const Tensor& weight,
                                 const RmsNormOptions& options);

/// x itself and its norm, for an x that already is the sum: the gradients of both are joined in one rounding.
ResidualNorm pass_rms_norm(Context& context, const Tensor& x, const Tensor& weight, const RmsNormOptions& options);

struct LayerNormParameters {
  const Tensor* weight = nullptr;        // [width], or [groups, width]; null: ones
  const Tensor* bias = nullptr;          // likewise; null: zeros
  std::span<const int32_t> groups = {};  // one a row of x: its row of weight and bias; empty: all 0
  bool subtract_mean = true;             // false: an RMS norm
};

/// Layer norm (Ba et al., 2016) of x [rows, width], statistics in f32.
Tensor layer_norm(Context& context, const Tensor& x, const LayerNormParameters& parameters, double eps);

/// layer_norm(x + residual) in one pass.
Tensor add_layer_norm(
    Context& context, const Tensor& x, const Tensor& residual, const LayerNormParameters& parameters, double eps);

}  // namespace weft
