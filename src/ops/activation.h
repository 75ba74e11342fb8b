// Gated activations.
#pragma once

#include <string_view>

#include "autograd/context.h"

namespace weft {

/// act(gate) · up, element by element; both of the same shape.
Tensor gated_activation(Context& context, const Tensor& gate, const Tensor& up, Activation activation);

/// "silu"/"swish", "gelu_pytorch_tanh"/"gelu_new"/"gelu_tanh", "gelu", "relu", "linear": the configs' words. Throws
/// Error(bad_input) otherwise.
Activation parse_activation(std::string_view name);

}  // namespace weft
