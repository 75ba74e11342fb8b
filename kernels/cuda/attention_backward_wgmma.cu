// Backward of attention in bf16 in one pass, on compute capability 9.0a (Shah et al., "FlashAttention-3", 2024). A
// block owns a tile of keys, 64 for each group of four warps, whose sums stay in registers, and goes through the
// queries that see them. What the keys add to a tile of queries leaves by way of shared memory and is added to that of
// other blocks in the order of keys, so that every sum has one order. Products run in the background: those of the sums
// of queries under the weights of the next step, those of the values' sums under the gradients of scores.
#include <cstdlib>
#include <optional>
#include <vector>

#include "kernels/cuda/attention_backward_chains.cuh"
#include "kernels/cuda/attention_backward_scores.cuh"
#include "kernels/cuda/attention_backward_wgmma.cuh"
#include "kernels/cuda/attention_maps.h"

namespace weft::cuda {
namespace {

/// A group's keys against the queries of all steps.
template <typename S>
struct PassConsumer {
  using KeySums = float[S::kWidth / 8][4];
  using QuerySums = float[S::kGroupDims / 8][4];
  using Scores = float[S::kQueries / 8][4];
  using Factor = uint32_t[S::kQueries / 16][4];

  /// Scores of the thread's two keys and pairs of neighbouring queries, every fourth pair.
  struct Places {
    const QueryPair* pairs;
    int row;  // of the thread's first key in the block's tile; the other is 8 further

    __device__ __forceinline__ QueryPair queries(int j) const {
      const QueryPair& pair = pairs[4 * j];
      float2 sums = *reinterpret_cast<const float2*>(pair.log_sum_exp);
      float2 deltas = *reinterpret_cast<const float2*>(pair.delta);
      int4 ranges = *reinterpret_cast<const int4*>(pair.begin);
      return {{sums.x, sums.y}, {deltas.x, deltas.y}, {ranges.x, ranges.y}, {ranges.z, ranges.w}};
    }
    __device__ __forceinline__ static int query_of(int i) { return i % 2; }
    __device__ __forceinline__ int key(int, int i) const { return row + i / 2 * 8; }
  };

  const BackwardParams& params;
  const PassBarriers<S>& barriers;
  const PassMemory<S>& memory;
  uint32_t anywhere;  // in shared memory
  int group;
  pipeline::Ring<S::kQueryStages> queries;  // of the step

  __device__ __forceinline__ void run(int count, KeySums& key_sums, KeySums& value_sums) {
    Scores scores;
    Factor weights, dscores;
    QuerySums query_sums;
    pipeline::wait(barriers.keys_full(), 0);
    start_scores(queries, scores);
    products::wait_for_batches<0>();
    products::hold(scores);
    weigh(scores, weights);
    pipeline::wait(barriers.values_full(), 0);
    // Nothing runs from one turn of the loop to the next, for which ptxas would wait for each product.
    for (int t = 0; t + 1 < count; ++t) {
      add_step(t, scores, weights, dscores, key_sums, value_sums);
      start_scores(next_queries(), scores);
      start_query_sums(t, query_sums);
      products::wait_for_batches<1>();
      products::hold(scores);
      products::hold(dscores);
      products::hold(key_sums);
      release_queries();
      weigh(scores, weights);
      pipeline::finish_before_waiting(scores, anywhere);
      products::wait_for_batches<0>();
      products::hold(query_sums);
      hand_over(t, query_sums);
    }
    add_step(count - 1, scores, weights, dscores, key_sums, value_sums);
    start_query_sums(count - 1, query_sums);
    products::wait_for_batches<0>();
    products::hold(dscores);
    products::hold(key_sums);
    products::hold(query_sums);
    hand_over(count - 1, query_sums);
  }

 private:
  __device__ __forceinline__ uint32_t own(uint32_t tile) const { return tile + group * (kGroupRows * 128); }

