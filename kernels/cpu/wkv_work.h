// One sequence and head of kernels/wkv.h: what one thread works on alone.
#pragma once

#include <cstdint>

#include "kernels/wkv.h"

namespace weft {

struct WkvWork {
  const WkvSequence* sequence = nullptr;
  int64_t index = 0;  // of the sequence
  int64_t head = 0;
  void* scratch = nullptr;  // wkv_forward_scratch or wkv_backward_scratch bytes
  void* du = nullptr;       // backward: [N] f32 (f64), overwritten
};

}  // namespace weft
