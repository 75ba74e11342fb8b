// Three kernels. All give every warp a few rows of a weight and a share of their length, so that enough loads are under
// way in the whole GPU whatever the shape, and add the shares of a block's warps up in shared memory.
//   dot_rows:    one or two rows of x, up to eight in f32; lanes take neighbouring packs of 16 bytes of a weight's row.
//   mma_rows:    up to 16 rows of x in bf16, by tensor cores.
//   scalar_rows: up to eight rows of x where rows are not whole packs.
// The first two stream the weights through a ring in shared memory, of which each lane fills and reads its own places:
// the loads under way are then as many as the ring has places, which the compiler would not promise for registers.
#include "kernels/cuda/small_product.cuh"

#include <algorithm>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/small_product_tiles.cuh"

namespace weft::cuda {
namespace {

using namespace small_product_parts;

constexpr int64_t kMaxDotRows = 8;
constexpr int64_t kMaxMmaRows = 16;
/// Rows of a weight that one tensor core instruction takes.
constexpr int kMmaRows = 16;
/// Places of a lane's ring; one less is being filled.
constexpr int kDotStages = 8;
constexpr int kMmaStages = 4;

/// Blocks of dot_rows that share a multiprocessor's registers.
constexpr int dot_blocks(int rows) {
  return rows == 1 ? 6 : rows < 8 ? 4 : 3;
}

/// kRows rows of x (those behind the last repeat it) with kTileRows rows of a weight a warp.
template <typename T, int kRows, int kTileRows>
__global__ void __launch_bounds__(kThreads, dot_blocks(kRows)) dot_rows(const __grid_constant__ Parameters parameters) {
  constexpr int kSize = kPackSize<T>, kStages = kDotStages / kTileRows;
  __shared__ uint4 ring[kStages][kTileRows][kThreads];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Tile place = find_tile<kTileRows>(parameters, warp_tile(parameters, warp));
  const uint4* weights[kTileRows];
#pragma unroll
  for (int r = 0; r < kTileRows; ++r) weights[r] = weight_row(parameters, *place.weight, place.first_row + r);
  const uint4* x = static_cast<const uint4*>(parameters.x);
  int packs = parameters.row_packs, stride = 32 << parameters.log_split;
  int begin = warp_part(parameters, warp) * 32;  // of the warp's packs at this turn
  auto start_step = [&](int stage, int pack) {
#pragma unroll
    for (int r = 0; r < kTileRows; ++r) start_copy(&ring[stage][r][threadIdx.x], weights[r] + pack, pack < packs);
    end_copy_group();
  };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) start_step(stage, begin + stage * stride + lane);
  float sums[kRows][kTileRows] = {};
  while (begin < packs) {
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage, begin += stride) {
      if (begin >= packs) break;
      int pack = begin + lane;
      wait_for_copies<kStages - 2>();
      uint4 w[kTileRows];
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) w[r] = ring[stage][r][threadIdx.x];
      start_step((stage + kStages - 1) % kStages, pack + (kStages - 1) * stride);
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        uint4 input = load_input(x + min(m, parameters.rows - 1) * packs + pack, pack < packs);
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
#pragma unroll
          for (int r = 0; r < kTileRows; ++r) sums[m][r] += element<T>(input, i) * element<T>(w[r], i);
        }
      }
    }
  }
  wait_for_copies<0>();  // those behind the end, which copied nothing
  finish_dots<T>(parameters, sums);
}

/// The same with one row of a weight a warp and one element a load, whatever the length and the alignment.
template <typename T, int kRows>
__global__ void __launch_bounds__(kThreads) scalar_rows(const __grid_constant__ Parameters parameters) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Tile place = find_tile<1>(parameters, warp_tile(parameters, warp));
  const T* weight = static_cast<const T*>(place.weight->weight) + place.first_row * parameters.in_features;
  const T* x = static_cast<const T*>(parameters.x);
  float sums[kRows][1] = {};
#pragma unroll 4
  for (int k = warp_part(parameters, warp) * 32 + lane; k < parameters.in_features; k += 32 << parameters.log_split) {
    float w = to_float(weight[k]);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      sums[m][0] += w * to_float(x[int64_t{min(m, parameters.rows - 1)} * parameters.in_features + k]);
    }
  }
  finish_dots<T>(parameters, sums);
}

