// The parameters of all ranks that share pieces, in one order, and who holds what of each.
#pragma once

#include <string>
#include <vector>

#include "optimizer/optimizer.h"

namespace weft {

/// Elements [begin, end) of the slice of a tensor-parallel rank, on one of its data-parallel ranks.
struct HeldRun {
  int tensor_rank = 0, data_rank = 0;
  int64_t begin = 0, end = 0;
};

struct DirectoryParameter {
  std::string name;
  Shape full_shape;
  Shard shard;
  int64_t block = 0;
  std::vector<HeldRun> runs;  // by tensor rank, data rank, in the order of that rank's pieces
};

/// Without sharing.data_parallel the data ranks know nothing of each other: each counts as the only one.
class ParameterDirectory {
 public:
  /// Collective over the ranks of PieceSharing.
  ParameterDirectory(const std::vector<OptimizerPiece>& pieces, TensorParallelPlace place, const PieceSharing& sharing);

  /// By name; the same on every rank.
  const std::vector<DirectoryParameter>& parameters() const { return parameters_; }
  size_t size() const { return parameters_.size(); }
  const DirectoryParameter& operator[](size_t index) const { return parameters_[index]; }
  size_t index(const std::string& name) const;

 private:
  std::vector<DirectoryParameter> parameters_;
};

}  // namespace weft
