// Each token gets the row of the token before it (RWKV's token shift: Peng et al., 2023).
#pragma once

#include <span>

#include "ops/wkv.h"

namespace weft {

/// y[i] = x[i − 1] of x [rows, width] in each sequence; its first row is that of its slot in `last` [slots, width],
/// dtype as x, or zeros without it.
Tensor token_shift(Context& context, const Tensor& x, std::span<const WkvSpan> sequences, const Tensor* last);

/// The same from `last`, whose rows become the last of each sequence (slots must differ). Has no backward.
Tensor cached_token_shift(Context& context, const Tensor& x, std::span<const WkvSpan> sequences, Tensor& last);

}  // namespace weft
