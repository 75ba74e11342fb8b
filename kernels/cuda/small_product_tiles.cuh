// What the kernels of small_product.cu share: their parameters, which warp has which rows of which weight, loads, and
// the end of a product.
#pragma once

#include "kernels/cuda/activation_math.cuh"
#include "kernels/cuda/common.cuh"

namespace weft::cuda::small_product_parts {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = kWarps * 32;
inline constexpr int kMaxWeights = 8;  // of one launch

struct SmallWeight {
  const void* weight;
  const void* bias;
  void* y;
  int64_t out_features;
  int64_t tile_end;  // one behind its last tile, counted over all weights of the launch
};

struct Parameters {
  SmallWeight weights[kMaxWeights];
  const void* x;
  int64_t num_tiles;
  int in_features;
  int row_packs;  // packs of 16 bytes in a row, where it is whole packs
  int rows;
  int num_weights;
  int log_split;  // 1, 2, 4 or 8 warps share a tile: the logarithm
  Activation activation;
  bool y_is_f32;
};

/// Some rows of a weight, as many as a warp takes.
struct Tile {
  const SmallWeight* weight;
  int64_t first_row;
};

template <int kTileRows>
__device__ __forceinline__ Tile find_tile(const Parameters& parameters, int64_t tile) {
  int index = 0;
  int64_t begin = 0;
  while (index + 1 < parameters.num_weights && tile >= parameters.weights[index].tile_end) {
    begin = parameters.weights[index].tile_end;
    ++index;
  }
  return {&parameters.weights[index], (tile - begin) * kTileRows};
}

/// The tile of a warp; the last one also stands for those behind it, which have no results.
__device__ __forceinline__ int64_t warp_tile(const Parameters& parameters, int warp) {
  int64_t tile = static_cast<int64_t>(blockIdx.x) * (kWarps >> parameters.log_split) + (warp >> parameters.log_split);
  return min(tile, parameters.num_tiles - 1);
}

/// Begins to copy 16 bytes of a weight into shared memory, past the first-level cache; zeros where not `valid`.
__device__ __forceinline__ void start_copy(uint4* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void end_copy_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Until at most `kPending` of this thread's groups are under way. What the older ones copied is then there for it.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// 16 bytes of x, which every warp reads; zeros where not `valid`.
__device__ __forceinline__ uint4 load_input(const void* pointer, bool valid) {
  return valid ? __ldg(static_cast<const uint4*>(pointer)) : make_uint4(0, 0, 0, 0);
}

/// Element i of 16 bytes of T.
template <typename T>
__device__ __forceinline__ float element(const uint4& raw, int i) {
  const uint32_t words[] = {raw.x, raw.y, raw.z, raw.w};
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(words[i]);
  } else {
    return __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
  }
}

/// Bias, activation and the one rounding of a sum.
template <typename T>
__device__ __forceinline__ void write_result(
    const Parameters& parameters, const SmallWeight& weight, int64_t feature, int row, float sum) {
  if (weight.bias != nullptr) sum += to_float(static_cast<const T*>(weight.bias)[feature]);
  sum = activate(sum, parameters.activation);
  int64_t index = row * weight.out_features + feature;
  if (parameters.y_is_f32) {
    static_cast<float*>(weight.y)[index] = sum;
  } else {
    static_cast<T*>(weight.y)[index] = from_float<T>(sum);
  }
}

/// Adds up the partial sums of each tile of the block, kTileRows · kRows a warp at `partial`, and writes them.
/// A warp's sums lie [kRows][kStride], of which the first kTileRows of a row are used.
template <typename T, int kTileRows, int kRows, int kStride>
__device__ __forceinline__ void write_tiles(const Parameters& parameters, const float* partial) {
  constexpr int kWarpSums = kRows * kStride;
  int slots = kWarps >> parameters.log_split;
  for (int i = threadIdx.x; i < slots * kTileRows * kRows; i += kThreads) {
    int column = i % kTileRows, row = i / kTileRows % kRows, slot = i / (kTileRows * kRows);
    int64_t tile = static_cast<int64_t>(blockIdx.x) * slots + slot;
    if (tile >= parameters.num_tiles || row >= parameters.rows) continue;
    Tile place = find_tile<kTileRows>(parameters, tile);
    int64_t feature = place.first_row + column;
    if (feature >= place.weight->out_features) continue;
    const float* sums = partial + (slot << parameters.log_split) * kWarpSums + row * kStride + column;
    float sum = 0;
    for (int part = 0; part < 1 << parameters.log_split; ++part) sum += sums[part * kWarpSums];
    write_result<T>(parameters, *place.weight, feature, row, sum);
  }
}

/// Which of the warps that share a tile this one is.
__device__ __forceinline__ int warp_part(const Parameters& parameters, int warp) {
  return warp & ((1 << parameters.log_split) - 1);
}

/// Joins the lanes' sums of each row of x and of a weight, and writes the block's results.
template <typename T, int kRows, int kTileRows>
__device__ __forceinline__ void finish_dots(const Parameters& parameters, const float (&sums)[kRows][kTileRows]) {
  constexpr int kWarpSums = kRows * kTileRows;
  __shared__ float partial[kWarps * kWarpSums];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int r = 0; r < kTileRows; ++r) {
      float sum = warp_sum(sums[m][r]);
      if (lane == 0) partial[warp * kWarpSums + m * kTileRows + r] = sum;
    }
  }
  __syncthreads();
  write_tiles<T, kTileRows, kRows, kTileRows>(parameters, partial);
}

/// The 16-byte packs of a weight's row; of the last row for one behind it.
__device__ __forceinline__ const uint4* weight_row(const Parameters& parameters,
                                                   const SmallWeight& weight,
                                                   int64_t row) {
  row = min(row, weight.out_features - 1);
  return static_cast<const uint4*>(weight.weight) + row * parameters.row_packs;
}

}  // namespace weft::cuda::small_product_parts