  __device__ __forceinline__ pipeline::Ring<S::kQueryStages> next_queries() const {
    pipeline::Ring<S::kQueryStages> next = queries;
    next.advance();
    return next;
  }

  /// Starts the products with queries.
  __device__ __forceinline__ void start_scores(const pipeline::Ring<S::kQueryStages>& of, Scores& scores) const {
    pipeline::wait(barriers.queries_full(of.stage), of.parity);
    products::begin_products();
    products::multiply_rows<S::kWidth, S::kKeys, S::kQueries>(scores, own(memory.keys), memory.queries(of.stage));
  }

  /// Starts what all keys of the block add to the queries of step t, in the group's dims.
  __device__ __forceinline__ void start_query_sums(int t, QuerySums& query_sums) const {
    pipeline::wait(barriers.scores_full(), t % 2);
    uint32_t keys = memory.keys + group * (S::kGroupDims == 64 ? S::kKeys * 128 : S::kGroupDims * 2);
    products::begin_products();
    products::multiply_columns<S::kKeys, S::kGroupDims>(query_sums, memory.scores(t % S::kScoreStages), keys);
  }

  /// Nothing reads the step's queries any more.
  __device__ __forceinline__ void release_queries() {
    __syncwarp();
    pipeline::release(barriers.queries_empty(queries.stage));
    queries.advance();
  }

  __device__ __forceinline__ bool is_bounded() const { return *memory.is_bounded(queries.stage, group) != 0; }

  /// The thread's first key in the block's tile; the other is 8 further.
  __device__ __forceinline__ int row() const { return own_row<typename S::KeySums>(group); }

  __device__ __forceinline__ Places places() const { return {memory.pairs(queries.stage) + threadIdx.x % 4, row()}; }

  __device__ __forceinline__ void weigh(Scores& scores, Factor& weights) const {
    if constexpr (S::kIsCapped) {
      is_bounded() ? weigh_capped_products<true>(places(), params, scores, weights)
                   : weigh_capped_products<false>(places(), params, scores, weights);
    } else {
      float factor = params.scale * kLog2E;
      is_bounded() ? weigh_products<true>(places(), factor, scores) : weigh_products<false>(places(), factor, scores);
    }
  }

  /// From the weights of step t on: their gradients, and what both add to the sums of keys. The last products still run
  /// in the end.
  __device__ __forceinline__ void add_step(
      int t, Scores& scores, Factor& weights, Factor& dscores, KeySums& key_sums, KeySums& value_sums) {
    Scores dweights;
    if constexpr (!S::kIsCapped) products::round_to_factor<S::kQueries>(scores, weights);
    constexpr int kStages = S::kGradientStages;
    pipeline::wait(barriers.gradients_full(t % kStages), t / kStages % 2);
    uint32_t gradient = memory.gradients(t % kStages);
    products::begin_products();
    products::multiply_rows<S::kWidth, S::kKeys, S::kQueries>(dweights, own(memory.values()), gradient);
    products::hold(weights);
    products::hold(value_sums);
    products::begin_products();
    products::multiply_factor<S::kWidth, S::kQueries>(value_sums, weights, gradient);
    products::wait_for_batches<1>();
    products::hold(dweights);
    is_bounded() ? differentiate_weights<true>(places(), scores, dweights)
                 : differentiate_weights<false>(places(), scores, dweights);
    // Before dscores need registers, those of the weights have to be free.
    products::wait_for_batches<0>();
    products::hold(weights);
    products::hold(value_sums);
    pipeline::release(barriers.gradients_empty(t % kStages));
    products::round_to_factor<S::kQueries>(dweights, dscores);
    share_scores(t, dscores);
    products::hold(dscores);
    products::hold(key_sums);
    products::begin_products();
    products::multiply_factor<S::kWidth, S::kQueries>(key_sums, dscores, memory.queries(queries.stage));
  }

