// A kernel's parameter that changes from one decoding step to the next.
#pragma once

#include "kernels/cuda/device.h"

namespace weft::cuda {

/// The value itself, or, in a step that runs as a graph (kernels/cuda/step_graph.h), where the kernel finds it. To be
/// declared as `const __grid_constant__ Varying<T>`, so that get() makes no copy.
template <typename T>
struct Varying {
  const T* elsewhere = nullptr;
  T value = {};

  __device__ __forceinline__ const T& get() const { return elsewhere != nullptr ? *elsewhere : value; }
};

template <typename T>
Varying<T> varying(CudaDevice& device, const T& value) {
  return {static_cast<const T*>(device.graphs().varying(&value, sizeof(T))), value};
}

}  // namespace weft::cuda
