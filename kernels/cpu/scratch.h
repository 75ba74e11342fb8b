// Scratch memory for the duration of one kernel, and the checks that kernels share.
#pragma once

#include <cstddef>
#include <new>

#include "core/error.h"
#include "kernels/stream.h"

namespace weft {

/// 64-byte aligned, from the stream's workspace (from the heap when it has none).
class Scratch {
 public:
  Scratch(const Stream& stream, size_t bytes) : allocator_(stream.workspace), bytes_(bytes) {
    pointer_ = allocator_ != nullptr ? allocator_->allocate(bytes_, MemoryTag::workspace)
                                     : ::operator new (bytes_, std::align_val_t{64});
  }
  ~Scratch() {
    if (allocator_ != nullptr) {
      allocator_->deallocate(pointer_, bytes_, MemoryTag::workspace);
    } else {
      ::operator delete (pointer_, std::align_val_t{64});
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::byte* data() { return static_cast<std::byte*>(pointer_); }

 private:
  Allocator* allocator_;
  size_t bytes_;
  void* pointer_ = nullptr;
};

/// The dtypes that vector kernels compute with.
inline void check_loop_dtype(DType dtype, const char* kernel) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f64) {
    fail(ExitCode::failure, "{} has no cpu kernel for {}", kernel, dtype_name(dtype));
  }
}

}  // namespace weft
