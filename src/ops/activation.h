// Activations, plain and gated.
#pragma once

#include <string_view>

#include "autograd/context.h"

namespace weft {

/// act(x), element by element.
Tensor activation(Context& context, const Tensor& x, Activation kind);

/// act(gate) · up, element by element; both of the same shape.
Tensor gated_activation(Context& context, const Tensor& gate, const Tensor& up, Activation activation);

/// "silu"/"swish", "gelu_pytorch_tanh"/"gelu_new"/"gelu_tanh", "gelu"/"gelu_erf", "relu", "squared_relu"/"relu2",
/// "linear", "tanh", "sigmoid": the configs' words. Throws Error(bad_input) otherwise.
Activation parse_activation(std::string_view name);
/// A name that parse_activation knows it by.
std::string_view activation_name(Activation activation);

}  // namespace weft
