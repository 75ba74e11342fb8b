// A device for finding mistakes where there is no GPU: the CPU's kernels on memory that only kernels and the
// allocator's own copies may touch. Code above the kernels that reads a tensor's elements directly, which a GPU would
// not allow, ends with a segmentation fault.
#pragma once

#include <memory>

#include "core/memory.h"
#include "kernels/kernels.h"

namespace weft {

std::shared_ptr<Allocator> make_guarded_allocator();

const KernelTable& guarded_kernels();

}  // namespace weft
