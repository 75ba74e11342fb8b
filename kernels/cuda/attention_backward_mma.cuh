// Backward of attention in bf16 on tensor cores. The weights and their gradients stay in the registers of the warps
// that own the rows, where they are the left factors of the sums.
#pragma once

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_backward_scores.cuh"
#include "kernels/cuda/attention_backward_sums.cuh"
#include "kernels/cuda/attention_dropout.cuh"
#include "kernels/cuda/attention_products.cuh"

namespace weft::cuda {
namespace {

/// What a score is: a product, with a soft cap perhaps, or with a cap and a bias perhaps, and then of dropped weights
/// perhaps. Each has its own kernels, as what the first two need per pair is little.
enum class Scoring : uint8_t { plain, capped, any, any_dropped };

template <typename Form, Scoring kScoring>
class BackwardBlock {
  static constexpr bool kOwnsKeys = Form::kOwnsKeys;
  static constexpr bool kDrops = kScoring == Scoring::any_dropped;
  static constexpr bool kInPairs = kScoring == Scoring::any || kDrops;
  static constexpr int kOtherRows = Form::kOtherRows;
  using Sums = float[Form::kSumDims / 8][4];
  using Scores = float[kOtherRows / 8][4];
  using Factor = uint32_t[kOtherRows / 16][4];

 public:
  __device__ BackwardBlock(const BackwardParams& params, const BackwardTile& tile, int head, char* shared)
      : params_(params),
        sequence_(params.sequences[tile.sequence]),
        tile_(tile),
        head_(head),
        shared_(shared),
        address_(shared_address(shared)) {
    int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);  // the compiler shall see that a warp has one
    part_ = Form::kParts > 1 ? group : 0;
    group_row_ = Form::kParts > 1 ? 0 : group * kGroupRows;
    group_begin_ = tile.begin + group_row_;
    own_row_ = tile.begin + own_row<Form>(group);
    column_ = threadIdx.x % 4 * 2;
    queries_per_key_ = params.num_heads / params.num_kv_heads;
  }

  __device__ void run() {
    Sums sums, value_sums;  // dk or dq; and dv
    clear(sums);
    clear(value_sums);
    int tiles = (tile_.other_end - tile_.other_begin + kOtherRows - 1) / kOtherRows;
    int step = kOwnsKeys ? tile_.first_step : 0;
    int end_step = kOwnsKeys ? min(tiles * queries_per_key_, tile_.end_step) : tiles;
    if constexpr (!kOwnsKeys) load_own_queries();
    if (step < end_step) {
      load_own();
      load_other(step, tiles);
    }
    for (; step < end_step; ++step) {
      products::wait_for_copies();
      __syncthreads();
      if (step + 1 < end_step) load_other(step + 1, tiles);
      int other_begin = tile_.other_begin + step % tiles * kOtherRows;
      if (!is_seen(step % 2, other_begin)) continue;
      add_tile(step % 2, other_begin, query_head(step, tiles), sums, value_sums);
    }
    if (kOwnsKeys && tile_.partial >= 0) {
      keep_partial<Form>(params_, tile_.partial, 0, sums);
      keep_partial<Form>(params_, tile_.partial, 1, value_sums);
      return;
    }
    store(kOwnsKeys ? params_.dk : params_.dq, sums, params_.score_factor);
    if constexpr (kOwnsKeys) store(params_.dv, value_sums, 1);
  }

 private:
  __device__ __forceinline__ static void clear(Sums& sums) {
#pragma unroll
    for (int j = 0; j < Form::kSumDims / 8; ++j) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0;
  }

  __device__ __forceinline__ int query_head(int step, int tiles) const {
    return kOwnsKeys ? head_ * queries_per_key_ + step / tiles : head_;
  }

