// The grid of ranks: data × tensor parallel. Ranks of a tensor-parallel group are neighbours.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace weft {

class Mesh {
 public:
  /// world.size() must be a multiple of tensor_parallel; 0 takes all ranks as tensor parallel. Throws Error(usage)
  /// otherwise.
  Mesh(std::shared_ptr<Communicator> world, int tensor_parallel);

  Communicator& world() const { return *world_; }
  /// The ranks that hold the other slices of this rank's weights.
  Communicator& tensor_parallel() const { return *tensor_parallel_; }
  /// The ranks that hold the same slices and other data.
  Communicator& data_parallel() const { return *data_parallel_; }

 private:
  std::shared_ptr<Communicator> world_;
  std::shared_ptr<Communicator> tensor_parallel_;
  std::shared_ptr<Communicator> data_parallel_;
};

}  // namespace weft
