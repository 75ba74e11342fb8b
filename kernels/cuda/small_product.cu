// Three kernels, which give every warp a few rows of a weight, or a share of their length.
//   dot_rows:    one or two rows of x, up to eight in f32; lanes take neighbouring packs of 16 bytes of a weight's row.
//   mma_rows:    up to 16 rows of x in bf16, by tensor cores.
//   scalar_rows: up to eight rows of x where rows are not whole packs.
// The first two stream the weights through a ring in shared memory, of which each lane fills and reads its own places:
// the loads under way are then as many as the ring has places, which the compiler would not promise for registers.
//
// One block stays on each multiprocessor, has an equal share of the tiles and keeps its ring full from the
// first tile to the last: nothing starts or drains in between, and all end at about the same time. Its ring fills
// more than half of the shared memory, so that the next product's block (launch.cuh) takes its place when it ends and
// prefetches its first weights while the small kernels between them run. Weights that take long get smaller rings,
// two blocks a multiprocessor and several blocks for each place: multiprocessors that come slower to the memory are
// then given fewer.
#include "kernels/cuda/small_product.cuh"

#include <algorithm>
#include <atomic>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/small_product_tiles.cuh"

namespace weft::cuda {
namespace {

using namespace small_product_parts;

constexpr int64_t kMaxDotRows = 8;
constexpr int64_t kMaxMmaRows = 16;
/// Rows of a weight that one tensor core instruction takes.
constexpr int kMmaRows = 16;
/// 16-byte places of a lane's ring when a block has a multiprocessor to itself, of which one step's are not being
/// filled: 128 KB a block. Half as many when two share it.
constexpr int kRingPlaces = 16;
/// Bytes of weights of a block that shares its multiprocessor, about; from two such blocks for each place on, that is
/// the way. (H100: 264 places, 277 MB.)
constexpr int64_t kSharingBlockBytes = int64_t{512} << 10;
/// What a block prefetches behind its ring's first fill when it may begin, in packs: the memory has work at once while
/// that fill comes from L2.
constexpr int kSecondPrefetchPacks = 4096;
/// What a tile costs a warp beside its steps, in steps.
constexpr int64_t kTileSteps = 2;
/// Partial sums of a block's tiles, in floats.
constexpr int64_t kMaxPartials = 4096;

constexpr int64_t ring_bytes(int places) {
  return int64_t{places} * kThreads * 16;
}

/// kRows rows of x (those behind the last repeat it) with kTileRows rows of a weight a warp, or, in a gated product,
/// with one row of each of the two weights.
template <typename T, int kRows, int kTileRows, int kPlaces, bool kGated = false>
__global__ void __launch_bounds__(kThreads, kRows <= 2 ? kRingPlaces / kPlaces : 1)
    dot_rows(const __grid_constant__ Parameters parameters) {
  constexpr int kSize = kPackSize<T>, kStages = kPlaces / kTileRows;
  constexpr int kChains = kRows <= 2 ? 2 : 1;  // sums of a row that do not wait for each other
  extern __shared__ uint4 shared_memory[];
  let_next_start();
  float* partial = reinterpret_cast<float*>(shared_memory + kPlaces * kThreads);
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int part = warp_part(parameters), packs = parameters.row_packs, stride = 32 << parameters.log_split;
  TileRange tiles = block_tiles(parameters);
  Share share{.first = tiles.begin + (warp >> parameters.log_split),
              .end = tiles.end,
              .slots = kWarps >> parameters.log_split,
              .begin = part * 32 + lane,
              .limit = packs,
              .stride = stride,
              .steps = max(1, (packs - part * 32 + stride - 1) / stride)};
  if (!parameters.are_weights_settled) {
    prefetch_tiles<kTileRows, kGated>(parameters, tiles, 0, kPlaces * kThreads);
    wait_for_previous();
  }
  WeightStream<kTileRows, kTileRows, 1, kStages, kGated> stream(parameters, share, 0, shared_memory);
  prefetch_tiles<kTileRows, kGated>(
      parameters, tiles, kPlaces * kThreads, kPlaces * kThreads + kSecondPrefetchPacks * kPlaces / kRingPlaces);
  if (parameters.are_weights_settled) wait_for_previous();
  const uint4* x[kRows];
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    x[m] = static_cast<const uint4*>(parameters.x) + (kRows == 1 ? 0 : min(m, parameters.rows - 1) * packs);
  }
  for (int64_t tile = share.first; tile < share.end; tile += share.slots) {
    float sums[kRows][kTileRows][kChains] = {};
    int pack = share.begin;
    for (int step = 0; step < share.steps; ++step, pack += stride) {
      uint4 w[kTileRows], inputs[kRows];
#pragma unroll
      for (int m = 0; m < kRows; ++m) inputs[m] = load_input(x[m] + pack, pack < packs);
      stream.take(w);
      stream.start_next();
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
#pragma unroll
          for (int r = 0; r < kTileRows; ++r) sums[m][r][i % kChains] += element<T>(inputs[m], i) * element<T>(w[r], i);
        }
      }
    }
    float joined[kRows][kTileRows];
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) joined[m][r] = sums[m][r][0] + (kChains == 2 ? sums[m][r][kChains - 1] : 0);
    }
    int64_t place = ((tile - tiles.begin) << parameters.log_split) + part;
    finish_tile<T, kRows, kTileRows, kGated>(parameters, tile, joined, partial + place * kRows * kTileRows);
  }
  wait_for_copies<0>();  // those behind the end, which copied nothing
  if (parameters.log_split == 0) return;
  __syncthreads();
  if constexpr (kGated) {
    write_gated_tiles<T, kRows>(parameters, tiles, partial);
  } else {
    write_tiles<T, kTileRows, kRows, kTileRows>(parameters, tiles, partial);
  }
}

