#include "optimizer/grad_norm.h"

#include <cmath>

#include "optimizer/collectives.h"

namespace weft {

double global_grad_norm(const Context& context,
                        const std::vector<OptimizerPiece>& pieces,
                        TensorParallelPlace place,
                        const PieceSharing& sharing) {
  auto sum_of_all_squares =
      require_kernel(context.kernels().optimizer.sum_of_all_squares, "sum_of_all_squares", context.device.type);
  std::vector<SquaredArray> gradients;
  for (const OptimizerPiece& piece : pieces) {
    if (piece.begin == piece.end || !is_first_holder(piece.parameter->shard, place)) continue;
    gradients.push_back({piece.grad.pointer<float>(), piece.end - piece.begin});
  }
  std::vector<double> sum{sum_of_all_squares(gradients, context.stream())};
  sum_over_pieces(context, sharing, sum);
  return std::sqrt(sum[0]);
}

}  // namespace weft
