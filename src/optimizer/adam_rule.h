// Adam's arithmetic, which AdamW, LAMB and the vectors of Muon share.
#pragma once

#include "optimizer/piece_set.h"

namespace weft {

/// update = scale·m / (root_scale·√v + ε): bias correction and the placement of ε.
struct AdamCoefficients {
  double scale = 1, root_scale = 1;
};
AdamCoefficients adam_coefficients(const OptimizerOptions& options, int64_t update);

/// The moments of the pieces that `wanted` accepts.
class AdamMoments {
 public:
  explicit AdamMoments(PieceSet& pieces, const std::function<bool(size_t index)>& wanted = {});
  /// Arguments for one run of a piece, without rate and decay.
  AdamArgs args(size_t index, const ElementRun& run, const OptimizerStep& step) const;
  /// AdamW's update of the active runs of a piece.
  void update(size_t index, const OptimizerStep& step) const;

 private:
  PieceSet& pieces_;
  std::vector<Tensor>& exp_avg_;
  std::vector<Tensor>& exp_avg_sq_;
};

}  // namespace weft
