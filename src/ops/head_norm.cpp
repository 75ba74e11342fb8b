#include "ops/head_norm.h"

#include <vector>

#include "core/error.h"
#include "ops/norm.h"

namespace weft {

Tensor head_norm(
    Context& context, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t head_size, double eps) {
  WEFT_ASSERT(x.rank() == 2 && head_size > 0 && x.size(1) % head_size == 0 && weight.num_elements() == x.size(1) &&
                  bias.num_elements() == x.size(1),
              "head_norm: x {}, weight {}, bias {}, head size {}",
              to_string(x.shape()),
              to_string(weight.shape()),
              to_string(bias.shape()),
              head_size);
  int64_t heads = x.size(1) / head_size;
  int64_t rows = x.size(0) * heads;
  std::vector<int32_t> head_of_row(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) head_of_row[static_cast<size_t>(row)] = static_cast<int32_t>(row % heads);
  Tensor head_weight = weight.reshape({heads, head_size}), head_bias = bias.reshape({heads, head_size});
  Tensor normed = layer_norm(
      context, x.reshape({rows, head_size}), {.weight = &head_weight, .bias = &head_bias, .groups = head_of_row}, eps);
  return normed.reshape(x.shape());
}

}  // namespace weft