  __device__ __forceinline__ uint32_t own_address(int which) const {
    return address_ + which * Form::kOwnBytes;
  }
  __device__ __forceinline__ uint32_t other_address(int stage, int which) const {
    return address_ + 2 * Form::kOwnBytes + stage * Form::kStageBytes + which * Form::kOtherBytes;
  }
  __device__ __forceinline__ float2* stage_statistics(int stage) const {
    return reinterpret_cast<float2*>(shared_ + Form::kExtrasBegin) + stage * kOtherRows;
  }
  __device__ __forceinline__ int2* stage_ranges(int stage) const {
    return reinterpret_cast<int2*>(shared_ + Form::kExtrasBegin) + (2 + stage) * kOtherRows;
  }

  /// Rows [first, first + kRows) of a sequence's head as a tile of bf16; zeros behind `count` rows and head_dim.
  template <int kRows>
  __device__ __forceinline__ void load(
      uint32_t to, const void* array, int64_t sequence_row, int first, int count, int heads, int head) const {
    constexpr int kCells = Form::kDim / 8, kRowsAtOnce = Form::kThreads / kCells;
    // The rows of a thread lie in their eights alike, and so do its cells.
    static_assert(kRowsAtOnce % 8 == 0);
    int row = threadIdx.x / kCells, cell = threadIdx.x % kCells;
    int room = params_.head_dim - cell * 8;
    int64_t stride = static_cast<int64_t>(heads) * params_.head_dim;
    const bf16* start = static_cast<const bf16*>(array);
    const bf16* from = start + (sequence_row + first + row) * stride + head * params_.head_dim + cell * 8;
    to += products::cell_offset<kRows>(row, cell);
    if (!params_.is_aligned) {
      return load_unaligned<kRowsAtOnce>(to, from, stride, kRows - row, count - first - row, room);
    }
#pragma unroll
    for (int i = 0; i < kRows; i += kRowsAtOnce) {
      if (kRows % kRowsAtOnce != 0 && row + i >= kRows) break;
      bool is_valid = first + row + i < count && room > 0;
      copy_async(to + i * 128, is_valid ? from + i * stride : start, is_valid);
    }
  }

  template <int kRowsAtOnce>
  __device__ __noinline__ static void load_unaligned(
      uint32_t to, const bf16* from, int64_t stride, int num_rows, int num_valid, int room) {
    for (int i = 0; i < num_rows; i += kRowsAtOnce)
      products::store_16_bytes(to + i * 128, gathered(from + i * stride, i < num_valid ? room : 0));
  }

  /// Eight elements one by one, zeros behind `count`.
  __device__ static uint4 gathered(const bf16* from, int count) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float low = 2 * i < count ? to_float(from[2 * i]) : 0;
      float high = 2 * i + 1 < count ? to_float(from[2 * i + 1]) : 0;
      words[i] = pack_bf16(low, high);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }

  __device__ __forceinline__ void load_own() const {
    constexpr int kRows = Form::kOwnRows;
    if constexpr (kOwnsKeys) {
      int count = sequence_.key_count, heads = params_.num_kv_heads;
      load<kRows>(own_address(0), params_.k, sequence_.key_begin, tile_.begin, count, heads, head_);
      load<kRows>(own_address(1), params_.v, sequence_.key_begin, tile_.begin, count, heads, head_);
    } else {
      int count = sequence_.query_count, heads = params_.num_heads;
      load<kRows>(own_address(0), params_.q, sequence_.query_begin, tile_.begin, count, heads, head_);
      load<kRows>(own_address(1), params_.dout, sequence_.query_begin, tile_.begin, count, heads, head_);
    }
  }

