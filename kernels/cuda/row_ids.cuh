// Row numbers on their way from the host to a kernel.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/device.h"

namespace weft::cuda {

/// Row numbers of a small call (decoding) travel with the launch and save an upload.
struct InlineIds {
  static constexpr int64_t kCount = 256;
  int32_t values[kCount];
  __device__ __forceinline__ int32_t at(int64_t i) const { return values[i]; }
};
struct UploadedIds {
  const int32_t* values;
  __device__ __forceinline__ int32_t at(int64_t i) const { return values[i]; }
};

/// Calls launch(ids) with InlineIds or UploadedIds, whichever fits; they may be used until it returns.
template <typename Launch>
void with_row_ids(const int32_t* ids, int64_t count, CudaDevice& device, const Launch& launch) {
  if (const int32_t* late = device.late_values(ids, count)) return launch(UploadedIds{late});
  // In a step that runs as a graph: where the graph finds them.
  const void* varying = device.graphs().varying(ids, static_cast<size_t>(count) * sizeof(int32_t));
  if (varying != nullptr) {
    launch(UploadedIds{static_cast<const int32_t*>(varying)});
  } else if (count <= InlineIds::kCount) {
    InlineIds values{};
    std::copy_n(ids, count, values.values);
    launch(values);
  } else {
    auto values = uploaded(device, ids, count);
    launch(UploadedIds{values.data()});
  }
}

}  // namespace weft::cuda
