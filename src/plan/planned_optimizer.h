// The states of src/optimizer and what an update takes besides, as memory.
#pragma once

#include <vector>

#include "optimizer/optimizer.h"
#include "plan/planned_shards.h"

namespace weft {

/// Bytes of state for these pieces, without what every rank holds of each parameter.
int64_t optimizer_piece_bytes(const OptimizerOptions& options, DType dtype, const std::vector<PlannedPiece>& pieces);

class PlannedOptimizer {
 public:
  /// Takes the states' memory. `trained` are all parameters, `pieces` this rank's parts of them.
  PlannedOptimizer(const PlanContext& context,
                   const OptimizerOptions& options,
                   const std::vector<Parameter*>& trained,
                   std::vector<PlannedPiece> pieces,
                   bool is_shared);
  /// Passes by the highest point of an update.
  void step() const;
  const std::vector<PlannedPiece>& pieces() const { return pieces_; }

 private:
  int64_t muon_workspace() const;
  int64_t adafactor_workspace() const;
  int64_t largest_piece() const;

  PlanContext context_;
  OptimizerOptions options_;
  std::vector<PlannedPiece> pieces_;
  bool is_shared_;
  int64_t vector_elements_ = 0;  // rows + columns of all factored parameters
  int64_t lazy_rows_ = 0;
  PlannedMemory states_;
};

}  // namespace weft
