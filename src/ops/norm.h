// Root-mean-square norm, alone or fused with the residual addition before it.
#pragma once

#include "autograd/context.h"

namespace weft {

struct RmsNormOptions {
  double eps = 1e-6;
  float weight_offset = 0;           // Gemma multiplies by 1 + weight
  bool round_before_weight = false;  // Llama rounds the normalised value to the compute dtype first
};

/// x is [rows, width], weight [width].
Tensor rms_norm(Context& context, const Tensor& x, const Tensor& weight, const RmsNormOptions& options);

struct ResidualNorm {
  Tensor sum;     // x + residual
  Tensor normed;  // rms_norm(sum)
};

/// One pass over memory for the addition and the norm after it.
ResidualNorm add_rms_norm(
    Context& context, const Tensor& x, const Tensor& residual, const Tensor& weight, const RmsNormOptions& options);

/// x itself and its norm, for an x that already is the sum: the gradients of both are joined in one rounding.
ResidualNorm pass_rms_norm(Context& context, const Tensor& x, const Tensor& weight, const RmsNormOptions& options);

}  // namespace weft