/// The same with one row of a weight a warp and one element a load, whatever the length and the alignment.
template <typename T, int kRows>
__global__ void __launch_bounds__(kThreads) scalar_rows(const __grid_constant__ Parameters parameters) {
  __shared__ float partial[kWarps][kRows];
  let_next_start();
  wait_for_previous();
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  TileRange tiles = block_tiles(parameters);
  int64_t tile = tiles.begin + (warp >> parameters.log_split);
  if (tile < tiles.end) {
    Tile place = find_tile<1>(parameters, tile);
    const T* weight = static_cast<const T*>(place.weight->weight) + place.first_row * parameters.in_features;
    const T* x = static_cast<const T*>(parameters.x);
    float sums[kRows][1] = {};
    int begin = warp_part(parameters) * 32 + lane;
#pragma unroll 4
    for (int k = begin; k < parameters.in_features; k += 32 << parameters.log_split) {
      float w = to_float(weight[k]);
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        sums[m][0] += w * to_float(x[int64_t{min(m, parameters.rows - 1)} * parameters.in_features + k]);
      }
    }
    finish_tile<T, kRows, 1>(parameters, tile, sums, partial[warp]);
  }
  if (parameters.log_split == 0) return;
  __syncthreads();
  write_tiles<T, 1, kRows, 1>(parameters, tiles, partial[0]);
}

