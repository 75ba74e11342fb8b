// One rank of many, alone: for memory plans (kernels/planned.h).
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace weft {

/// Collectives return at once. In host memory, where their results may say how much is to be allocated, the other ranks
/// give what this one gives; elsewhere results stay as they were. What is started beside other work ends when it is
/// waited for. A group that is split off has as many ranks.
std::unique_ptr<Communicator> make_planned_communicator(int rank, int size);

/// Data-parallel rank `data_rank` and tensor-parallel rank `tensor_rank` of a mesh.
Mesh make_planned_mesh(int data_rank, int data, int tensor_rank, int tensor);

}  // namespace weft
