// Gradients against centred finite differences, in double.
#pragma once

#include <functional>
#include <vector>

#include "autograd/tape.h"

namespace weft::testing {

/// A tensor of f64 with reproducible values in [−scale, scale].
Tensor random_tensor(Context& context, const Shape& shape, uint64_t seed, double scale = 1.0);

/// The function under test: any tensor from the inputs. Each element of the result is weighted by a fixed random
/// number, so that every path of the gradient counts; a single element by 1.
using TensorFunction = std::function<Tensor(Context& context, const std::vector<Tensor>& inputs)>;

/// Compares the gradient of every element of every input with (f(x + h) − f(x − h)) / 2h; fails the test beyond
/// `tolerance` relative to the largest gradient of that input.
void check_gradients(Context& context,
                     const std::vector<Tensor>& inputs,
                     const TensorFunction& function,
                     double tolerance = 1e-7);

}  // namespace weft::testing
