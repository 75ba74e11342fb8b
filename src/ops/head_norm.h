// Layer norm of each head by itself: RWKV's group norm.
#pragma once

#include "autograd/context.h"

namespace weft {

/// x [tokens, heads · head_size]: (x − mean)/sqrt(variance + eps) of each token's head, times weight and plus bias,
/// each [heads · head_size].
Tensor head_norm(
    Context& context, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t head_size, double eps);

}  // namespace weft