  /// Gradients of scores go to shared memory, as the sums of queries need those of all keys.
  __device__ __forceinline__ void share_scores(int t, const Factor& dscores) const {
    static_assert(S::kQueries == 64);  // a row's cells are those of one chunk, so that a step flips bits of the address
    int lane = static_cast<int>(threadIdx.x) % 32;
    int matrix_row = row() - lane / 4 + lane / 8 % 2 * 8 + lane % 8;
    uint32_t to = memory.scores(t % S::kScoreStages) + products::cell_offset<S::kKeys>(matrix_row, lane / 16);
#pragma unroll
    for (int step = 0; step < S::kQueries / 16; ++step) store_matrices(to ^ step * 32, dscores[step]);
    pipeline::publish_shared_to_copies();
    __syncwarp();
    pipeline::release(barriers.scores_full());
  }

  /// Sums of the queries of step t go to shared memory, from where take_sums takes them.
  __device__ __forceinline__ void hand_over(int t, const QuerySums& query_sums) const {
    pipeline::wait(barriers.sums_empty(), (t + 1) % 2);
    float4* to = memory.sum_cells() + group * (S::kGroupDims / 8 * 128) + threadIdx.x % 128;
#pragma unroll
    for (int j = 0; j < S::kGroupDims / 8; ++j) {
      to[j * 128] = make_float4(query_sums[j][0], query_sums[j][1], query_sums[j][2], query_sums[j][3]);
    }
    pipeline::publish_shared_to_copies();
    __syncwarp();
    pipeline::release(barriers.sums_full());
  }
};

template <typename S>
__device__ __forceinline__ void store_keys(const BackwardParams& params,
                                           const PassWork& work,
                                           void* array,
                                           const float (&sums)[S::kWidth / 8][4],
                                           float factor,
                                           int row) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int key = work.tile.begin + row + 8 * half;
    int64_t element = (static_cast<int64_t>(work.sequence.key_begin) + key) * params.num_kv_heads + work.tile.head;
    bf16* to = static_cast<bf16*>(array) + element * params.head_dim;
    pipeline::store_row(sums, half, factor, to, params.head_dim, key < work.sequence.key_count);
  }
}

template <typename S>
__device__ __forceinline__ void consume(const BackwardParams& params,
                                        const PassWork& work,
                                        const PassBarriers<S>& barriers,
                                        const PassMemory<S>& memory,
                                        uint32_t anywhere,
                                        int group) {
  using Form = typename S::KeySums;
  float key_sums[S::kWidth / 8][4], value_sums[S::kWidth / 8][4];
#pragma unroll
  for (int j = 0; j < S::kWidth / 8; ++j) {
    key_sums[j][0] = key_sums[j][1] = key_sums[j][2] = key_sums[j][3] = 0;
    value_sums[j][0] = value_sums[j][1] = value_sums[j][2] = value_sums[j][3] = 0;
  }
  int steps = __shfl_sync(0xffffffffu, Steps<S>(params, work.tile).left, 0);
  if (steps > 0) {
    PassConsumer<S> consumer{
        .params = params, .barriers = barriers, .memory = memory, .anywhere = anywhere, .group = group, .queries = {}};
    consumer.run(steps, key_sums, value_sums);
  }
  if (work.tile.partial >= 0) {
    keep_partial<Form>(params, work.tile.partial, 0, key_sums);
    keep_partial<Form>(params, work.tile.partial, 1, value_sums);
    return;
  }
  int row = own_row<Form>(group);
  store_keys<S>(params, work, params.dk, key_sums, params.score_factor, row);
  store_keys<S>(params, work, params.dv, value_sums, 1, row);
}

