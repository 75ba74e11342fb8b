// What a block of attention's backward by wgmma consists of beside its products: sizes, memory, barriers, and the warps
// that bring tiles in and take sums out; and what makes dq of the sums.
#pragma once

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_backward_scores.cuh"
#include "kernels/cuda/attention_backward_sums.cuh"
#include "kernels/cuda/attention_forward_wgmma.cuh"
#include "kernels/cuda/attention_products.cuh"

namespace weft::cuda {
namespace {

/// Sizes of a kernel for heads up to `head_width`.
template <int head_width, bool capped>
struct OnePass {
  static constexpr int kWidth = head_width;
  static constexpr bool kIsCapped = capped;
  // Two groups of warps own 64 keys each, and have half of the dims each where they sum for queries.
  static constexpr int kKeys = 128, kQueries = 64;
  static constexpr int kGroups = kKeys / kGroupRows;
  // A gradient of scores is in use until the other group is done with it a step later.
  static constexpr int kQueryStages = 3, kGradientStages = 2, kScoreStages = 2;

  static constexpr int kConsumers = 128 * kGroups;
  static constexpr int kThreads = kConsumers + 128;
  // Of a thread: at launch by __launch_bounds__, of which ptxas then uses all, and after groups have handed them over.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kConsumerRegisters = kWidth == 64 ? 232 : 240;
  static constexpr int kProducerRegisters = kWidth == 64 ? 40 : 24;
  // Consumers would wait forever for registers that the block was not launched with.
  static constexpr int kRegistersOfGroups = kProducerRegisters + kGroups * kConsumerRegisters;
  static_assert(kRegistersOfGroups <= (kGroups + 1) * kLaunchRegisters);

  static constexpr int kKeyBytes = kKeys * kWidth * 2;
  static constexpr int kQueryBytes = kQueries * kWidth * 2;
  static constexpr int kScoreBytes = kKeys * kQueries * 2;
  static constexpr int kSumFloats = kQueries * kWidth;
  static constexpr int kGroupDims = kWidth / kGroups;
  static constexpr int kStatisticsBytes = kQueries / 2 * 32 + 16;
  static constexpr int kAlignment = 1024;
  static constexpr int kStatisticsBegin = 2 * kKeyBytes + (kQueryStages + kGradientStages) * kQueryBytes +
                                          kScoreStages * kScoreBytes + kSumFloats * static_cast<int>(sizeof(float));
  static constexpr int kSharedBytes = kStatisticsBegin + kQueryStages * kStatisticsBytes + kAlignment;

  /// How its sums of keys lie, for sum_partials.
  struct KeySums {
    static constexpr int kThreads = kConsumers, kParts = 1, kSumDims = kWidth;
  };
};

/// What the kernel takes beside BackwardParams.
struct OnePassParams {
  const BackwardTile* tiles = nullptr;
  const CUtensorMap* maps = nullptr;  // of each sequence: MapOf
  float* query_sums = nullptr;        // [tile of queries, head][group][j][thread of the group][4]: sums[j] of a thread
  int* counts = nullptr;              // [tile of queries, head]: tiles of keys that are in its sums
  int* begun = nullptr;               // blocks that have begun
};
enum MapOf : int { kMapOfQueries, kMapOfGradients, kMapOfKeys, kMapOfValues, kMaps };

/// What the block has to do; in shared memory, so that nobody has to keep it in registers.
struct PassWork {
  BackwardTile tile;
  BackwardSequence sequence;
};

/// The block's memory: keys, values, tiles of queries and of gradients, gradients of scores, sums on their way out, and
/// what is known of the queries.
template <typename S>
struct PassMemory {
  char* begin;
  uint32_t keys;
  __device__ __forceinline__ uint32_t values() const { return keys + S::kKeyBytes; }
  __device__ __forceinline__ uint32_t queries(int stage) const {
    return keys + 2 * S::kKeyBytes + stage * S::kQueryBytes;
  }
  __device__ __forceinline__ uint32_t gradients(int stage) const { return queries(S::kQueryStages + stage); }
  __device__ __forceinline__ uint32_t scores(int stage) const {
    return gradients(S::kGradientStages) + stage * S::kScoreBytes;
  }
  __device__ __forceinline__ uint32_t sums() const { return scores(S::kScoreStages); }
  __device__ __forceinline__ float4* sum_cells() const { return reinterpret_cast<float4*>(begin + (sums() - keys)); }
  /// What is known of pairs of queries; keys count from the block's first.
  __device__ __forceinline__ QueryPair* pairs(int stage) const {
    return reinterpret_cast<QueryPair*>(begin + S::kStatisticsBegin + stage * S::kStatisticsBytes);
  }
  /// Of a group: whether some of its keys and the queries do not see each other.
  __device__ __forceinline__ int* is_bounded(int stage, int group) const {
    return reinterpret_cast<int*>(pairs(stage) + S::kQueries / 2) + group;
  }
};

/// `full` when what belongs there has arrived, `empty` when everyone is done with it.
template <typename S>
struct PassBarriers {
  static constexpr int kCount = 5 + 2 * (S::kQueryStages + S::kGradientStages);
  uint32_t first;
  __device__ __forceinline__ uint32_t keys_full() const { return first; }
  __device__ __forceinline__ uint32_t values_full() const { return first + 8; }
  __device__ __forceinline__ uint32_t scores_full() const { return first + 16; }
  __device__ __forceinline__ uint32_t sums_full() const { return first + 24; }
  __device__ __forceinline__ uint32_t sums_empty() const { return first + 32; }
  __device__ __forceinline__ uint32_t queries_full(int stage) const { return first + 40 + stage * 8; }
  __device__ __forceinline__ uint32_t queries_empty(int stage) const { return queries_full(S::kQueryStages + stage); }
  __device__ __forceinline__ uint32_t gradients_full(int stage) const { return queries_empty(S::kQueryStages + stage); }
  __device__ __forceinline__ uint32_t gradients_empty(int stage) const {
    return gradients_full(S::kGradientStages + stage);
  }
};

template <typename S>
__device__ __forceinline__ void init_barriers(const PassBarriers<S>& barriers) {
  constexpr int kConsumerWarps = S::kConsumers / 32;
  pipeline::init_barrier(barriers.keys_full(), 1);
  pipeline::init_barrier(barriers.values_full(), 1);
  pipeline::init_barrier(barriers.scores_full(), kConsumerWarps);
  pipeline::init_barrier(barriers.sums_full(), kConsumerWarps);
  pipeline::init_barrier(barriers.sums_empty(), 1);
  for (int stage = 0; stage < S::kQueryStages; ++stage) {
    pipeline::init_barrier(barriers.queries_full(stage), 2);  // the copy, and what is known of them
    pipeline::init_barrier(barriers.queries_empty(stage), kConsumerWarps);
  }
  for (int stage = 0; stage < S::kGradientStages; ++stage) {
    pipeline::init_barrier(barriers.gradients_full(stage), 1);
    pipeline::init_barrier(barriers.gradients_empty(stage), kConsumerWarps);
  }
  pipeline::publish_barriers();
}

/// The block's steps: tiles of queries from the last to the first, each for all query heads of the group. So blocks of
/// different keys keep the same pace.
template <typename S>
struct Steps {
  int query, head;  // of the step
  int left;
  int first_head, end_head;

