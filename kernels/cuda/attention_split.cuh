// What the decoding kernels of attention share: where a block works, which keys a query sees, and how the parts of a
// row of the output are joined.
//
// A block has some rows (pairs of a query and a head) of one sequence that read the same key/value head, and a stretch
// of the keys; each of its warps takes tiles of that stretch and keeps of each row the sum of values with weights
// 2^(score − maximum), the maximum and the sum of weights. Scores are in units of log2.
#pragma once

#include <cooperative_groups.h>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::cuda {

/// Sequences that fit a kernel's parameters; more are uploaded.
inline constexpr int kInlineSplitSequences = 32;
inline constexpr int kMaxSplitThreads = 256;
/// Most stretches of keys that a cluster of blocks joins on the way.
inline constexpr int kMaxClusterSplits = 8;

/// Below every score, yet finite: differences of two stay numbers.
inline constexpr float kMaskedScore = -3.0e38f;

struct SplitSequence {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t query_begin = 0;
  int64_t key_token_stride = 0, key_head_stride = 0;
  int64_t bias_origin = 0;
  int32_t query_count = 0;
  int32_t position = 0;                 // of the first query
  int32_t is_explicit = 0;              // ends came from visible_keys: no window
  int32_t ends[kMaxSplitQueries] = {};  // query i sees keys before ends[i]
};

/// How the stretches of keys of a row come together.
enum class SplitJoin : int32_t {
  none,     // there is one
  cluster,  // the blocks of a cluster read each other's shared memory
  kernel    // they lie in `parts` for a second kernel
};

struct SplitParams {
  const void* q = nullptr;
  void* out = nullptr;
  float* log_sum_exp = nullptr;
  const float* bias = nullptr;
  int64_t bias_stride = 0;
  float* parts = nullptr;  // [sequences, kv heads and chunks of rows, splits, rows_per_block, width + 4]
  const SplitSequence* uploaded = nullptr;  // null: inlined
  int32_t num_heads = 0, group = 0, head_dim = 0;
  int32_t row_chunks = 0;      // blocks that share the rows of a key/value head
  int32_t rows_per_block = 0;  // at most
  int32_t num_splits = 0;      // stretches, at most
  int32_t key_step = 0;        // stretches are multiples of this
  int32_t window = 0;
  SplitJoin join = SplitJoin::none;
  bool has_cap = false;
  bool is_wide = false;         // rows of q, keys, values and out may be moved four elements at a time
  float factor = 0, inner = 0;  // score = factor · product, with a cap factor · tanh(inner · product)
  SplitSequence inlined[kInlineSplitSequences];
};

struct SplitRange {
  int begin, end;
};

__device__ __forceinline__ SplitRange visible_range(const SplitParams& p, const SplitSequence& sequence, int query) {
  int begin = 0;
  if (p.window > 0 && sequence.is_explicit == 0) begin = max(0, sequence.position + query - p.window + 1);
  return {begin, sequence.ends[query]};
}

/// What a block works on.
struct SplitPlace {
  const SplitSequence* sequence;
  int kv_head;
  int first_row, rows;  // row r: query r / group, head kv_head · group + r % group
  int key_begin, key_end;
  int splits;  // stretches of these rows with keys, at least one
};

__device__ __forceinline__ SplitPlace split_place(const SplitParams& p, int split) {
  SplitPlace place;
  place.sequence = p.uploaded != nullptr ? p.uploaded + blockIdx.z : p.inlined + blockIdx.z;
  int chunk = static_cast<int>(blockIdx.y) % p.row_chunks;
  place.kv_head = static_cast<int>(blockIdx.y) / p.row_chunks;
  place.first_row = chunk * p.rows_per_block;
  place.rows = min(p.rows_per_block, place.sequence->query_count * p.group - place.first_row);
  place.splits = 1;
  place.key_begin = place.key_end = 0;
  if (place.rows <= 0) return place;
  // Later queries see no fewer keys and begin no earlier.
  int begin = visible_range(p, *place.sequence, place.first_row / p.group).begin;
  int end = visible_range(p, *place.sequence, (place.first_row + place.rows - 1) / p.group).end;
  int count = max(0, end - begin);
  int length = (count + p.num_splits - 1) / p.num_splits;
  length = max(1, (length + p.key_step - 1) / p.key_step) * p.key_step;
  place.splits = max(1, (count + length - 1) / length);
  if (split < place.splits) {
    place.key_begin = begin + split * length;
    place.key_end = begin + min(count, (split + 1) * length);
  }
  return place;
}

/// Keys of the block's stretch that a row of it sees.
__device__ __forceinline__ SplitRange row_range(const SplitParams& p, const SplitPlace& place, int row) {
  if (row >= place.rows) return {0, 0};
  SplitRange range = visible_range(p, *place.sequence, (place.first_row + row) / p.group);
  return {max(range.begin, place.key_begin), min(range.end, place.key_end)};
}

/// Row and head in [T, Hq].
__device__ __forceinline__ int64_t row_in_batch(const SplitParams& p, const SplitPlace& place, int row) {
  int all = place.first_row + row;
  return (place.sequence->query_begin + all / p.group) * p.num_heads + place.kv_head * p.group + all % p.group;
}

