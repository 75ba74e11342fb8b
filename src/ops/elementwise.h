// Sums, scales, soft caps, softmax, dropout.
#pragma once

#include "autograd/context.h"

namespace weft {

/// x + y, same shape and dtype.
Tensor add(Context& context, const Tensor& x, const Tensor& y);
/// factor · x
Tensor scale(Context& context, const Tensor& x, double factor);
/// cap · tanh(x / cap)
Tensor soft_cap(Context& context, const Tensor& x, float cap);
/// Over the last of two dimensions.
Tensor softmax(Context& context, const Tensor& x);

/// Which elements of the whole tensor these columns are, so that ranks drop the same ones at every split.
struct DropoutSite {
  uint32_t site = 0;  // the place in the model
  int64_t global_width = 0;
  int64_t column_begin = 0;
};
/// Zeroes elements with `probability` and scales the rest by 1 / (1 − probability); the same elements for the same
/// context.random and site.
Tensor dropout(Context& context, const Tensor& x, float probability, const DropoutSite& site);

}  // namespace weft
