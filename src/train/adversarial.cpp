#include "train/adversarial.h"

#include <cmath>

#include "optimizer/grad_norm.h"

namespace weft {

EmbeddingShift::EmbeddingShift(const Context& context,
                               const Parameter& table,
                               const std::vector<OptimizerPiece>& pieces,
                               TensorParallelPlace place,
                               const PieceSharing& sharing)
    : context_(context), place_(place), sharing_(sharing) {
  for (const OptimizerPiece& piece : pieces) {
    if (piece.parameter == &table) pieces_.push_back(piece);
  }
}

bool EmbeddingShift::apply(double epsilon) {
  double norm = global_grad_norm(context_, pieces_, place_, sharing_);
  if (!std::isfinite(norm)) return false;
  auto axpby = require_kernel(context_.kernels().elementwise.axpby, "add", context_.device.type);
  for (OptimizerPiece& piece : pieces_) {
    Tensor original = context_.empty(piece.weight.shape(), piece.weight.dtype(), MemoryTag::workspace);
    original.copy_from(piece.weight);
    originals_.push_back(std::move(original));
    axpby({.x = piece.grad.raw(),
           .y_in = piece.weight.raw(),
           .y = piece.weight.raw(),
           .count = piece.weight.num_elements(),
           .a = epsilon / (norm + 1e-8),
           .b = 1,
           .x_dtype = DType::f32,
           .y_dtype = piece.weight.dtype()},
          context_.stream());
  }
  return true;
}

void EmbeddingShift::undo() {
  for (size_t i = 0; i < originals_.size(); ++i) {
    pieces_[i].weight.copy_from(originals_[i]);
  }
  originals_.clear();
}

}  // namespace weft
