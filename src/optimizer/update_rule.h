// One optimizer's arithmetic on a set of pieces; averages, lookahead and checkpoints are common to all (optimizer.cpp).
#pragma once

#include <memory>
#include <vector>

#include "optimizer/piece_set.h"

namespace weft {

class UpdateRule {
 public:
  virtual ~UpdateRule() = default;
  /// Updates the active runs of all pieces. Collective over the ranks of PieceSharing.
  virtual void step(const OptimizerStep& step) = 0;
  virtual std::vector<OptimizerVector> vectors() { return {}; }
};

// Each adds its states to `pieces`, which must outlive it. Those of LAMB, Adafactor and Muon are collective.
std::unique_ptr<UpdateRule> make_adam_rule(PieceSet& pieces);
std::unique_ptr<UpdateRule> make_lamb_rule(PieceSet& pieces);
std::unique_ptr<UpdateRule> make_lion_rule(PieceSet& pieces);
std::unique_ptr<UpdateRule> make_sgd_rule(PieceSet& pieces);
std::unique_ptr<UpdateRule> make_adafactor_rule(PieceSet& pieces);
std::unique_ptr<UpdateRule> make_muon_rule(PieceSet& pieces);

/// Whether Muon orthogonalises this parameter's updates: matrices of blocks.
bool is_muon_matrix(const Shape& full_shape, int64_t block);

}  // namespace weft
