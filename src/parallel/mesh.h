// The grid of ranks: data × tensor parallel. Ranks of a tensor-parallel group are neighbours.
#pragma once

#include <memory>
#include <utility>

#include "parallel/communicator.h"

namespace weft {

class Mesh {
 public:
  /// world.size() must be a multiple of tensor_parallel; 0 takes all ranks as tensor parallel. Throws Error(usage)
  /// otherwise.
  Mesh(std::shared_ptr<Communicator> world, int tensor_parallel);
  /// Of groups that there are already.
  Mesh(std::shared_ptr<Communicator> world,
       std::shared_ptr<Communicator> tensor_parallel,
       std::shared_ptr<Communicator> data_parallel)
      : world_(std::move(world)),
        tensor_parallel_(std::move(tensor_parallel)),
        data_parallel_(std::move(data_parallel)) {}

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
