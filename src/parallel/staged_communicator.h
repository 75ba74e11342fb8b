// Device tensors over a communicator that knows host memory only.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace weft {

/// Tensors on a GPU are copied to the host, where `inner` works on them, and back; the result is in place, in the order
/// of the GPU's stream, when the call returns. Tensors in host memory go straight to `inner`. Works wherever `inner`
/// does, with several ranks on one GPU too, at the price of both copies and of waiting for the GPU.
std::unique_ptr<Communicator> make_staged_communicator(std::shared_ptr<Communicator> inner);

}  // namespace weft