/// sums[16 × 8] += a[16 × 16] · b[16 × 8].
__device__ __forceinline__ void multiply_fragments(
    float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// 16 rows of a weight a warp (the instruction's a) with 8 · kTiles rows of x (its b).
///
/// A sum over the elements of a row may take them in any order as long as both factors agree. So each lane takes eight
/// neighbours in one load: lane (group, member) of eight groups of four holds elements 8 · member … + 7 of every 32, of
/// weight rows group and group + 8 and of x's row group. The first four are its share of one instruction, the others of
/// a second one: the instruction's columns 2 · member, + 1 are then elements 0, 1 of the four, its columns
/// 2 · member + 8, + 9 elements 2, 3.
template <int kTiles>
__global__ void __launch_bounds__(kThreads, 4) mma_rows(const __grid_constant__ Parameters parameters) {
  constexpr int kRows = kTiles * 8;
  constexpr int kStepPacks = 4, kChunkPacks = kMmaStages * kStepPacks;  // a warp reads 256 bytes of each row in turn
  constexpr int kStride = 20;                                           // lanes of one store fall into different banks
  constexpr int kWarpSums = kRows * kStride;
  __shared__ uint4 ring[kMmaStages][2][kThreads];
  __shared__ float partial[kWarps * kWarpSums];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int group = lane / 4, member = lane % 4;
  Tile place = find_tile<kMmaRows>(parameters, warp_tile(parameters, warp));
  const uint4* upper = weight_row(parameters, *place.weight, place.first_row + group);
  const uint4* lower = weight_row(parameters, *place.weight, place.first_row + group + 8);
  int packs = parameters.row_packs, stride = kChunkPacks << parameters.log_split;
  const uint4* x[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    x[n] = static_cast<const uint4*>(parameters.x) + min(n * 8 + group, parameters.rows - 1) * packs;
  }
  auto start_step = [&](int stage, int pack) {
    start_copy(&ring[stage][0][threadIdx.x], upper + pack, pack < packs);
    start_copy(&ring[stage][1][threadIdx.x], lower + pack, pack < packs);
    end_copy_group();
  };
  int begin = warp_part(parameters, warp) * kChunkPacks;
#pragma unroll
  for (int stage = 0; stage < kMmaStages - 1; ++stage) start_step(stage, begin + stage * kStepPacks + member);
  float sums[kTiles][4] = {};
  for (; begin < packs; begin += stride) {
#pragma unroll
    for (int stage = 0; stage < kMmaStages; ++stage) {
      int pack = begin + stage * kStepPacks + member;
      wait_for_copies<kMmaStages - 2>();
      uint4 top = ring[stage][0][threadIdx.x], bottom = ring[stage][1][threadIdx.x];
      // The step three ahead: the last of this chunk, or one of the next.
      start_step((stage + kMmaStages - 1) % kMmaStages,
                 stage == 0 ? pack + (kMmaStages - 1) * kStepPacks : pack + stride - kStepPacks);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        uint4 input = load_input(x[n] + pack, pack < packs);
        multiply_fragments(sums[n], top.x, bottom.x, top.y, bottom.y, input.x, input.y);
        multiply_fragments(sums[n], top.z, bottom.z, top.w, bottom.w, input.z, input.w);
      }
    }
  }
  wait_for_copies<0>();  // those behind the end, which copied nothing
  float* mine = partial + warp * kWarpSums;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    float* column = mine + (n * 8 + member * 2) * kStride + group;
    column[0] = sums[n][0];
    column[kStride] = sums[n][1];
    column[8] = sums[n][2];
    column[kStride + 8] = sums[n][3];
  }
  __syncthreads();
  write_tiles<bf16, kMmaRows, kRows, kStride>(parameters, partial);
}

/// How a call is cut for one of the kernels.
struct Cut {
  int tile_rows;
  int64_t warp_packs;  // packs of a row that keep a warp busy
  int64_t packs;       // of a row
};

/// As many warps to a tile as it takes to fill the GPU, while each has enough to read.
int choose_log_split(const CudaDevice& device, const Cut& cut, int64_t num_tiles) {
  int64_t wanted = static_cast<int64_t>(device.num_multiprocessors()) * 48;
  int log_split = 0;
  while (1 << log_split < kWarps && num_tiles << log_split < wanted && cut.packs >= cut.warp_packs << (log_split + 1))
    ++log_split;
  return log_split;
}