  /// Starts loading the others of a step into its stage.
  __device__ __forceinline__ void load_other(int step, int tiles) const {
    int stage = step % 2, first = tile_.other_begin + step % tiles * kOtherRows;
    uint32_t to = other_address(stage, 0), second_to = other_address(stage, 1);
    if constexpr (kOwnsKeys) {
      int count = sequence_.query_count, heads = params_.num_heads, head = query_head(step, tiles);
      load<kOtherRows>(to, params_.q, sequence_.query_begin, first, count, heads, head);
      load<kOtherRows>(second_to, params_.dout, sequence_.query_begin, first, count, heads, head);
      load_queries(stage, first, head);
    } else {
      int count = sequence_.key_count, heads = params_.num_kv_heads, head = head_ / queries_per_key_;
      load<kOtherRows>(to, params_.k, sequence_.key_begin, first, count, heads, head);
      load<kOtherRows>(second_to, params_.v, sequence_.key_begin, first, count, heads, head);
    }
  }

  __device__ __forceinline__ const float2* statistics_of(int head, int query) const {
    return params_.statistics + head * params_.tokens + sequence_.query_begin + query;
  }

  /// Statistics and ranges of a stage's queries.
  __device__ __forceinline__ void load_queries(int stage, int first, int head) const {
    int i = threadIdx.x;
    if (i >= kOtherRows) return;
    bool is_valid = first + i < sequence_.query_count;
    const float2* from = is_valid ? statistics_of(head, first + i) : params_.statistics;
    products::copy_8_bytes(shared_address(stage_statistics(stage) + i), from, is_valid);
    SeenKeys seen = seen_keys(params_, sequence_, first + i);
    stage_ranges(stage)[i] = make_int2(seen.begin, seen.end);
  }