/// sums[16 × 8] += a[16 × 16] · b[16 × 8].
__device__ __forceinline__ void multiply_fragments(
    float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

constexpr int kMmaStepPacks = 4;
/// Between columns of a warp's sums, so that lanes of one store fall into different banks.
constexpr int kMmaStride = 20;

/// The warp's part of the packs of each row: neighbours, so that it reads on where it was.
__device__ __forceinline__ Share mma_share(const Parameters& parameters, TileRange tiles) {
  int part = warp_part(parameters), packs = parameters.row_packs;
  int all_steps = (packs + kMmaStepPacks - 1) / kMmaStepPacks;
  int begin = part * all_steps >> parameters.log_split, end = (part + 1) * all_steps >> parameters.log_split;
  return {.first = tiles.begin + (static_cast<int>(threadIdx.x) / 32 >> parameters.log_split),
          .end = tiles.end,
          .slots = kWarps >> parameters.log_split,
          .begin = begin * kMmaStepPacks + static_cast<int>(threadIdx.x) % 4,
          .limit = min(packs, end * kMmaStepPacks),
          .stride = kMmaStepPacks,
          .steps = max(1, end - begin)};
}

/// 16 rows of a weight a warp (the instruction's a) with 8 · kTiles rows of x (its b).
///
/// A sum over the elements of a row may take them in any order as long as both factors agree. So each lane takes eight
/// neighbours in one load: lane (group, member) of eight groups of four holds elements 8 · member … + 7 of every 32, of
/// weight rows group and group + 8 and of x's row group. The first four are its share of one instruction, the others of
/// a second one: the instruction's columns 2 · member, + 1 are then elements 0, 1 of the four, its columns
/// 2 · member + 8, + 9 elements 2, 3.
///
/// All warps take a tile each turn, or a part of one, and add the parts up behind it; `partial` has places for two
/// turns, so that a warp may be up to one turn ahead of the others.
template <int kTiles, int kPlaces>
__global__ void __launch_bounds__(kThreads, kRingPlaces / kPlaces)
    mma_rows(const __grid_constant__ Parameters parameters) {
  constexpr int kRows = kTiles * 8, kStages = kPlaces / 2, kWarpSums = kRows * kMmaStride;
  extern __shared__ uint4 shared_memory[];
  let_next_start();
  float* partial = reinterpret_cast<float*>(shared_memory + kPlaces * kThreads);
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int group = lane / 4, member = lane % 4;
  TileRange tiles = block_tiles(parameters);
  Share share = mma_share(parameters, tiles);
  if (!parameters.are_weights_settled) {
    prefetch_tiles<kMmaRows>(parameters, tiles, 0, kPlaces * kThreads);
    wait_for_previous();
  }
  WeightStream<kMmaRows, 2, 8, kStages> stream(parameters, share, group, shared_memory);
  prefetch_tiles<kMmaRows>(
      parameters, tiles, kPlaces * kThreads, kPlaces * kThreads + kSecondPrefetchPacks * kPlaces / kRingPlaces);
  if (parameters.are_weights_settled) wait_for_previous();
  const uint4* x[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    x[n] = static_cast<const uint4*>(parameters.x) + min(n * 8 + group, parameters.rows - 1) * parameters.row_packs;
  }
  int turn = 0;
  for (int64_t first = tiles.begin; first < tiles.end; first += share.slots, turn ^= 1) {
    float sums[kTiles][4] = {};
    bool has_tile = first + (warp >> parameters.log_split) < tiles.end;
    int pack = share.begin;
    for (int step = 0; has_tile && step < share.steps; ++step, pack += kMmaStepPacks) {
      uint4 w[2], inputs[kTiles];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) inputs[n] = load_input(x[n] + pack, pack < share.limit);
      stream.take(w);
      stream.start_next();
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        multiply_fragments(sums[n], w[0].x, w[1].x, w[0].y, w[1].y, inputs[n].x, inputs[n].y);
        multiply_fragments(sums[n], w[0].z, w[1].z, w[0].w, w[1].w, inputs[n].z, inputs[n].w);
      }
    }
    float* turn_sums = partial + turn * kWarps * kWarpSums;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float* column = turn_sums + warp * kWarpSums + (n * 8 + member * 2) * kMmaStride + group;
      column[0] = sums[n][0];
      column[kMmaStride] = sums[n][1];
      column[8] = sums[n][2];
      column[kMmaStride + 8] = sums[n][3];
    }
    __syncthreads();
    write_tiles<bf16, kMmaRows, kRows, kMmaStride>(parameters, {first, min(first + share.slots, tiles.end)}, turn_sums);
  }
  wait_for_copies<0>();  // those behind the end, which copied nothing
}

Parameters make_parameters(const LinearForwardArgs& args,
                           std::span<const LinearWeight> weights,
                           int tile_rows,
                           CudaDevice& device) {
  Parameters parameters{};
  parameters.x = args.x;
  parameters.in_features = static_cast<int>(args.in_features);
  parameters.row_packs = static_cast<int>(args.in_features * static_cast<int64_t>(dtype_bytes(args.dtype)) / 16);
  parameters.rows = static_cast<int>(args.rows);
  parameters.activation = args.activation;
  parameters.y_is_f32 = args.y_dtype == DType::f32;
  parameters.are_weights_settled = device.graphs().is_active();
  for (const LinearWeight& weight : weights) {
    if (weight.out_features == 0) continue;
    parameters.num_tiles += ceil_div(weight.out_features, tile_rows);
    parameters.weights[parameters.num_weights++] = {
        weight.weight, weight.bias, weight.y, weight.out_features, parameters.num_tiles};
  }
  return parameters;
}

/// How a kernel cuts its work.
struct Cut {
  int tile_rows;
  int64_t step_packs;  // packs of a row that a warp takes in a step
  int64_t tile_sums;   // floats that each part of a tile leaves for the end; 0: none
};

