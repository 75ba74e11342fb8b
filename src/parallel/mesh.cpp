#include "parallel/mesh.h"

#include "core/error.h"

namespace weft {

Mesh::Mesh(std::shared_ptr<Communicator> world, int tensor_parallel) : world_(std::move(world)) {
  const int size = world_->size();
  const int rank = world_->rank();
  const int degree = tensor_parallel == 0 ? size : tensor_parallel;
  if (degree < 0 || size % degree != 0) {
    fail(ExitCode::usage,
         "tensor-parallel degree {} does not fit {} rank{}: the number of ranks must be a multiple of it; "
         "start the command with that many ranks (weft launch -n …) or choose another degree",
         degree,
         size,
         size == 1 ? "" : "s");
  }
  tensor_parallel_ = world_->split(rank / degree, rank);
  data_parallel_ = world_->split(rank % degree, rank);
}

}  // namespace weft