/// Without a body where wgmma is not: it then has no barriers, by which the host knows.
template <typename S>
__global__ void __launch_bounds__(S::kThreads, 1)
    backward_wgmma(const __grid_constant__ BackwardParams params, const __grid_constant__ OnePassParams pass) {
#if WEFT_ATTENTION_WGMMA || !defined(__CUDA_ARCH__)
  extern __shared__ char shared_bytes[];
  __shared__ uint64_t barrier_words[PassBarriers<S>::kCount + 1];
  __shared__ int4 work_words[(sizeof(PassWork) + 15) / 16];
  uint32_t misaligned = shared_address(shared_bytes) % S::kAlignment;
  char* begin = shared_bytes + (misaligned > 0 ? S::kAlignment - misaligned : 0);
  PassMemory<S> memory{begin, shared_address(begin)};
  PassBarriers<S> barriers{shared_address(barrier_words)};
  PassWork& work = *reinterpret_cast<PassWork*>(work_words);
  if (threadIdx.x == 0) {
    init_barriers<S>(barriers);
    work.tile = pass.tiles[atomicAdd(pass.begun, 1)];
    work.sequence = params.sequences[work.tile.sequence];
  }
  __syncthreads();
  int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);  // the compiler sees that a warp has one
  if (warp >= 4 * S::kGroups) {
    pipeline::leave_registers<S::kProducerRegisters>();
    bool is_first_lane = threadIdx.x % 32 == 0;
    if (warp == 4 * S::kGroups && is_first_lane) bring_tiles<S>(params, pass, work, barriers, memory);
    if (warp == 4 * S::kGroups + 1 && is_first_lane) take_sums<S>(params, pass, work, barriers, memory);
    if (warp == 4 * S::kGroups + 2) bring_statistics<S>(params, work, barriers, memory);
  } else {
    pipeline::take_registers<S::kConsumerRegisters>();
    uint32_t anywhere = barriers.first + PassBarriers<S>::kCount * 8;
    consume<S>(params, work, barriers, memory, anywhere, warp / 4);
  }
#endif
}

// ---- The host's side ----

/// Whether the kernel was compiled with its body for this device, and with the registers that its groups share.
template <typename S>
bool has_body() {
  static const bool has = [] {
    cudaFuncAttributes attributes = {};
    if (cudaFuncGetAttributes(&attributes, backward_wgmma<S>) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    return attributes.sharedSizeBytes > 0 && attributes.numRegs * (S::kGroups + 1) >= S::kRegistersOfGroups;
  }();
  return has;
}

/// The maps of all sequences. False: the arrays have none.
template <typename S>
bool encode_all(std::vector<CUtensorMap>& maps, const AttentionBackwardArgs& args) {
  int64_t key_begin = 0;
  for (const AttentionSequence& sequence : args.sequences) {
    auto add = [&](const void* array, int64_t begin, int64_t rows, int64_t heads, int box_rows) {
      int64_t width = heads * args.head_dim;
      const bf16* from = static_cast<const bf16*>(array) + begin * width;
      return pipeline::encode(maps.emplace_back(), from, args.head_dim, rows, heads, width, args.head_dim, box_rows);
    };
    if (!add(args.q, sequence.query_begin, sequence.query_count, args.num_heads, S::kQueries) ||
        !add(args.dout, sequence.query_begin, sequence.query_count, args.num_heads, S::kQueries) ||
        !add(args.k, key_begin, sequence.key_count, args.num_kv_heads, S::kKeys) ||
        !add(args.v, key_begin, sequence.key_count, args.num_kv_heads, S::kKeys)) {
      return false;
    }
    key_begin += sequence.key_count;
  }
  return true;
}

template <typename S>
void launch_keys(BackwardParams params, const OnePassParams& pass, const BackwardTiles& keys, CudaDevice& device) {
  using Form = typename S::KeySums;
  DeviceBuffer<float> partials(device, std::max<int64_t>(keys.num_partials * kPartialFloats<Form>, 1));
  params.partials = partials.data();
  check(cudaFuncSetAttribute(backward_wgmma<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes),
        "shared memory of attention_backward");
  backward_wgmma<S><<<static_cast<unsigned>(keys.count), S::kThreads, S::kSharedBytes, device.stream()>>>(params, pass);
  check_launch("attention_backward: keys and queries");
  if (keys.num_splits == 0) return;
  auto kernel = sum_partials<Form>;
  auto blocks = static_cast<unsigned>(keys.num_splits * kSumBlocks<Form>);
  kernel<<<blocks, Form::kThreads, 0, device.stream()>>>(params, keys.splits);
  check_launch("attention_backward: sums of keys");
}

template <typename S>
bool launch_pass(const AttentionBackwardArgs& args,
                 const BackwardParams& params,
                 const BackwardTiles& keys,
                 const BackwardTiles& queries,
                 CudaDevice& device) {
  std::vector<CUtensorMap> maps;
  if (!encode_all<S>(maps, args)) return false;
  DeviceBuffer<CUtensorMap> uploaded_maps = uploaded(device, maps.data(), static_cast<int64_t>(maps.size()));
  int64_t places = queries.count * queries.heads;
  DeviceBuffer<float> query_sums(device, std::max<int64_t>(places * S::kSumFloats, 1));
  DeviceBuffer<int> counts(device, places + 1);
  device.fill_zero(counts.data(), static_cast<size_t>(places + 1) * sizeof(int));
  OnePassParams pass{.tiles = keys.tiles,
                     .maps = uploaded_maps.data(),
                     .query_sums = query_sums.data(),
                     .counts = counts.data(),
                     .begun = counts.data() + places};
  if (keys.count > 0) launch_keys<S>(params, pass, keys, device);
  if (places == 0) return true;
  auto kernel = round_query_sums<S>;
  kernel<<<static_cast<unsigned>(places), S::kConsumers, 0, device.stream()>>>(params, pass, queries.tiles);
  check_launch("attention_backward: sums of queries");
  return true;
}

/// Calls body(S) with the kernel's form.
template <typename Body>
auto with_form(int64_t head_dim, bool is_capped, Body&& body) {
  if (head_dim <= 64) return is_capped ? body(OnePass<64, true>{}) : body(OnePass<64, false>{});
  return is_capped ? body(OnePass<128, true>{}) : body(OnePass<128, false>{});
}

constexpr int64_t kMostHeadDim = 128;

}  // namespace