/// So many warps to a tile that a block's tiles take the fewest steps.
int choose_log_split(const Parameters& parameters, const Cut& cut, int64_t blocks) {
  int64_t tiles = ceil_div(parameters.num_tiles, blocks), least = INT64_MAX;
  int best = 0;
  for (int log_split = 0; 1 << log_split <= kWarps; ++log_split) {
    if (log_split > 0 && (tiles << log_split) * cut.tile_sums > kMaxPartials) break;
    int64_t turns = ceil_div(tiles, kWarps >> log_split);
    int64_t steps = ceil_div(parameters.row_packs, cut.step_packs << log_split);
    int64_t cost = turns * (std::max<int64_t>(1, steps) + kTileSteps);
    if (cost >= least) continue;
    least = cost;
    best = log_split;
  }
  return best;
}

using Kernel = void (*)(Parameters);

/// A launch whose shared memory may be more than a kernel gets without asking, which is done once a device.
template <Kernel kernel>
void launch_with(const Parameters& parameters, int64_t blocks, int64_t shared_bytes, CudaDevice& device) {
  static std::atomic<uint64_t> prepared = 0;
  uint64_t bit = uint64_t{1} << (device.device().index & 63);
  if ((prepared.load() & bit) == 0) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "linear");
    prepared.fetch_or(bit);
  }
  weft::cuda::launch(
      kernel, static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(shared_bytes), device, parameters);
  check_launch("linear");
}

/// `kernel` has a multiprocessor to itself; `half`, with half the ring, shares it, where `may_share`, or takes the
/// other's place on GPUs with less shared memory.
template <Kernel kernel, Kernel half>
void launch_streams(Parameters parameters, const Cut& cut, int64_t partial_bytes, bool may_share, CudaDevice& device) {
  if (parameters.num_tiles == 0) return;
  int64_t places = device.num_multiprocessors();
  int64_t bytes = parameters.num_tiles * cut.tile_rows * parameters.row_packs * 16;
  int64_t turns = bytes / (2 * places * kSharingBlockBytes);
  bool shares = may_share && turns >= 2;
  if (shares) places *= 2;
  int64_t blocks = std::min(shares ? places * turns : places, parameters.num_tiles);
  parameters.first_wave = static_cast<int>(places);
  parameters.log_split = choose_log_split(parameters, cut, blocks);
  int64_t shared_bytes = ring_bytes(kRingPlaces) + partial_bytes;
  if (!shares && shared_bytes <= device.max_shared_bytes()) {
    return launch_with<kernel>(parameters, blocks, shared_bytes, device);
  }
  launch_with<half>(parameters, blocks, ring_bytes(kRingPlaces / 2) + partial_bytes, device);
}

template <typename T, int kRows, int kTileRows>
void launch_dot(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  launch_streams<dot_rows<T, kRows, kTileRows, kRingPlaces>, dot_rows<T, kRows, kTileRows, kRingPlaces / 2>>(
      make_parameters(args, weights, kTileRows, device),
      {.tile_rows = kTileRows, .step_packs = 32, .tile_sums = kRows * kTileRows},
      kMaxPartials * sizeof(float),
      kRows <= 2,
      device);
}

/// The weights are gate and up.
template <typename T, int kRows>
void launch_gated_dot(const LinearForwardArgs& args, CudaDevice& device) {
  Parameters parameters = make_parameters(args, args.weights, 1, device);
  parameters.num_tiles = args.weights[0].out_features;
  launch_streams<dot_rows<T, kRows, 2, kRingPlaces, true>, dot_rows<T, kRows, 2, kRingPlaces / 2, true>>(
      parameters,
      {.tile_rows = 2, .step_packs = 32, .tile_sums = kRows * 2},
      kMaxPartials * sizeof(float),
      true,
      device);
}

template <typename T>
void launch_dots(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  if (args.rows <= 1) return launch_dot<T, 1, 1>(args, weights, device);
  if (args.rows <= 2) return launch_dot<T, 2, 1>(args, weights, device);
  if constexpr (sizeof(T) == 4) {  // tensor cores take more rows of bf16
    if (args.rows <= 4) return launch_dot<T, 4, 2>(args, weights, device);
    launch_dot<T, 8, 2>(args, weights, device);
  }
}

constexpr int64_t mma_partial_bytes(int tiles) {
  return int64_t{2} * kWarps * tiles * 8 * kMmaStride * static_cast<int64_t>(sizeof(float));
}

template <int kTiles>
void launch_mma(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  launch_streams<mma_rows<kTiles, kRingPlaces>, mma_rows<kTiles, kRingPlaces / 2>>(
      make_parameters(args, weights, kMmaRows, device),
      {.tile_rows = kMmaRows, .step_packs = kMmaStepPacks, .tile_sums = 0},
      mma_partial_bytes(kTiles),
      true,
      device);
}

