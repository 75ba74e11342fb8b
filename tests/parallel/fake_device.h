// A GPU for tests of the communicators on a machine without one.
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/communicator.h"
#include "parallel/fake_streams.h"

namespace weft {

/// Set in the addresses of the fake GPU's memory, which is the host's: no address of a process has this bit, so that
/// whoever reads one without taking it off ends there.
inline constexpr uintptr_t kFakeDeviceBit = uintptr_t{1} << 62;

/// What freed memory is filled with, when the stream gets there: a NaN in all types of floats.
inline constexpr int kFreedByte = 0xFF;

/// Memory that says it lies on a GPU. Only its own copies can touch it. They run on a stream, and by its order freed
/// blocks are used again, the last one first.
std::shared_ptr<Allocator> make_fake_device();

/// The stream of a fake device.
FakeStream& fake_stream(Allocator& fake_device);

/// The host's address of the fake GPU's memory: for work on a stream.
template <typename T = void>
T* real_address(const void* pointer) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) & ~kFakeDeviceBit);
}

/// The communicator with its tensors on `device`: copies each tensor there, lets `inner` work on the copy, and takes
/// the result back. So the conformance test, which knows host memory, tests `inner` on device memory.
std::unique_ptr<Communicator> on_device(std::unique_ptr<Communicator> inner, std::shared_ptr<Allocator> device);

}  // namespace weft
