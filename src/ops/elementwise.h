// Sums, scales, soft caps, softmax, dropout.
#pragma once

#include "autograd/context.h"

namespace weft {

/// x + y, same shape and dtype.
Tensor add(Context& context, const Tensor& x, const Tensor& y);
/// factor · x
Tensor scale(Context& context, const Tensor& x, double factor);
/// x, the value of a parameter, whose gradients are f32 whatever its dtype, in a wider dtype.
Tensor widen(Context& context, const Tensor& x, DType dtype);
/// x, whose gradient is passed on times `factor`.
Tensor scale_gradient(Context& context, const Tensor& x, double factor);
/// x [rows, width] with each column times a factor [width] that is learned.
Tensor scale_columns(Context& context, const Tensor& x, const Tensor& factors);
/// cap · tanh(x / cap)
Tensor soft_cap(Context& context, const Tensor& x, float cap);
/// Over the last of two dimensions.
Tensor softmax(Context& context, const Tensor& x);

/// Which elements of the whole tensor these are, so that ranks drop the same ones at every split.
struct DropoutSite {
  uint32_t site = 0;  // the place in the model
  int64_t global_width = 0;
  int64_t row_begin = 0;  // counted from context.first_token
  int64_t column_begin = 0;
};
/// With context.training: zeroes elements with `probability` and scales the rest by 1 / (1 − probability); the same
/// elements for the same context.random, context.first_token and site. Else x.
Tensor dropout(Context& context, const Tensor& x, float probability, const DropoutSite& site);

/// For nodes that drop as part of what they do: the mask as a function of the context that it was drawn in.
class DropoutMask {
 public:
  DropoutMask() = default;
  DropoutMask(const Context& context, float probability, const DropoutSite& site);
  bool is_empty() const { return probability_ == 0; }
  /// x with elements dropped, not recorded; for a gradient of the same shape the backward of that.
  Tensor apply(Context& context, const Tensor& x) const;

 private:
  float probability_ = 0;
  DropoutSite site_;
  int64_t row_begin_ = 0;
  RandomKey key_;
};

}  // namespace weft