/// Smaller heads were faster in two passes (64 dims on an H200: 262 TFLOP/s beside 240), when a step in one pass still
/// waited for all of the thread's writes to memory. WEFT_ONE_PASS_FROM, 33 to 64, is for measuring that again.
int64_t least_one_pass_head_dim() {
  static const int64_t least = [] {
    const char* value = std::getenv("WEFT_ONE_PASS_FROM");
    int64_t wanted = value == nullptr ? 0 : std::atoi(value);
    return wanted > 32 && wanted <= 64 ? wanted : int64_t{65};
  }();
  return least;
}

std::optional<ChainSizes> backward_wgmma_sizes(const AttentionBackwardArgs& args, CudaDevice& device) {
  if (device.architecture() != 90 || args.dtype != DType::bf16 || args.dropout.drops()) return {};
  if (args.head_dim < least_one_pass_head_dim() || args.head_dim > kMostHeadDim) return {};
  if (args.bias.values != nullptr || args.dbias != nullptr || pipeline::encode_tiled() == nullptr) return {};
  return with_form(args.head_dim, args.mask.soft_cap > 0, [&](auto form) -> std::optional<ChainSizes> {
    using S = decltype(form);
    if (!has_body<S>() || S::kSharedBytes > device.max_shared_bytes()) return {};
    return ChainSizes{.keys = S::kKeys, .queries = S::kQueries};
  });
}

bool launch_backward_wgmma(const AttentionBackwardArgs& args,
                           const BackwardParams& params,
                           BackwardTiles keys,
                           BackwardTiles queries,
                           CudaDevice& device) {
  BackwardParams used = params;
  bool is_capped = params.soft_cap > 0;
  if (is_capped) used.score_factor *= 4;  // weigh_capped_products leaves it out
  return with_form(args.head_dim, is_capped, [&](auto form) {
    return launch_pass<decltype(form)>(args, used, keys, queries, device);
  });
}

}  // namespace weft::cuda