template <typename Kernel>
void launch(const LinearForwardArgs& args,
            std::span<const LinearWeight> weights,
            const Cut& cut,
            CudaDevice& device,
            Kernel kernel) {
  Parameters parameters{};
  parameters.x = args.x;
  parameters.in_features = static_cast<int>(args.in_features);
  parameters.row_packs = static_cast<int>(args.in_features * static_cast<int64_t>(dtype_bytes(args.dtype)) / 16);
  parameters.rows = static_cast<int>(args.rows);
  parameters.activation = args.activation;
  parameters.y_is_f32 = args.y_dtype == DType::f32;
  for (const LinearWeight& weight : weights) {
    if (weight.out_features == 0) continue;
    parameters.num_tiles += ceil_div(weight.out_features, cut.tile_rows);
    parameters.weights[parameters.num_weights++] = {
        weight.weight, weight.bias, weight.y, weight.out_features, parameters.num_tiles};
  }
  if (parameters.num_tiles == 0) return;
  parameters.log_split = choose_log_split(device, cut, parameters.num_tiles);
  int64_t blocks = ceil_div(parameters.num_tiles, kWarps >> parameters.log_split);
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, device.stream()>>>(parameters);
  check_launch("linear");
}

template <typename T>
void launch_dot(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  Cut cut{.tile_rows = args.rows <= 2 ? 1 : 2, .warp_packs = 128, .packs = args.in_features / kPackSize<T>};
  if (args.rows <= 1) return launch(args, weights, cut, device, dot_rows<T, 1, 1>);
  if (args.rows <= 2) return launch(args, weights, cut, device, dot_rows<T, 2, 1>);
  if constexpr (sizeof(T) == 4) {  // tensor cores take more rows of bf16
    if (args.rows <= 4) return launch(args, weights, cut, device, dot_rows<T, 4, 2>);
    launch(args, weights, cut, device, dot_rows<T, 8, 2>);
  }
}

template <typename T>
void launch_scalar(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  Cut cut{.tile_rows = 1, .warp_packs = 128, .packs = args.in_features};
  if (args.rows <= 1) return launch(args, weights, cut, device, scalar_rows<T, 1>);
  if (args.rows <= 2) return launch(args, weights, cut, device, scalar_rows<T, 2>);
  if (args.rows <= 4) return launch(args, weights, cut, device, scalar_rows<T, 4>);
  launch(args, weights, cut, device, scalar_rows<T, 8>);
}

void launch_mma(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  Cut cut{.tile_rows = kMmaRows, .warp_packs = 8, .packs = args.in_features / 8};
  if (args.rows <= 8) return launch(args, weights, cut, device, mma_rows<1>);
  launch(args, weights, cut, device, mma_rows<2>);
}

bool has_whole_packs(const LinearForwardArgs& args, int64_t pack_size) {
  bool whole = args.in_features % pack_size == 0 && is_aligned(args.x);
  for (const LinearWeight& weight : args.weights) whole = whole && is_aligned(weight.weight);
  return whole;
}

enum class Way { none, dot_bf16, dot_f32, scalar_bf16, scalar_f32, mma };

Way choose_way(const LinearForwardArgs& args) {
  bool is_bf16 = args.dtype == DType::bf16;
  bool whole = has_whole_packs(args, is_bf16 ? 8 : 4);
  if (is_bf16 && whole && args.rows > 2) return args.rows <= kMaxMmaRows ? Way::mma : Way::none;
  if (args.rows > kMaxDotRows) return Way::none;
  if (is_bf16) return whole ? Way::dot_bf16 : Way::scalar_bf16;
  return whole ? Way::dot_f32 : Way::scalar_f32;
}

void run(Way way, const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  switch (way) {
    case Way::dot_bf16:
      return launch_dot<bf16>(args, weights, device);
    case Way::dot_f32:
      return launch_dot<float>(args, weights, device);
    case Way::scalar_bf16:
      return launch_scalar<bf16>(args, weights, device);
    case Way::scalar_f32:
      return launch_scalar<float>(args, weights, device);
    case Way::mma:
      return launch_mma(args, weights, device);
    case Way::none:
      return;
  }
}

}  // namespace

bool small_product(const LinearForwardArgs& args, CudaDevice& device) {
  Way way = choose_way(args);
  if (way == Way::none) return false;
  for (size_t begin = 0; begin < args.weights.size(); begin += kMaxWeights) {
    size_t count = std::min<size_t>(kMaxWeights, args.weights.size() - begin);
    run(way, args, args.weights.subspan(begin, count), device);
  }
  return true;
}

}  // namespace weft::cuda
