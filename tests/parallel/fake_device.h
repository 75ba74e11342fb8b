// A GPU for tests of the communicators on a machine without one.
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/communicator.h"

namespace weft {

/// Set in the addresses of the fake GPU's memory, which is the host's: no address of a process has this bit, so that
/// whoever reads one without taking it off ends there.
inline constexpr uintptr_t kFakeDeviceBit = uintptr_t{1} << 62;

/// Memory that says it lies on a GPU. Only its own copies can touch it.
std::shared_ptr<Allocator> make_fake_device();

/// The communicator with its tensors on `device`: copies each tensor there, lets `inner` work on the copy, and takes
/// the result back. So the conformance test, which knows host memory, tests `inner` on device memory.
std::unique_ptr<Communicator> on_device(std::unique_ptr<Communicator> inner, std::shared_ptr<Allocator> device);

}  // namespace weft
