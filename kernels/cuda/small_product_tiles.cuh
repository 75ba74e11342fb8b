// What the kernels of small_product.cu share: their parameters, which warp has which rows of which weight, the stream
// of a warp's weights through shared memory, and the end of a product.
#pragma once

#include "kernels/cuda/activation_math.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::cuda::small_product_parts {

inline constexpr int kWarps = 16;
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
  int log_split;   // 1, 2, … kWarps warps share a tile: the logarithm
  int first_wave;  // blocks that are resident from the beginning
  Activation activation;
  bool y_is_f32;
  bool are_weights_settled;  // they may be read before wait_for_previous()
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

/// An address in shared memory, found once and then kept in a register.
using SharedAddress = uint32_t;

__device__ __forceinline__ SharedAddress shared_address(const void* pointer) {
  auto address = static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
  asm volatile("" : "+r"(address));
  return address;
}

__device__ __forceinline__ uint4 load_shared(SharedAddress from) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(from)
               : "memory");
  return value;
}

/// Begins to copy 16 bytes of a weight into shared memory, past the first-level cache; zeros where not `valid`.
__device__ __forceinline__ void start_copy(SharedAddress to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
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

/// 16 bytes of x, which every warp reads; zeros where not `valid`. By no load of constants: see launch.cuh.
__device__ __forceinline__ uint4 load_input(const uint4* pointer, bool valid) {
  return valid ? *pointer : make_uint4(0, 0, 0, 0);
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

/// The 16-byte packs of a weight's row; of the last row for one behind it.
__device__ __forceinline__ const uint4* weight_row(const Parameters& parameters,
                                                   const SmallWeight& weight,
                                                   int64_t row) {
  row = min(row, weight.out_features - 1);
  return static_cast<const uint4*>(weight.weight) + row * parameters.row_packs;
}

struct TileRange {
  int64_t begin, end;
};

/// Neighbouring tiles for each block; none has two more than another.
__device__ __forceinline__ TileRange block_tiles(const Parameters& parameters) {
  int64_t block = blockIdx.x, blocks = gridDim.x;
  return {block * parameters.num_tiles / blocks, (block + 1) * parameters.num_tiles / blocks};
}

/// Which of the warps that share a tile this one is.
__device__ __forceinline__ int warp_part(const Parameters& parameters) {
  return static_cast<int>(threadIdx.x) / 32 & ((1 << parameters.log_split) - 1);
}

/// Packs [begin, end) of `rows` rows of a weight from `first_row` on, by a warp.
__device__ __forceinline__ void prefetch_rows(
    const Parameters& parameters, const SmallWeight& weights, int64_t first_row, int64_t rows, int begin, int end) {
  constexpr int kPacks = 256;  // of one prefetch
  int last = static_cast<int>(min(static_cast<int64_t>(end), rows * parameters.row_packs));
  const uint4* weight = weight_row(parameters, weights, first_row);
  for (int at = begin + static_cast<int>(threadIdx.x) * kPacks; at < last; at += 32 * kPacks) {
    prefetch_range_to_l2(weight + at, static_cast<uint32_t>(min(kPacks, last - at)) * 16);
  }
}

/// Prefetches packs [begin, end) of a block's tiles, by its first warp. Only those of the first weight among them; of
/// gated products half of them from each.
template <int kTileRows, bool kGated = false>
__device__ __forceinline__ void prefetch_tiles(const Parameters& parameters, TileRange tiles, int begin, int end) {
  if (threadIdx.x >= 32 || static_cast<int>(blockIdx.x) >= parameters.first_wave || tiles.begin >= tiles.end) return;
  if constexpr (kGated) {
    for (int r = 0; r < 2; ++r) {
      prefetch_rows(parameters, parameters.weights[r], tiles.begin, tiles.end - tiles.begin, begin / 2, end / 2);
    }
    return;
  }
  Tile place = find_tile<kTileRows>(parameters, tiles.begin);
  int64_t rows = min((tiles.end - tiles.begin) * kTileRows, place.weight->out_features - place.first_row);
  prefetch_rows(parameters, *place.weight, place.first_row, rows, begin, end);
}

/// What a lane reads: of tiles first, first + slots, … before end, packs begin, begin + stride, … before limit. All
/// lanes of a warp take the same number of steps, one at least, of which some may be behind the limit.
struct Share {
  int64_t first, end;
  int slots, begin, limit, stride, steps;
};

/// The weights of a lane's share on their way through its own places of a ring in shared memory, kLoads packs a step:
/// of rows offset, offset + kRowStep, … of a tile, or of one row of each of the two weights of a gated product. The
/// ring runs on from tile to tile.
template <int kTileRows, int kLoads, int kRowStep, int kStages, bool kGated = false>
class WeightStream {
 public:
  static_assert((kStages & (kStages - 1)) == 0);

  __device__ __forceinline__ WeightStream(const Parameters& parameters, const Share& share, int offset, uint4* ring)
      : parameters_(parameters),
        share_(share),
        ring_(shared_address(ring + threadIdx.x)),
        offset_(offset),
        tile_(share.first) {
#pragma unroll
    for (int r = 0; r < kLoads; ++r) next_[r] = static_cast<const uint4*>(parameters.weights[0].weight);
    find_rows();
#pragma unroll 1
    for (int stage = 0; stage < kStages - 1; ++stage) start_step(stage);
  }

  /// Waits for the next step and returns its packs by `packs`.
  __device__ __forceinline__ void take(uint4 (&packs)[kLoads]) {
    wait_for_copies<kStages - 2>();
#pragma unroll
    for (int r = 0; r < kLoads; ++r) packs[r] = load_shared(place(stage_, r));
  }

  /// Refills the place of the step before the one taken last, which nobody reads any more.
  __device__ __forceinline__ void start_next() {
    start_step((stage_ + kStages - 1) & (kStages - 1));
    stage_ = (stage_ + 1) & (kStages - 1);
  }

 private:
  __device__ __forceinline__ SharedAddress place(int stage, int load) const {
    return ring_ + static_cast<SharedAddress>((stage * kLoads + load) * kThreads * 16);
  }

  __device__ __forceinline__ void find_rows() {
    pack_ = share_.begin;
    left_ = share_.steps;
    if (tile_ >= share_.end) {  // nothing is valid from now on
      pack_ = share_.limit;
      left_ = INT32_MAX;
      return;
    }
    if constexpr (kGated) {
#pragma unroll
      for (int r = 0; r < kLoads; ++r) next_[r] = weight_row(parameters_, parameters_.weights[r], tile_) + pack_;
      return;
    }
    Tile place = find_tile<kTileRows>(parameters_, tile_);
#pragma unroll
    for (int r = 0; r < kLoads; ++r) {
      next_[r] = weight_row(parameters_, *place.weight, place.first_row + offset_ + r * kRowStep) + pack_;
    }
  }

  __device__ __forceinline__ void start_step(int stage) {
    bool valid = pack_ < share_.limit;
#pragma unroll
    for (int r = 0; r < kLoads; ++r) {
      start_copy(place(stage, r), next_[r], valid);
      next_[r] += share_.stride;
    }
    end_copy_group();
    pack_ += share_.stride;
    if (--left_ > 0) return;
    tile_ += share_.slots;
    find_rows();
  }

  const Parameters& parameters_;
  const Share& share_;
  SharedAddress ring_;
  const uint4* next_[kLoads];
  int offset_, pack_ = 0, left_ = 0, stage_ = 0;
  int64_t tile_;
};

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

/// The end of a gated product, of which both factors are rounded like those of two products.
template <typename T>
__device__ __forceinline__ void write_gated_result(
    const Parameters& parameters, int64_t feature, int row, float gate, float up) {
  float opened = activate(to_float(from_float<T>(gate)), parameters.activation);
  const SmallWeight& weight = parameters.weights[0];
  static_cast<T*>(weight.y)[row * weight.out_features + feature] = from_float<T>(to_float(from_float<T>(up)) * opened);
}

/// write_tiles for gated products.
template <typename T, int kRows>
__device__ __forceinline__ void write_gated_tiles(const Parameters& parameters, TileRange tiles, const float* partial) {
  int count = static_cast<int>(tiles.end - tiles.begin);
  for (int i = threadIdx.x; i < count * kRows; i += kThreads) {
    int row = i % kRows, tile = i / kRows;
    if (row >= parameters.rows) continue;
    const float* sums = partial + (tile << parameters.log_split) * kRows * 2 + row * 2;
    float gate = 0, up = 0;
    for (int part = 0; part < 1 << parameters.log_split; ++part) {
      gate += sums[part * kRows * 2];
      up += sums[part * kRows * 2 + 1];
    }
    write_gated_result<T>(parameters, tiles.begin + tile, row, gate, up);
  }
}

/// Adds up the partial sums of some tiles and writes them. Those of each part of a tile lie at `partial` as
/// [tiles][parts][kRows][kStride], of which the first kTileRows of a row are used.
template <typename T, int kTileRows, int kRows, int kStride>
__device__ __forceinline__ void write_tiles(const Parameters& parameters, TileRange tiles, const float* partial) {
  constexpr int kPartSums = kRows * kStride;
  int count = static_cast<int>(tiles.end - tiles.begin);
  for (int i = threadIdx.x; i < count * kTileRows * kRows; i += kThreads) {
    int column = i % kTileRows, row = i / kTileRows % kRows, tile = i / (kTileRows * kRows);
    if (row >= parameters.rows) continue;
    Tile place = find_tile<kTileRows>(parameters, tiles.begin + tile);
    int64_t feature = place.first_row + column;
    if (feature >= place.weight->out_features) continue;
    const float* sums = partial + (tile << parameters.log_split) * kPartSums + row * kStride + column;
    float sum = 0;
    for (int part = 0; part < 1 << parameters.log_split; ++part) sum += sums[part * kPartSums];
    write_result<T>(parameters, *place.weight, feature, row, sum);
  }
}

/// Joins the lanes' sums of each row of x and of a tile. They become results where the warp has the tile to itself,
/// else its part at `partial` [kRows][kTileRows].
template <typename T, int kRows, int kTileRows, bool kGated = false>
__device__ __forceinline__ void finish_tile(const Parameters& parameters,
                                            int64_t tile,
                                            const float (&sums)[kRows][kTileRows],
                                            float* partial) {
  static_assert(kRows * kTileRows <= 32);
  int lane = static_cast<int>(threadIdx.x) % 32;
  float mine = 0;  // lane m · kTileRows + r has the sum of row m of x and row r of the tile
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int r = 0; r < kTileRows; ++r) {
      float sum = warp_sum(sums[m][r]);
      if (lane == m * kTileRows + r) mine = sum;
    }
  }
  float next = __shfl_down_sync(0xffffffffu, mine, 1);
  if (lane >= kRows * kTileRows) return;
  if (parameters.log_split > 0) {
    partial[lane] = mine;
    return;
  }
  int row = lane / kTileRows;
  if constexpr (kGated) {
    static_assert(kTileRows == 2);
    if (lane % 2 == 0 && row < parameters.rows) write_gated_result<T>(parameters, tile, row, mine, next);
    return;
  }
  Tile place = find_tile<kTileRows>(parameters, tile);
  int64_t feature = place.first_row + lane % kTileRows;
  if (row >= parameters.rows || feature >= place.weight->out_features) return;
  write_result<T>(parameters, *place.weight, feature, row, mine);
}

}  // namespace weft::cuda::small_product_parts