  /// Where queries are owned: the thread's two, and what bounds the group's.
  __device__ __forceinline__ void load_own_queries() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int query = own_row_ + 8 * half;
      SeenKeys seen = seen_keys(params_, sequence_, query);
      float2 statistics = query < sequence_.query_count ? *statistics_of(head_, query) : make_float2(0, 0);
      own_queries_.log_sum_exp[half] = statistics.x;
      own_queries_.delta[half] = statistics.y;
      own_queries_.begin[half] = seen.begin;
      own_queries_.end[half] = seen.end;
    }
    first_seen_ = seen_keys(params_, sequence_, group_begin_);
    last_seen_ = seen_keys(params_, sequence_, min(group_begin_ + kGroupRows, sequence_.query_count) - 1);
    is_whole_ = group_begin_ + kGroupRows <= sequence_.query_count;
  }

  /// Whether any of the group's rows and the others see each other; and finds out whether all do.
  __device__ __forceinline__ bool is_seen(int stage, int other_begin) {
    int key_begin = kOwnsKeys ? group_begin_ : other_begin;
    int key_end = key_begin + (kOwnsKeys ? kGroupRows : kOtherRows);
    if constexpr (kOwnsKeys) {
      int count = min(kOtherRows, sequence_.query_count - other_begin);
      int2 first = stage_ranges(stage)[0], last = stage_ranges(stage)[count - 1];
      first_seen_ = {first.x, first.y};
      last_seen_ = {last.x, last.y};
      is_whole_ = count == kOtherRows;
    } else if (group_begin_ >= sequence_.query_count) {
      return false;
    }
    is_bounded_ = !is_whole_ || last_seen_.begin > key_begin || first_seen_.end < key_end;
    return last_seen_.end > key_begin && first_seen_.begin < key_end;
  }

  __device__ __forceinline__ void add_tile(int stage, int other_begin, int query_head, Sums& sums, Sums& value_sums) {
    constexpr int kPartOffset = Form::kSumDims / 64 * (kOtherRows * 128);
    uint32_t own = group_row_ * 128;
    uint32_t other = other_address(stage, 0), second_other = other_address(stage, 1);
    Scores scores, dweights;
    Factor weights, dscores;
    Places places{*this, stage, other_begin};
    float score_factor = params_.scale * kLog2E;
    uint32_t kept = 0;
    if constexpr (kDrops) kept = draw(other_begin, query_head);
    products::begin_products();
    products::multiply_rows<Form::kDim, Form::kOwnRows, kOtherRows>(scores, own_address(0) + own, other);
    products::multiply_rows<Form::kDim, Form::kOwnRows, kOtherRows>(dweights, own_address(1) + own, second_other);
    products::wait_for_batches<kInPairs ? 0 : 1>();
    products::hold(scores);
    if constexpr (kScoring == Scoring::plain) {
      is_bounded_ ? weigh_products<true>(places, score_factor, scores)
                  : weigh_products<false>(places, score_factor, scores);
    } else if constexpr (kScoring == Scoring::capped) {
      is_bounded_ ? weigh_capped_products<true>(places, params_, scores, weights)
                  : weigh_capped_products<false>(places, params_, scores, weights);
    } else {
      products::hold(dweights);
      differentiate_pairs(stage, other_begin, query_head, kept, scores, dweights);
    }
    if constexpr (kOwnsKeys) {
      if constexpr (kScoring != Scoring::capped) products::round_to_factor<kOtherRows>(scores, weights);
      products::hold(weights);
      products::begin_products();
      products::multiply_factor<Form::kSumDims, kOtherRows>(value_sums, weights, second_other + part_ * kPartOffset);
    }
    if constexpr (!kInPairs) {
      products::wait_for_batches<kOwnsKeys ? 1 : 0>();
      products::hold(dweights);
      is_bounded_ ? differentiate_weights<true>(places, scores, dweights)
                  : differentiate_weights<false>(places, scores, dweights);
    }
    products::round_to_factor<kOtherRows>(dweights, dscores);
    products::hold(dscores);
    products::begin_products();
    products::multiply_factor<Form::kSumDims, kOtherRows>(sums, dscores, other + part_ * kPartOffset);
    products::wait_for_batches<0>();
    products::hold(sums);
    products::hold(value_sums);
  }

  /// A step's, as the functions that weigh ask for them.
  struct Places {
    const BackwardBlock& block;
    int stage, other_begin;
    __device__ __forceinline__ QueryPair queries(int j) const { return block.queries_at(stage, j); }
    __device__ __forceinline__ static int query_of(int i) { return BackwardBlock::query_of(i); }
    __device__ __forceinline__ int key(int j, int i) const { return block.key_of(other_begin, j, i); }
  };

  /// The queries of columns 8·j + column_ and the next, or of the rows.
  __device__ __forceinline__ QueryPair queries_at(int stage, int j) const {
    if constexpr (!kOwnsKeys) return own_queries_;
    int column = 8 * j + column_;
    float4 statistics = *reinterpret_cast<const float4*>(stage_statistics(stage) + column);
    int4 ranges = *reinterpret_cast<const int4*>(stage_ranges(stage) + column);
    return {{statistics.x, statistics.z}, {statistics.y, statistics.w}, {ranges.x, ranges.z}, {ranges.y, ranges.w}};
  }

  /// Which of a QueryPair element i belongs to, and its key.
  __device__ __forceinline__ static int query_of(int i) {
    return kOwnsKeys ? i % 2 : i / 2;
  }
  __device__ __forceinline__ int key_of(int other_begin, int j, int i) const {
    return kOwnsKeys ? own_row_ + i / 2 * 8 : other_begin + 8 * j + column_ + i % 2;
  }

  /// Which of the thread's weights count: bits 4·j + i.
  __device__ __forceinline__ uint32_t draw(int other_begin, int query_head) const {
    const AttentionDropout& dropout = params_.dropout;
    auto first_index = [&](int query, int key) {
      return dropout.first_index(sequence_.query_begin + query, query_head) + static_cast<uint64_t>(key);
    };
    if constexpr (kOwnsKeys) {
      // Four lanes have neighbouring keys, and the same two queries with these and with the keys 8 further.
      int place = static_cast<int>(threadIdx.x) / 4 % 4;
      int query = other_begin + column_ + place % 2, key = own_row_ - place + place / 2 * 8;
      return kept_of_four_lanes<4>(
          draw_kept<kOtherRows / 8>(dropout, [&](int j) { return first_index(query + 8 * j, key); }));
    } else {
      int query = own_row_ + static_cast<int>(threadIdx.x) % 2 * 8, key = other_begin + first_drawn_key(column_);
      return kept_of_two_lanes<1>(
          draw_kept<kOtherRows / 8>(dropout, [&](int j) { return first_index(query, key + 8 * j); }));
    }
  }

  /// Both at once, with soft cap, bias and its gradient, and dropout.
  __device__ __forceinline__ void differentiate_pairs(
      int stage, int other_begin, int query_head, uint32_t kept, Scores& scores, Scores& dweights) const {
    float kept_scale = kDrops ? params_.dropout.kept_scale() : 1;
    const float* bias = bias_row(params_, sequence_, query_head, params_.bias);
    float* diagonals = diagonal_scratch();
    bool sums_bias = !kOwnsKeys && params_.dbias != nullptr;
#pragma unroll
    for (int j = 0; j < kOtherRows / 8; ++j) {
      QueryPair queries = queries_at(stage, j);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int at = query_of(i), key = key_of(other_begin, j, i);
        int query = kOwnsKeys ? other_begin + 8 * j + column_ + i % 2 : own_row_ + i / 2 * 8;
        float counts = kDrops && !is_kept(kept, 4 * j + i) ? 0 : kept_scale;
        PairGradient gradient = pair_gradient(params_,
                                              scores[j][i],
                                              kDrops ? dweights[j][i] * counts : dweights[j][i],
                                              make_float2(queries.log_sum_exp[at], queries.delta[at]),
                                              bias == nullptr ? nullptr : bias + (key - query),
                                              key >= queries.begin[at] && key < queries.end[at]);
        scores[j][i] = kDrops ? gradient.weight * counts : gradient.weight;
        dweights[j][i] = gradient.dscore;
        int row = threadIdx.x % 32 / 4 + i / 2 * 8;
        if (sums_bias) diagonals[row * Form::kDiagonalPitch + 8 * j + column_ + i % 2] = gradient.dbias;
      }
    }
    if (sums_bias) add_diagonals(other_begin, diagonals);
  }

  __device__ __forceinline__ float* diagonal_scratch() const {
    float* scratch = reinterpret_cast<float*>(shared_ + Form::kExtrasBegin);
    return scratch + threadIdx.x / 32 * (16 * Form::kDiagonalPitch);
  }

  /// dbias takes the sums over the diagonals of the warp's 16 rows. Blocks add in any order, so its last bits vary.
  __device__ __forceinline__ void add_diagonals(int other_begin, const float* diagonals) const {
    int lane = threadIdx.x % 32;
    int first_row = own_row_ - lane / 4;
    float* to = bias_row(params_, sequence_, head_, params_.dbias) + (other_begin - first_row);
    __syncwarp();
    for (int diagonal = lane - 15; diagonal < kOtherRows; diagonal += 32) {
      float sum = 0;
#pragma unroll
      for (int row = 0; row < 16; ++row) {
        int column = diagonal + row;
        if (column >= 0 && column < kOtherRows) sum += diagonals[row * Form::kDiagonalPitch + column];
      }
      // A diagonal that no pair lies on may be outside of the biases.
      if (sum != 0) atomicAdd(to + diagonal, sum);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void store(void* array, const Sums& sums, float factor) const {
    int64_t begin = kOwnsKeys ? sequence_.key_begin : sequence_.query_begin;
    int count = kOwnsKeys ? sequence_.key_count : sequence_.query_count;
    int heads = kOwnsKeys ? params_.num_kv_heads : params_.num_heads;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int row = own_row_ + 8 * half;
      if (row >= count) continue;
      bf16* to = static_cast<bf16*>(array) + ((begin + row) * heads + head_) * params_.head_dim;
#pragma unroll
      for (int j = 0; j < Form::kSumDims / 8; ++j) {
        int column = part_ * Form::kSumDims + 8 * j + column_;
        store_pair(params_,
                   to + column,
                   params_.head_dim - column,
                   sums[j][2 * half] * factor,
                   sums[j][2 * half + 1] * factor);
      }
    }
  }

  const BackwardParams& params_;
  BackwardSequence sequence_;
  BackwardTile tile_;
  int head_;  // a kv head where keys are owned, else a query head
  char* shared_;
  uint32_t address_;
  int part_, group_row_, group_begin_;  // of the thread's group of warps
  int own_row_, column_;                // the thread's first row in the sequence, its first column in each eight
  int queries_per_key_;
  QueryPair own_queries_;
  SeenKeys first_seen_, last_seen_;
  bool is_whole_ = false, is_bounded_ = false;
};