/// As many warps to a row as it takes to fill the GPU, while each has enough to read; a row for every warp or group of
/// warps of a block.
template <typename T, int kRows>
void launch_scalar(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  Parameters parameters = make_parameters(args, weights, 1, device);
  if (parameters.num_tiles == 0) return;
  int64_t wanted = static_cast<int64_t>(device.num_multiprocessors()) * 48;
  int log_split = 0;
  while (1 << log_split < kWarps && parameters.num_tiles << log_split < wanted &&
         args.in_features >= int64_t{128} << (log_split + 1)) {
    ++log_split;
  }
  parameters.log_split = log_split;
  auto blocks = static_cast<unsigned>(ceil_div(parameters.num_tiles, kWarps >> log_split));
  weft::cuda::launch(scalar_rows<T, kRows>, blocks, kThreads, 0, device, parameters);
  check_launch("linear");
}

template <typename T>
void launch_scalars(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  if (args.rows <= 1) return launch_scalar<T, 1>(args, weights, device);
  if (args.rows <= 2) return launch_scalar<T, 2>(args, weights, device);
  if (args.rows <= 4) return launch_scalar<T, 4>(args, weights, device);
  launch_scalar<T, 8>(args, weights, device);
}

bool has_whole_packs(const LinearForwardArgs& args, int64_t pack_size) {
  bool whole = args.in_features % pack_size == 0 && is_aligned(args.x);
  for (const LinearWeight& weight : args.weights) whole = whole && is_aligned(weight.weight);
  return whole;
}

enum class Way { none, dot_bf16, dot_f32, scalar_bf16, scalar_f32, mma };

Way choose_way(const LinearForwardArgs& args, const CudaDevice& device) {
  bool is_bf16 = args.dtype == DType::bf16;
  bool whole = has_whole_packs(args, is_bf16 ? 8 : 4);
  if (is_bf16 && whole && args.rows > 2) {
    int64_t shared_bytes = ring_bytes(kRingPlaces / 2) + mma_partial_bytes(args.rows <= 8 ? 1 : 2);
    bool fits = args.rows <= kMaxMmaRows && shared_bytes <= device.max_shared_bytes();
    return fits ? Way::mma : Way::none;
  }
  if (args.rows > kMaxDotRows) return Way::none;
  if (is_bf16) return whole ? Way::dot_bf16 : Way::scalar_bf16;
  return whole ? Way::dot_f32 : Way::scalar_f32;
}

void run(Way way, const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  switch (way) {
    case Way::dot_bf16:
      return launch_dots<bf16>(args, weights, device);
    case Way::dot_f32:
      return launch_dots<float>(args, weights, device);
    case Way::scalar_bf16:
      return launch_scalars<bf16>(args, weights, device);
    case Way::scalar_f32:
      return launch_scalars<float>(args, weights, device);
    case Way::mma:
      return args.rows <= 8 ? launch_mma<1>(args, weights, device) : launch_mma<2>(args, weights, device);
    case Way::none:
      return;
  }
}

}  // namespace

bool small_product(const LinearForwardArgs& args, CudaDevice& device) {
  Way way = choose_way(args, device);
  if (way == Way::none) return false;
  for (size_t begin = 0; begin < args.weights.size(); begin += kMaxWeights) {
    size_t count = std::min<size_t>(kMaxWeights, args.weights.size() - begin);
    run(way, args, args.weights.subspan(begin, count), device);
  }
  return true;
}

bool small_gated_product(const GatedLinearArgs& args, CudaDevice& device) {
  const LinearWeight weights[] = {{.weight = args.gate, .y = args.y, .out_features = args.out_features},
                                  {.weight = args.up, .y = args.y, .out_features = args.out_features}};
  LinearForwardArgs products{.x = args.x,
                             .weights = weights,
                             .rows = args.rows,
                             .in_features = args.in_features,
                             .dtype = args.dtype,
                             .y_dtype = args.dtype,
                             .activation = args.activation};
  Way way = choose_way(products, device);
  if (args.rows < 1 || args.rows > 2 || args.out_features == 0) return false;
  if (way == Way::dot_bf16) {
    args.rows == 1 ? launch_gated_dot<bf16, 1>(products, device) : launch_gated_dot<bf16, 2>(products, device);
    return true;
  }
  if (way == Way::dot_f32) {
    args.rows == 1 ? launch_gated_dot<float, 1>(products, device) : launch_gated_dot<float, 2>(products, device);
    return true;
  }
  return false;
}

}  // namespace weft::cuda
