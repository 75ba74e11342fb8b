// Maps by which the tensor memory accelerator copies tiles of attention's arrays.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace weft::cuda::pipeline {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// The driver's function; null without.
inline EncodeTiled encode_tiled() {
  static const EncodeTiled function = []() -> EncodeTiled {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    constexpr unsigned kSince = 12000;
    cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, kSince, cudaEnableDefault, &result);
    if (error != cudaSuccess) cudaGetLastError();
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) return nullptr;
    return reinterpret_cast<EncodeTiled>(found);
  }();
  return function;
}

/// An array [rows, heads, head_dim] with strides in elements, copied as boxes of `box_rows` rows and 64 columns.
inline bool encode(CUtensorMap& map,
                   const void* from,
                   int64_t head_dim,
                   int64_t rows,
                   int64_t heads,
                   int64_t row_stride,
                   int64_t head_stride,
                   int box_rows) {
  auto positive = [](int64_t count) { return static_cast<cuuint64_t>(count > 0 ? count : 1); };
  cuuint64_t sizes[3] = {positive(head_dim), positive(rows), positive(heads)};
  cuuint64_t strides[2] = {static_cast<cuuint64_t>(row_stride) * 2, static_cast<cuuint64_t>(head_stride) * 2};
  cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_rows), 1};
  cuuint32_t steps[3] = {1, 1, 1};
  return encode_tiled()(&map,
                        CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                        3,
                        const_cast<void*>(from),
                        sizes,
                        strides,
                        box,
                        steps,
                        CU_TENSOR_MAP_INTERLEAVE_NONE,
                        CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace weft::cuda::pipeline
