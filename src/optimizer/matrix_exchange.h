// Whole matrices from the pieces that ranks hold, and back.
#pragma once

#include <vector>

#include "optimizer/parameter_directory.h"

namespace weft {

/// The rank that gets a whole matrix.
struct MatrixOwner {
  int tensor_rank = 0, data_rank = 0;
  bool operator==(const MatrixOwner&) const = default;
};

/// Values [begin, end) of this rank's local slice.
struct SlicePart {
  int64_t begin = 0, end = 0;
  Tensor values;  // f32
};

/// Messages go over the data-parallel group first and then over the tensor-parallel one. Every rank must work through
/// the same parameters in the same order.
class MatrixExchange {
 public:
  MatrixExchange(const Context& context, TensorParallelPlace place, const PieceSharing& sharing);

  MatrixOwner self() const { return {place_.rank, data_rank_}; }
  /// The matrix on its owner, undefined elsewhere. `parts` are this rank's pieces, in the directory's order.
  /// Collective.
  Tensor gather(const DirectoryParameter& parameter, MatrixOwner owner, const std::vector<SlicePart>& parts) const;
  /// Fills `parts` on every rank from the owner's matrix. Collective.
  void scatter(const DirectoryParameter& parameter,
               MatrixOwner owner,
               const Tensor& matrix,
               std::vector<SlicePart>& parts) const;

 private:
  ShardRange range_of(const DirectoryParameter& parameter, int tensor_rank) const;
  bool counts(const DirectoryParameter& parameter, int tensor_rank) const;
  Tensor empty_slice(const DirectoryParameter& parameter, int tensor_rank) const;
  Tensor gather_slice(const DirectoryParameter& parameter, int data_rank, const std::vector<SlicePart>& parts) const;
  void scatter_slice(const DirectoryParameter& parameter,
                     int data_rank,
                     const Tensor& slice,
                     std::vector<SlicePart>& parts) const;

  Context context_;
  TensorParallelPlace place_;
  PieceSharing sharing_;
  int data_rank_ = 0;
};

}  // namespace weft
