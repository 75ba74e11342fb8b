// For losses whose gradient is computed with them.
#pragma once

#include <vector>

#include "autograd/context.h"

namespace weft {

/// An input of a loss and the loss's gradient there, row-major.
struct LossInput {
  const Tensor* tensor;
  std::vector<double> gradient;
};

/// A loss of one element, f32 (f64 where the first input is f64), whose backward hands over the gradients. They may be
/// empty when nothing is recorded.
Tensor make_loss(Context& context, double value, std::vector<LossInput> inputs);

/// All elements of a tensor of floats.
std::vector<double> to_doubles(const Tensor& tensor);

}  // namespace weft