template <typename Form, Scoring kScoring>
__global__ void __launch_bounds__(Form::kThreads, kScoring == Scoring::plain ? Form::kBlocksAtOnce : 1)
    backward_mma(const __grid_constant__ BackwardParams params, const BackwardTile* tiles, int heads) {
  extern __shared__ char shared_bytes[];
  uint32_t misaligned = shared_address(shared_bytes) % Form::kAlignment;
  char* shared = shared_bytes + (misaligned > 0 ? Form::kAlignment - misaligned : 0);
  const BackwardTile& tile = tiles[blockIdx.x / heads];
  BackwardBlock<Form, kScoring>(params, tile, tile.head + static_cast<int>(blockIdx.x % heads), shared).run();
}

template <typename Form, Scoring kScoring>
void launch_pass(const BackwardParams& params, BackwardTiles tiles, CudaDevice& device) {
  if (tiles.count == 0) return;
  require(Form::kSharedBytes <= device.max_shared_bytes(), "attention_backward", "a GPU with more shared memory");
  auto kernel = backward_mma<Form, kScoring>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Form::kSharedBytes),
        "shared memory of attention_backward");
  auto blocks = static_cast<unsigned>(tiles.count * tiles.heads);
  kernel<<<blocks, Form::kThreads, Form::kSharedBytes, device.stream()>>>(params, tiles.tiles, tiles.heads);
  check_launch(Form::kOwnsKeys ? "attention_backward: keys" : "attention_backward: queries");
}