  __device__ __forceinline__ Steps(const BackwardParams& params, const BackwardTile& tile) {
    int group = params.num_heads / params.num_kv_heads;
    int all = (tile.other_end - tile.other_begin) / S::kQueries * group;
    left = min(all, tile.end_step) - tile.first_step;
    first_head = tile.head * group;
    end_head = first_head + group;
    query = tile.other_end - S::kQueries - tile.first_step / group * S::kQueries;
    head = first_head + tile.first_step % group;
  }
  __device__ __forceinline__ void advance() {
    --left;
    if (++head < end_head) return;
    head = first_head;
    query -= S::kQueries;
  }
};

/// Of one thread: copies keys and values, and queries and gradients as far ahead as there is room.
template <typename S>
__device__ __forceinline__ void bring_tiles(const BackwardParams& params,
                                            const OnePassParams& pass,
                                            const PassWork& work,
                                            const PassBarriers<S>& barriers,
                                            const PassMemory<S>& memory) {
  Steps<S> steps(params, work.tile);
  if (steps.left <= 0) return;
  const CUtensorMap* maps = pass.maps + static_cast<int64_t>(work.tile.sequence) * kMaps;
  for (int i = 0; i < kMaps; ++i) pipeline::acquire_map(maps + i);
  pipeline::copy_tile<S::kWidth, S::kKeys>(
      memory.keys, maps + kMapOfKeys, barriers.keys_full(), work.tile.begin, work.tile.head);
  pipeline::Ring<S::kQueryStages> queries;
  pipeline::Ring<S::kGradientStages> gradients;
  for (bool is_first = true; steps.left > 0; steps.advance(), is_first = false) {
    pipeline::wait(barriers.queries_empty(queries.stage), queries.parity ^ 1);
    pipeline::copy_tile<S::kWidth, S::kQueries>(memory.queries(queries.stage),
                                                maps + kMapOfQueries,
                                                barriers.queries_full(queries.stage),
                                                steps.query,
                                                steps.head);
    queries.advance();
    if (is_first) {
      pipeline::copy_tile<S::kWidth, S::kKeys>(
          memory.values(), maps + kMapOfValues, barriers.values_full(), work.tile.begin, work.tile.head);
    }
    pipeline::wait(barriers.gradients_empty(gradients.stage), gradients.parity ^ 1);
    pipeline::copy_tile<S::kWidth, S::kQueries>(memory.gradients(gradients.stage),
                                                maps + kMapOfGradients,
                                                barriers.gradients_full(gradients.stage),
                                                steps.query,
                                                steps.head);
    gradients.advance();
  }
}

/// Of one warp: what is known of the queries, two a lane.
template <typename S>
__device__ __forceinline__ void bring_statistics(const BackwardParams& params,
                                                 const PassWork& work,
                                                 const PassBarriers<S>& barriers,
                                                 const PassMemory<S>& memory) {
  static_assert(S::kQueries == 64 && sizeof(QueryPair) == 32 && S::kGroups * sizeof(int) <= 16);
  int lane = static_cast<int>(threadIdx.x) % 32;
  pipeline::Ring<S::kQueryStages> queries;
  for (Steps<S> steps(params, work.tile); steps.left > 0; steps.advance()) {
    const float2* statistics = params.statistics + steps.head * params.tokens + work.sequence.query_begin;
    QueryPair pair;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int query = steps.query + 2 * lane + i;
      float2 known = query < work.sequence.query_count ? statistics[query] : make_float2(0, 0);
      SeenKeys seen = seen_keys(params, work.sequence, query);
      pair.log_sum_exp[i] = known.x;
      pair.delta[i] = known.y;
      pair.begin[i] = seen.begin - work.tile.begin;
      pair.end[i] = seen.end - work.tile.begin;
    }
    // Neither end of a range falls from a query to the next; those behind the last query see nothing.
    int last_begin = __shfl_sync(0xffffffffu, pair.begin[1], 31);
    int end = min(__shfl_sync(0xffffffffu, pair.end[0], 0), __shfl_sync(0xffffffffu, pair.end[1], 31));
    pipeline::wait(barriers.queries_empty(queries.stage), queries.parity ^ 1);
    memory.pairs(queries.stage)[lane] = pair;
    int key = lane * kGroupRows;
    if (lane < S::kGroups) *memory.is_bounded(queries.stage, lane) = last_begin > key || end < key + kGroupRows;
    __syncwarp();
    pipeline::release(barriers.queries_full(queries.stage));
    queries.advance();
  }
}

/// Of one thread: adds the sums of each step to those in memory when it is this tile's turn. Which tiles of keys have
/// turns is what BackwardChains says: all from the first that the first query sees.
template <typename S>
__device__ __forceinline__ void take_sums(const BackwardParams& params,
                                          const OnePassParams& pass,
                                          const PassWork& work,
                                          const PassBarriers<S>& barriers,
                                          const PassMemory<S>& memory) {
  constexpr int kBytes = S::kSumFloats * static_cast<int>(sizeof(float));
  uint32_t parity = 0;
  for (Steps<S> steps(params, work.tile); steps.left > 0; steps.advance(), parity ^= 1) {
    int turn = work.tile.begin / S::kKeys - seen_keys(params, work.sequence, steps.query).begin / S::kKeys;
    int64_t place =
        static_cast<int64_t>(work.sequence.first_query_tile + steps.query / S::kQueries) * params.num_heads +
        steps.head;
    float* to = pass.query_sums + place * S::kSumFloats;
    int* count = pass.counts + place;
    pipeline::wait(barriers.sums_full(), parity);
    if (turn > 0) {
      pipeline::wait_for_count(count, turn);
      pipeline::publish_global_to_copies();
      pipeline::add_out(to, memory.sums(), kBytes);
    } else {
      pipeline::copy_out(to, memory.sums(), kBytes);
    }
    pipeline::wait_until_read();
    pipeline::arrive(barriers.sums_empty());
    pipeline::wait_until_written();
    pipeline::publish_global_to_copies();
    pipeline::give_count(count, turn + 1);
  }
}

/// dq from the sums of queries; what no key was added to is zero. A block has a tile and head, with the threads that
/// the groups' sums had.
template <typename S>
__global__ void __launch_bounds__(S::kConsumers) round_query_sums(const __grid_constant__ BackwardParams params,
                                                                  const __grid_constant__ OnePassParams pass,
                                                                  const BackwardTile* tiles) {
  const BackwardTile& tile = tiles[blockIdx.x / params.num_heads];
  int head = static_cast<int>(blockIdx.x % params.num_heads);
  BackwardSequence sequence = params.sequences[tile.sequence];
  constexpr int kCount = S::kGroupDims / 8;
  int group = static_cast<int>(threadIdx.x) / 128;
  float sums[kCount][4] = {};
  if (pass.counts[blockIdx.x] > 0) {
    const float4* from = reinterpret_cast<const float4*>(pass.query_sums) +
                         static_cast<int64_t>(blockIdx.x) * (S::kSumFloats / 4) + group * (kCount * 128) +
                         threadIdx.x % 128;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      float4 four = from[j * 128];
      sums[j][0] = four.x;
      sums[j][1] = four.y;
      sums[j][2] = four.z;
      sums[j][3] = four.w;
    }
  }
  int first_dim = group * S::kGroupDims;
  int row = own_row<typename S::KeySums>(0);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int query = tile.begin + row + 8 * half;
    int64_t element = (static_cast<int64_t>(sequence.query_begin) + query) * params.num_heads + head;
    bf16* to = static_cast<bf16*>(params.dq) + element * params.head_dim + first_dim;
    pipeline::store_row(sums, half, params.score_factor, to, params.head_dim - first_dim, query < sequence.query_count);
  }
}

}  // namespace
}  // namespace weft::cuda