/// So that the bias of a row and key j is at [j].
__device__ __forceinline__ const float* bias_row(const SplitParams& p, const SplitPlace& place, int row) {
  int all = place.first_row + row;
  int64_t head = place.kv_head * p.group + all % p.group;
  return p.bias + head * p.bias_stride + place.sequence->bias_origin - all / p.group;
}

__device__ __forceinline__ float split_score(const SplitParams& p, float product) {
  return p.factor * (p.has_cap ? tanhf(p.inner * product) : product);
}

inline constexpr float kSplitLog2E = 1.4426950408889634f;

/// Floats of a part of a row: the sum of values, the maximum, the sum of weights, padding.
__host__ __device__ constexpr int part_stride(int width) {
  return width + 4;
}

struct JoinedPart {
  float4 values;
  float maximum, sum;
};

/// Four dims, from d on, of a row whose parts are row_of(0), row_of(1), …
template <int width, typename RowOf>
__device__ __forceinline__ JoinedPart join_parts(int count, int d, const RowOf& row_of) {
  JoinedPart joined{make_float4(0, 0, 0, 0), kMaskedScore, 0};
#pragma unroll 4
  for (int part = 0; part < count; ++part) joined.maximum = fmaxf(joined.maximum, row_of(part)[width]);
#pragma unroll 4
  for (int part = 0; part < count; ++part) {
    const float* row = row_of(part);
    float weight = exp2_approximate(row[width] - joined.maximum);
    float4 values = *reinterpret_cast<const float4*>(row + d);
    joined.values.x += weight * values.x;
    joined.values.y += weight * values.y;
    joined.values.z += weight * values.z;
    joined.values.w += weight * values.w;
    joined.sum += weight * row[width + 1];
  }
  return joined;
}

template <int width>
__device__ __forceinline__ void store_part(float* row, int d, const JoinedPart& part) {
  *reinterpret_cast<float4*>(row + d) = part.values;
  if (d == 0) {
    row[width] = part.maximum;
    row[width + 1] = part.sum;
  }
}

/// Four dims of a finished row.
template <typename T>
__device__ __forceinline__ void write_row(
    const SplitParams& p, const SplitPlace& place, int row, int d, const JoinedPart& part) {
  if (d >= p.head_dim) return;
  int64_t at = row_in_batch(p, place, row);
  float inverse = part.sum == 0 ? 0.0f : 1.0f / part.sum;
  Pack<T, 4> pack{{from_float<T>(part.values.x * inverse),
                   from_float<T>(part.values.y * inverse),
                   from_float<T>(part.values.z * inverse),
                   from_float<T>(part.values.w * inverse)}};
  T* to = static_cast<T*>(p.out) + at * p.head_dim + d;
  if (p.is_wide) {
    *reinterpret_cast<Pack<T, 4>*>(to) = pack;
  } else {
    for (int i = 0; i < 4 && d + i < p.head_dim; ++i) to[i] = pack.values[i];
  }
  if (d == 0 && p.log_sum_exp != nullptr) p.log_sum_exp[at] = part.maximum * 0.69314718055994531f + logf(part.sum);
}

/// Joins the parts of the blocks of a cluster, which lie at the same place of their shared memory.
template <typename T, int width>
__device__ __forceinline__ void join_cluster(const SplitParams& p, const SplitPlace& place, float* part) {
#if __CUDA_ARCH__ >= 900
  namespace cg = cooperative_groups;
  constexpr int kPacks = width / 4;
  cg::cluster_group cluster = cg::this_cluster();
  cluster.sync();
  int threads = static_cast<int>(blockDim.x);
  for (int i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x); i < place.rows * kPacks;
       i += p.num_splits * threads) {
    int row = i / kPacks, d = i % kPacks * 4;
    JoinedPart joined = join_parts<width>(place.splits, d, [&](int split) {
      return cluster.map_shared_rank(part, static_cast<unsigned>(split)) + row * part_stride(width);
    });
    write_row<T>(p, place, row, d, joined);
  }
  // Nobody may leave while others read.
  cluster.sync();
#endif
}

/// Joins what the warps wrote to shared memory, [warps + 1, rows_per_block, part_stride(width)], of which the last is
/// for the block's result; and the blocks' results, or leaves that to a second kernel.
template <typename T, int width>
__device__ __forceinline__ void finish_split(const SplitParams& p, const SplitPlace& place, float* shared) {
  constexpr int kPacks = width / 4, kStride = part_stride(width);
  int warps = static_cast<int>(blockDim.x) / 32;
  float* block_part = shared + warps * p.rows_per_block * kStride;
  float* to = block_part;
  if (p.join == SplitJoin::kernel) {
    int64_t block = (int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    to = p.parts + block * p.rows_per_block * kStride;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < place.rows * kPacks; i += static_cast<int>(blockDim.x)) {
    int row = i / kPacks, d = i % kPacks * 4;
    JoinedPart joined =
        join_parts<width>(warps, d, [&](int warp) { return shared + (warp * p.rows_per_block + row) * kStride; });
    if (p.join == SplitJoin::none) {
      write_row<T>(p, place, row, d, joined);
    } else {
      store_part<width>(to + row * kStride, d, joined);
    }
  }
  if (p.join == SplitJoin::cluster) join_cluster<T, width>(p, place, block_part);
}

}  // namespace weft::cuda
