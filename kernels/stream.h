// What a kernel needs besides its arguments: how many threads it may use and where scratch memory comes from.
#pragma once

#include "core/memory.h"
#include "core/tensor.h"

namespace weft {

struct Stream {
  Device device;
  int num_threads = 1;
  Allocator* workspace = nullptr;  // for scratch with MemoryTag::workspace
};

}  // namespace weft
