#include "optimizer/grad_norm.h"

#include <cmath>

#include "optimizer/collectives.h"

namespace weft {

double global_grad_norm(const Context& context,
                        const std::vector<OptimizerPiece>& pieces,
                        TensorParallelPlace place,
                        const PieceSharing& sharing) {
  auto sum_of_squares =
      require_kernel(context.kernels().optimizer.sum_of_squares, "sum_of_squares", context.device.type);
  std::vector<double> sum(1);
  for (const OptimizerPiece& piece : pieces) {
    if (piece.begin == piece.end || !is_first_holder(piece.parameter->shard, place)) continue;
    // The kernel only reads.
    void* values = const_cast<void*>(piece.grad.raw());
    sum[0] +=
        sum_of_squares({.weight = values, .dtype = piece.grad.dtype()}, piece.end - piece.begin, context.stream());
  }
  sum_over_pieces(context, sharing, sum);
  return std::sqrt(sum[0]);
}

}  // namespace weft
