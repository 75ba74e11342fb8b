// Attention over many queries in bf16 on compute capability 9.0a (Shah et al., "FlashAttention-3", 2024). A block stays
// on its multiprocessor and goes from tile to tile of queries. One thread copies queries, keys and values to shared
// memory, as far ahead as there is room; groups of four warps own 64 queries each. A group's products with the next
// keys and with the last values run in the background of its softmax, and groups take turns, so that the products of
// one run under the softmax of another.
#include <cuda.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cuda/attention_forward_scores.cuh"
#include "kernels/cuda/attention_forward_wgmma.cuh"
#include "kernels/cuda/attention_maps.h"
#include "kernels/cuda/attention_products.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/common.cuh"

namespace weft::cuda {
namespace pipeline {

// What may be tuned, by padded size of heads: groups of 64 queries a block (2 or 3), keys of a tile (a size that
// products::multiply_step has: 64, 80, 128), tiles of keys and as many of values in shared memory, and whether groups
// take turns.
struct Tuning {
  int groups, keys, stages;
  bool takes_turns;
};
inline constexpr Tuning kTuning64 = {.groups = 3, .keys = 128, .stages = 2, .takes_turns = true};
inline constexpr Tuning kTuning128 = {.groups = 2, .keys = 128, .stages = 2, .takes_turns = true};
inline constexpr Tuning kTuning256 = {.groups = 2, .keys = 80, .stages = 2, .takes_turns = false};
inline constexpr int kLeastHeadDim = 33;  // smaller heads would be mostly padding

// Sequences whose maps a kernel takes by value: with all else at most 4 KiB, beyond which launches are of another kind.
inline constexpr int kInlineMaps = 5;

/// A kernel's sizes.
template <int head_width, bool curved>
struct Shape {
  static constexpr Tuning kTuning = head_width == 64 ? kTuning64 : head_width == 128 ? kTuning128 : kTuning256;
  static constexpr int kWidth = head_width;  // head_dim is padded to it with zeros
  static constexpr bool kIsCurved = curved;
  static constexpr int kGroups = kTuning.groups;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kKeys = kTuning.keys;
  static constexpr int kStages = kTuning.stages;
  static constexpr bool kTakesTurns = kTuning.takes_turns;
  static constexpr int kThreads = 128 * (kGroups + 1);  // the first group produces
  // Of a thread: at launch by __launch_bounds__, of which ptxas then uses all, and after groups have handed them over.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kConsumerRegisters = kGroups == 2 ? 240 : 160;
  static constexpr int kProducerRegisters = kGroups == 2 ? 24 : 32;
  // Consumers would wait forever for registers that the block was not launched with.
  static constexpr int kRegistersOfGroups = kProducerRegisters + kGroups * kConsumerRegisters;
  static_assert(kRegistersOfGroups <= (kGroups + 1) * kLaunchRegisters);
  static constexpr int kQueryBytes = kRows * kWidth * 2;
  static constexpr int kTileBytes = kKeys * kWidth * 2;
  static constexpr int kAlignment = 1024;
  static constexpr int kSharedBytes = kQueryBytes + 2 * kStages * kTileBytes + kAlignment;
  static_assert(kGroups == 2 || kGroups == 3);
  static_assert(kKeys <= kAttentionBiasPadding);
};

}  // namespace pipeline

namespace {

using pipeline::kInlineMaps;
using pipeline::Ring;
using pipeline::Rows;
using pipeline::Scores;
using pipeline::Shape;
using pipeline::Weights;

/// Keys and values of the sequences in the list's order, two maps each.
struct Maps {
  CUtensorMap query;
  CUtensorMap inlined[2 * kInlineMaps];
  const CUtensorMap* uploaded = nullptr;  // null: `inlined`
};
static_assert(sizeof(TileList) + sizeof(ForwardParams) + sizeof(Maps) <= 3968);

/// The block's barriers: `full` when copies have arrived, `empty` when all consumers are done with them.
template <typename S>
struct Barriers {
  static constexpr int kCount = 2 + 4 * S::kStages;
  uint32_t first;
  __device__ __forceinline__ uint32_t query_full() const { return first; }
  __device__ __forceinline__ uint32_t query_empty() const { return first + 8; }
  __device__ __forceinline__ uint32_t full(int which, int stage) const {
    return first + 16 + (which * S::kStages + stage) * 8;
  }
  __device__ __forceinline__ uint32_t empty(int which, int stage) const {
    return full(which, stage) + 2 * S::kStages * 8;
  }
};
enum Which : int { kOfKeys, kOfValues };

/// The block's memory: queries, tiles of keys, tiles of values.
template <typename S>
struct Memory {
  uint32_t queries;
  __device__ __forceinline__ uint32_t tile(int which, int stage) const {
    return queries + S::kQueryBytes + (which * S::kStages + stage) * S::kTileBytes;
  }
};

/// A tile of queries and the keys that any of them sees.
struct Work {
  Tile tile;
  int begin = 0;
  int tiles = 0;  // of keys
};

/// The work of a block in its n-th round; rounds alternate in direction, since tiles become cheaper. False: none.
template <typename S>
__device__ __forceinline__ bool find_work(
    Work& work, const TileList& list, const ForwardParams& params, int round, int total) {
  int place = static_cast<int>(round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
  int64_t index = static_cast<int64_t>(round) * gridDim.x + place;
  if (index >= total) return false;
  work.tile = find_tile(list, params.num_heads, static_cast<int>(index));
  const TileSequence& sequence = work.tile.sequence;
  int last = min(work.tile.first_query + S::kRows, sequence.query_count) - 1;
  work.begin = visible_range(sequence, params, list.visible_keys, work.tile.first_query).x;
  int end = visible_range(sequence, params, list.visible_keys, last).y;
  work.tiles = end > work.begin ? (end - work.begin + S::kKeys - 1) / S::kKeys : 0;
  return true;
}

// ---- The producer ----

/// Copies the next tile of keys or of values once there is room.
template <typename S>
__device__ __forceinline__ void produce_tile(Ring<S::kStages>& ring,
                                             const Barriers<S>& barriers,
                                             const Memory<S>& memory,
                                             const CUtensorMap* maps,
                                             int which,
                                             int key,
                                             int head) {
  pipeline::wait(barriers.empty(which, ring.stage), ring.parity ^ 1);
  uint32_t to = memory.tile(which, ring.stage);
  pipeline::copy_tile<S::kWidth, S::kKeys>(to, maps + which, barriers.full(which, ring.stage), key, head);
  ring.advance();
}

/// One thread's work.
template <typename S>
__device__ __forceinline__ void produce(const TileList& list,
                                        const ForwardParams& params,
                                        const Maps& maps,
                                        const Barriers<S>& barriers,
                                        const Memory<S>& memory,
                                        int total) {
  Ring<S::kStages> keys, values;
  uint32_t query_parity = 0;
  Work work;
  for (int round = 0; find_work<S>(work, list, params, round, total); ++round) {
    if (work.tiles == 0) continue;
    const CUtensorMap* own = (maps.uploaded != nullptr ? maps.uploaded : maps.inlined) + 2 * work.tile.number;
    if (maps.uploaded != nullptr) {
      pipeline::acquire_map(own);
      pipeline::acquire_map(own + 1);
    }
    int head = work.tile.head / params.group;
    produce_tile<S>(keys, barriers, memory, own, kOfKeys, work.begin, head);
    pipeline::wait(barriers.query_empty(), query_parity ^ 1);
    query_parity ^= 1;
    int first_row = static_cast<int>(work.tile.sequence.query_begin) + work.tile.first_query;
    pipeline::copy_tile<S::kWidth, S::kRows>(
        memory.queries, &maps.query, barriers.query_full(), first_row, work.tile.head);
    for (int t = 1; t < work.tiles; ++t) {
      produce_tile<S>(keys, barriers, memory, own, kOfKeys, work.begin + t * S::kKeys, head);
      produce_tile<S>(values, barriers, memory, own, kOfValues, work.begin + (t - 1) * S::kKeys, head);
    }
    produce_tile<S>(values, barriers, memory, own, kOfValues, work.begin + (work.tiles - 1) * S::kKeys, head);
  }
}

// ---- The consumers ----

template <typename S>
using Output = float[S::kWidth / 8][4];

template <typename S>
__device__ __forceinline__ void shrink(Output<S>& out, const float (&rescale)[2]) {
  if (!__any_sync(0xffffffffu, rescale[0] != 1 || rescale[1] != 1)) return;
#pragma unroll
  for (int n = 0; n < S::kWidth / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[n][i] *= rescale[i / 2];
  }
}

/// The group's queries against all keys of a tile.
template <typename S>
struct Consumer {
  const ForwardParams& params;
  Barriers<S> barriers;
  Memory<S> memory;
  int group;
  Ring<S::kStages> keys, values;
  uint32_t query_parity = 0;

  __device__ __forceinline__ void wait_turn() const {
    if constexpr (S::kTakesTurns) pipeline::wait_in_turn(1 + group, 256);
  }
  __device__ __forceinline__ void pass_turn() const {
    if constexpr (S::kTakesTurns) pipeline::give_turn(1 + (group + 1 == S::kGroups ? 0 : group + 1), 256);
  }

  /// Starts the products with the next keys.
  __device__ __forceinline__ void multiply_keys(Scores<S>& scores) const {
    products::multiply_rows<S::kWidth, S::kRows, S::kKeys>(
        scores, memory.queries + group * (64 * 128), memory.tile(kOfKeys, keys.stage));
  }
  /// Starts adding the next weighted values.
  __device__ __forceinline__ void multiply_values(Output<S>& out, const Weights<S>& weights) const {
    products::multiply_factor<S::kWidth, S::kKeys, 256>(out, weights, memory.tile(kOfValues, values.stage));
  }

  __device__ __forceinline__ void release_keys(bool is_last) {
    pipeline::release(barriers.empty(kOfKeys, keys.stage));
    if (is_last) pipeline::release(barriers.query_empty());
    keys.advance();
  }

  __device__ __forceinline__ void run(Output<S>& out, Rows& rows, const Work& work) {
    Scores<S> scores;
    Weights<S> weights;
    float rescale[2];
    pipeline::wait(barriers.query_full(), query_parity);
    query_parity ^= 1;
    pipeline::wait(barriers.full(kOfKeys, keys.stage), keys.parity);
    products::begin_products();
    multiply_keys(scores);
    products::wait_for_batches<0>();
    products::hold(scores);
    release_keys(work.tiles == 1);
    pipeline::weigh<S>(scores, work.tile, params, rows, rescale, work.begin);
    products::round_to_factor<S::kKeys>(scores, weights);
    for (int t = 1; t < work.tiles; ++t) step(scores, weights, out, rows, work, t);
    pipeline::wait(barriers.full(kOfValues, values.stage), values.parity);
    products::hold(weights);
    products::hold(out);
    products::begin_products();
    multiply_values(out, weights);
    products::wait_for_batches<0>();
    products::hold(out);
    pipeline::release(barriers.empty(kOfValues, values.stage));
    values.advance();
  }

  /// Weights of tile t while the values of the one before are added.
  __device__ __forceinline__ void step(
      Scores<S>& scores, Weights<S>& weights, Output<S>& out, Rows& rows, const Work& work, int t) {
    float rescale[2];
    pipeline::wait(barriers.full(kOfKeys, keys.stage), keys.parity);
    wait_turn();
    products::hold(weights);
    products::hold(out);
    products::begin_products();
    multiply_keys(scores);
    pipeline::wait(barriers.full(kOfValues, values.stage), values.parity);
    products::begin_products();
    multiply_values(out, weights);
    pass_turn();
    products::wait_for_batches<1>();
    products::hold(scores);
    release_keys(t + 1 == work.tiles);
    pipeline::weigh<S>(scores, work.tile, params, rows, rescale, work.begin + t * S::kKeys);
    pipeline::finish_before_waiting(rows.sum[0] + rows.sum[1], memory.queries);
    products::hold(scores);
    products::wait_for_batches<0>();
    products::hold(out);
    products::hold(weights);
    pipeline::release(barriers.empty(kOfValues, values.stage));
    values.advance();
    products::round_to_factor<S::kKeys>(scores, weights);
    shrink<S>(out, rescale);
  }
};

/// Divides by the sums and writes the thread's rows.
template <typename S>
__device__ __forceinline__ void store(const Output<S>& out,
                                      const Rows& rows,
                                      const Tile& tile,
                                      const ForwardParams& params) {
  int pair = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int row = rows.first + 8 * r;
    bool is_there = tile.first_query + row < tile.sequence.query_count;
    int64_t element = element_row(tile, params, row);
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    float inverse = inverse_of_sum(sum);
    bf16* to = static_cast<bf16*>(params.out) + element * params.head_dim;
    pipeline::store_row(out, r, inverse, to, params.head_dim, is_there);
    if (params.log_sum_exp != nullptr && pair == 0 && is_there) {
      float factor = S::kIsCurved ? 1.0f : params.factor;
      params.log_sum_exp[element] = log_sum_exp_of(rows.maximum[r] * factor, sum);
    }
  }
}

template <typename S>
__device__ __forceinline__ void consume(const TileList& list,
                                        const ForwardParams& params,
                                        const Barriers<S>& barriers,
                                        const Memory<S>& memory,
                                        int group,
                                        int total) {
  Consumer<S> consumer{
      .params = params, .barriers = barriers, .memory = memory, .group = group, .keys = {}, .values = {}};
  if (group == S::kGroups - 1) consumer.pass_turn();  // the first group begins
  Work work;
  for (int round = 0; find_work<S>(work, list, params, round, total); ++round) {
    Rows rows = pipeline::find_rows<S>(list, params, work.tile);
    Output<S> out;
#pragma unroll
    for (int n = 0; n < S::kWidth / 8; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0;
    if (work.tiles > 0) consumer.run(out, rows, work);
    store<S>(out, rows, work.tile, params);
  }
}

template <typename S>
__device__ __forceinline__ void init_barriers(const Barriers<S>& barriers) {
  constexpr int kConsumerWarps = 4 * S::kGroups;
  pipeline::init_barrier(barriers.query_full(), 1);
  pipeline::init_barrier(barriers.query_empty(), kConsumerWarps);
  for (int which = 0; which < 2; ++which) {
    for (int stage = 0; stage < S::kStages; ++stage) {
      pipeline::init_barrier(barriers.full(which, stage), 1);
      pipeline::init_barrier(barriers.empty(which, stage), kConsumerWarps);
    }
  }
  pipeline::publish_barriers();
}

/// Without a body where wgmma is not: it then has no barriers, by which the host knows.
template <typename S>
__global__ void __launch_bounds__(S::kThreads, 1) forward_wgmma(const __grid_constant__ TileList list,
                                                                const __grid_constant__ ForwardParams params,
                                                                const __grid_constant__ Maps maps,
                                                                int total) {
#if WEFT_ATTENTION_WGMMA || !defined(__CUDA_ARCH__)
  extern __shared__ unsigned char shared_bytes[];
  __shared__ uint64_t barrier_words[Barriers<S>::kCount];
  uint32_t address = shared_address(shared_bytes);
  Memory<S> memory{(address + S::kAlignment - 1) / S::kAlignment * S::kAlignment};
  Barriers<S> barriers{shared_address(barrier_words)};
  if (threadIdx.x == 0) init_barriers<S>(barriers);
  __syncthreads();
  int group =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);  // the compiler sees that a warp has one
  if (group == 0) {
    pipeline::leave_registers<S::kProducerRegisters>();
    if (threadIdx.x == 0) produce<S>(list, params, maps, barriers, memory, total);
  } else {
    pipeline::take_registers<S::kConsumerRegisters>();
    consume<S>(list, params, barriers, memory, group - 1, total);
  }
#endif
}

// ---- The host's side ----

/// One past the last row of q that a sequence has.
int64_t last_query(const AttentionForwardArgs& args) {
  int64_t end = 0;
  for (const AttentionSequence& sequence : args.sequences) {
    int64_t own_end = sequence.query_begin + sequence.query_count;
    end = own_end > end ? own_end : end;
  }
  return end;
}

/// The maps of a call. False: the arrays have none.
template <typename S>
bool encode_all(Maps& maps,
                std::vector<CUtensorMap>& of_keys,
                const AttentionForwardArgs& args,
                const AttentionTiles& tiles) {
  int64_t rows = last_query(args);
  int64_t width = args.num_heads * args.head_dim;
  if (rows >= int64_t{1} << 31) return false;
  if (!pipeline::encode(maps.query, args.q, args.head_dim, rows, args.num_heads, width, args.head_dim, S::kRows))
    return false;
  for (const TileSequence& sequence : tiles.sequences()) {
    for (const void* from : {sequence.keys, sequence.values}) {
      CUtensorMap& map = of_keys.emplace_back();
      if (!pipeline::encode(map,
                            from,
                            args.head_dim,
                            sequence.key_count,
                            args.num_kv_heads,
                            sequence.key_token_stride,
                            sequence.key_head_stride,
                            S::kKeys)) {
        return false;
      }
    }
  }
  return true;
}

/// Whether the kernel was compiled with its body for this device, and with the registers that its groups share.
template <typename S>
bool has_body() {
  static const bool has = [] {
    cudaFuncAttributes attributes = {};
    if (cudaFuncGetAttributes(&attributes, forward_wgmma<S>) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    return attributes.sharedSizeBytes > 0 && attributes.numRegs * (S::kGroups + 1) >= S::kRegistersOfGroups;
  }();
  return has;
}

template <typename S>
bool launch(const AttentionForwardArgs& args, const ForwardParams& params, CudaDevice& device) {
  if (!has_body<S>() || S::kSharedBytes > device.max_shared_bytes()) return false;
  AttentionTiles tiles(args, S::kRows, device);
  int64_t total = tiles.count() * args.num_heads;
  if (total == 0) return true;
  if (total >= int64_t{1} << 31) return false;
  Maps maps = {};
  std::vector<CUtensorMap> of_keys;
  if (!encode_all<S>(maps, of_keys, args, tiles)) return false;
  std::optional<DeviceBuffer<CUtensorMap>> kept;
  if (of_keys.size() <= 2 * kInlineMaps) {
    std::copy(of_keys.begin(), of_keys.end(), maps.inlined);
  } else {
    kept.emplace(uploaded(device, of_keys.data(), static_cast<int64_t>(of_keys.size())));
    maps.uploaded = kept->data();
  }
  check(cudaFuncSetAttribute(forward_wgmma<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes),
        "attention's shared memory");
  auto blocks = static_cast<unsigned>(total < device.num_multiprocessors() ? total : device.num_multiprocessors());
  forward_wgmma<S>
      <<<blocks, S::kThreads, S::kSharedBytes, device.stream()>>>(tiles.list(), params, maps, static_cast<int>(total));
  check_launch("attention");
  return true;
}

template <int width>
bool launch_curved(const AttentionForwardArgs& args, const ForwardParams& params, CudaDevice& device) {
  if (params.is_curved) return launch<Shape<width, true>>(args, params, device);
  return launch<Shape<width, false>>(args, params, device);
}

}  // namespace

bool attention_forward_wgmma(const AttentionForwardArgs& args, CudaDevice& device) {
  if (device.architecture() != 90 || args.head_dim < pipeline::kLeastHeadDim || args.head_dim > 256) return false;
  ForwardParams params = forward_params(args);
  if (args.dtype != DType::bf16 || !params.is_wide || pipeline::encode_tiled() == nullptr) return false;
  if (args.head_dim <= 64) return launch_curved<64>(args, params, device);
  if (args.head_dim <= 128) return launch_curved<128>(args, params, device);
  return launch_curved<256>(args, params, device);
}

}  // namespace weft::cuda