template <typename Form, Scoring kScoring>
void launch_keys_pass(BackwardParams params, BackwardTiles tiles, CudaDevice& device) {
  DeviceBuffer<float> partials(device, std::max<int64_t>(tiles.num_partials * kPartialFloats<Form>, 1));
  params.partials = partials.data();
  launch_pass<Form, kScoring>(params, tiles, device);
  if (tiles.num_splits == 0) return;
  auto kernel = sum_partials<Form>;
  auto blocks = static_cast<unsigned>(tiles.num_splits * kSumBlocks<Form>);
  kernel<<<blocks, Form::kThreads, 0, device.stream()>>>(params, tiles.splits);
  check_launch("attention_backward: sums of keys");
}

template <int kDim, Scoring kScoring>
void launch_passes(const BackwardParams& params, BackwardTiles keys, BackwardTiles queries, CudaDevice& device) {
  launch_keys_pass<BlockForm<kDim, true>, kScoring>(params, keys, device);
  launch_pass<BlockForm<kDim, false>, kScoring>(params, queries, device);
}

/// Calls body(kDim) with the least padded size.
template <typename Body>
auto with_padded_dim(int64_t head_dim, Body&& body) {
  if (head_dim <= 64) return body(std::integral_constant<int, 64>{});
  if (head_dim <= 128) return body(std::integral_constant<int, 128>{});
  return body(std::integral_constant<int, 256>{});
}

}  // namespace
}  // namespace weft::cuda
