// Adversarial training of the embedding (../docs/training.md has the formulas as bert4keras' examples use them).
#pragma once

#include <vector>

#include "optimizer/optimizer.h"

namespace weft {

/// Moves the embedding table by epsilon · g / (‖g‖ + 1e-8), g its gradient, and back (FGM: Miyato et al., 2017). The
/// norm is over the whole table, whatever ranks hold it.
class EmbeddingShift {
 public:
  /// Picks the table's pieces; those of other parameters are left alone.
  EmbeddingShift(const Context& context,
                 const Parameter& table,
                 const std::vector<OptimizerPiece>& pieces,
                 TensorParallelPlace place,
                 const PieceSharing& sharing);
  /// Collective. Returns false, on every rank, when the gradient is not finite.
  bool apply(double epsilon);
  void undo();

 private:
  const Context& context_;
  std::vector<OptimizerPiece> pieces_;
  std::vector<Tensor> originals_;
  TensorParallelPlace place_;
  PieceSharing sharing_;
};

}  // namespace weft
