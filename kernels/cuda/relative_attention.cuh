// What the two directions of relative attention share: a pass over some sequences and heads with its scratch memory,
// and tiled products. As on the CPU, what depends on a distance is computed for each row of a table once and gathered,
// and what is summed by distance is summed by row first.
#pragma once

#include <functional>

#include "kernels/cuda/common.cuh"
#include "kernels/relative_attention.h"

namespace weft::cuda {

/// A RelativeSequence as kernels read it: its host arrays on the device, and where its scratch memory lies.
struct RelativeSpan {
  const void* keys;
  const void* values;
  const int32_t* visible_keys;
  const int32_t* query_positions;
  const int32_t* key_positions;
  int64_t query_begin;
  int query_count, key_count;
  int64_t key_token_stride, key_head_stride, value_token_stride, value_head_stride;
  int64_t scores_begin;
  int64_t pairs_before, queries_before, keys_before;  // of the sequences before it in the pass
};

/// A kernel's parameter: some sequences and heads at a time, so that their scores fit in scratch memory. Along z of a
/// grid go sequences, along y heads.
struct RelativePass {
  static constexpr int kMostSequences = 24;
  RelativeAttentionBackwardArgs args;  // of forward alone in forward; `rows` on the device, `sequences` unused
  int head_begin, head_count;          // query heads
  int num_sequences, most_queries, most_keys;
  float* weights;    // [head_count, query_count, key_count] of each sequence; the scores at first
  float* gradients;  // likewise, of the weights, then of the scores
  float* by_query;   // [head_count, query_count, table_rows] of each sequence
  float* by_key;     // [head_count, key_count, table_rows] of each sequence
  RelativeSpan sequences[kMostSequences];

  __host__ __device__ bool has(const DistanceTable& table) const {
    return args.forward.rows != nullptr && table.values != nullptr;
  }
  __device__ int64_t pair_row(const RelativeSpan& sequence, int head, int query) const {
    int64_t row = static_cast<int64_t>(head - head_begin) * sequence.query_count + query;
    return sequence.pairs_before * head_count + row * sequence.key_count;
  }
  __device__ float* by_query_row(const RelativeSpan& sequence, int head, int query) const {
    int64_t row = static_cast<int64_t>(head - head_begin) * sequence.query_count + query;
    return by_query + (sequence.queries_before * head_count + row) * args.forward.table_rows;
  }
  __device__ float* by_key_row(const RelativeSpan& sequence, int head, int key) const {
    int64_t row = static_cast<int64_t>(head - head_begin) * sequence.key_count + key;
    return by_key + (sequence.keys_before * head_count + row) * args.forward.table_rows;
  }
  /// Into previous and kept scores and their gradients.
  __device__ int64_t kept_row(const RelativeSpan& sequence, int head, int query) const {
    int64_t row = static_cast<int64_t>(head) * sequence.query_count + query;
    return sequence.scores_begin + row * sequence.key_count;
  }
  __device__ int kv_head(int head) const {
    return head / static_cast<int>(args.forward.num_heads / args.forward.num_kv_heads);
  }
};
static_assert(sizeof(RelativePass) <= 4000);

/// Scratch matrices that a pass needs besides the weights.
struct RelativeScratch {
  bool gradients = false, by_query = false, by_key = false;
};

/// A block for each query and head.
inline dim3 query_grid(const RelativePass& pass) {
  return {static_cast<unsigned>(pass.most_queries),
          static_cast<unsigned>(pass.head_count),
          static_cast<unsigned>(pass.num_sequences)};
}

/// Calls body for passes that together are the whole call.
void for_each_pass(const RelativeAttentionBackwardArgs& args,
                   const RelativeScratch& scratch,
                   CudaDevice& device,
                   const std::function<void(const RelativePass&)>& body);

/// Which rows meet a table's.
enum class TableSide : uint8_t { query, key, result };

/// by_query (by_key) gets the products of q or dout (k) with each row of its table.
void launch_table_products(const RelativePass& pass, TableSide side, const CudaDevice& device);

/// by_query (by_key) gets the sums of `pairs`, the weights or gradients, over each query's keys (key's queries) of each
/// row of the tables. In a certain order: the result is the same every time.
void launch_sums_by_row(const RelativePass& pass, const float* pairs, bool by_key, const CudaDevice& device);

/// `weights` gets the scores, then the weights, none of them dropped. Overwrites by_query and by_key. Keeps the scores
/// where asked to.
void launch_weights(const RelativePass& pass, const CudaDevice& device);

/// Multiplies `pairs`, the weights or gradients, by what dropout makes of the weights.
void launch_dropout(const RelativePass& pass, float* pairs, const CudaDevice& device);

void relative_attention_backward(const RelativeAttentionBackwardArgs& args, const Stream& stream);

/// Row of the tables that belongs to a query and a key.
__device__ __forceinline__ int table_row(const RelativePass& pass, const RelativeSpan& sequence, int query, int key) {
  int64_t from = sequence.query_positions != nullptr ? sequence.query_positions[query]
                                                     : sequence.key_count - sequence.query_count + query;
  int64_t to = sequence.key_positions != nullptr ? sequence.key_positions[key] : key;
  int64_t limit = pass.args.forward.max_distance, distance = to - from;
  distance = distance < -limit ? -limit : distance > limit ? limit : distance;
  return pass.args.forward.rows[distance + limit];
}

/// Keys that a query sees.
__device__ __forceinline__ int seen_keys(const RelativePass& pass, const RelativeSpan& sequence, int query) {
  int seen = sequence.key_count;
  if (sequence.visible_keys != nullptr) {
    seen = sequence.visible_keys[query];
  } else if (pass.args.forward.causal) {
    seen = sequence.key_count - sequence.query_count + query + 1;
  }
  return seen < 0 ? 0 : seen > sequence.key_count ? sequence.key_count : seen;
}

/// No query of a tile from `first_query` on sees this key or one after it.
__device__ __forceinline__ int seen_keys_of_tile(const RelativePass& pass,
                                                 const RelativeSpan& sequence,
                                                 int first_query,
                                                 int tile) {
  if (sequence.visible_keys != nullptr || !pass.args.forward.causal) return sequence.key_count;
  int last = first_query + tile < sequence.query_count ? first_query + tile : sequence.query_count;
  return seen_keys(pass, sequence, last - 1);
}

__device__ __forceinline__ float sharpness_of(ScoreNormalization normalization, int seen) {
  if (normalization == ScoreNormalization::softmax) return 1;
  return static_cast<float>(log(static_cast<double>(seen < 16 ? 16 : seen)) / log(512.0));
}

// ---- Products. A block of 256 threads computes a tile of 64×64 results, each thread 4×4 of them.

constexpr int kProductTile = 64;
constexpr int kProductDepth = 16;
constexpr int kProductThreads = 256;

struct ProductTiles {
  // The room behind each row spreads the stores over banks and keeps four neighbours aligned.
  alignas(16) float a[kProductDepth][kProductTile + 4];
  alignas(16) float b[kProductDepth][kProductTile + 4];
};

/// One operand: element (row, step), where the product sums over steps. Either steps or rows are neighbours in memory.
template <typename T, bool steps_adjacent>
struct ProductView {
  static constexpr bool kStepsAdjacent = steps_adjacent;
  const T* data;
  int64_t stride;
  __device__ __forceinline__ float operator()(int row, int step) const {
    return to_float(kStepsAdjacent ? data[row * stride + step] : data[step * stride + row]);
  }
};
template <typename T>
using StepsAdjacent = ProductView<T, true>;
template <typename T>
using RowsAdjacent = ProductView<T, false>;

/// Where a block's tile begins, in a matrix of so many rows and columns.
struct ProductPlace {
  int row, column, rows, columns;
  bool is_inside;
  __device__ int own_row(int i) const { return row + static_cast<int>(threadIdx.x) / 16 * 4 + i; }
  __device__ int own_column(int j) const { return column + static_cast<int>(threadIdx.x) % 16 * 4 + j; }
};

__device__ __forceinline__ ProductPlace place_of_tile(int rows, int columns) {
  if (rows == 0 || columns == 0) return {0, 0, rows, columns, false};
  int across = (columns + kProductTile - 1) / kProductTile, tile = static_cast<int>(blockIdx.x);
  int row = tile / across * kProductTile;
  return {row, tile % across * kProductTile, rows, columns, row < rows};
}

/// The grid for place_of_tile, with up to so many rows and columns in a sequence.
inline dim3 product_grid(const RelativePass& pass, int64_t rows, int64_t columns, int heads) {
  int64_t tiles = ceil_div(rows, kProductTile) * ceil_div(columns, kProductTile);
  return {static_cast<unsigned>(tiles), static_cast<unsigned>(heads), static_cast<unsigned>(pass.num_sequences)};
}

/// One thread's share of a tile of an operand, on its way from memory to shared memory.
struct ProductShare {
  static constexpr int kCount = kProductTile * kProductDepth / kProductThreads;
  float values[kCount];

  template <typename View>
  __device__ __forceinline__ void fetch(const View& from, int first_row, int rows, int first_step, int steps) {
#pragma unroll
    for (int p = 0; p < kCount; ++p) {
      int row = first_row + row_of<View>(p), step = first_step + step_of<View>(p);
      values[p] = row < rows && step < steps ? from(row, step) : 0.0f;
    }
  }
  template <typename View>
  __device__ __forceinline__ void put(float (&to)[kProductDepth][kProductTile + 4]) const {
#pragma unroll
    for (int p = 0; p < kCount; ++p) to[step_of<View>(p)][row_of<View>(p)] = values[p];
  }

 private:
  template <typename View>
  static __device__ __forceinline__ int row_of(int p) {
    int at = static_cast<int>(threadIdx.x) + p * kProductThreads;
    return View::kStepsAdjacent ? at / kProductDepth : at % kProductTile;
  }
  template <typename View>
  static __device__ __forceinline__ int step_of(int p) {
    int at = static_cast<int>(threadIdx.x) + p * kProductThreads;
    return View::kStepsAdjacent ? at % kProductDepth : at / kProductTile;
  }
};

/// sums(i, j) += Σ over steps of a(row i, step)·b(column j, step). All threads of the block take part, with the same
/// steps.
template <typename A, typename B>
__device__ __forceinline__ void add_product(
    float (&sums)[4][4], ProductTiles& tiles, const ProductPlace& place, const A& a, const B& b, int steps) {
  int own_row = static_cast<int>(threadIdx.x) / 16 * 4, own_column = static_cast<int>(threadIdx.x) % 16 * 4;
  ProductShare share_a, share_b;
  share_a.fetch(a, place.row, place.rows, 0, steps);
  share_b.fetch(b, place.column, place.columns, 0, steps);
  for (int first = 0; first < steps; first += kProductDepth) {
    __syncthreads();
    share_a.put<A>(tiles.a);
    share_b.put<B>(tiles.b);
    __syncthreads();
    share_a.fetch(a, place.row, place.rows, first + kProductDepth, steps);
    share_b.fetch(b, place.column, place.columns, first + kProductDepth, steps);
#pragma unroll
    for (int step = 0; step < kProductDepth; ++step) {
      float4 left = *reinterpret_cast<const float4*>(&tiles.a[step][own_row]);
      float4 right = *reinterpret_cast<const float4*>(&tiles.b[step][own_column]);
      const float rows[4] = {left.x, left.y, left.z, left.w}, columns[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += rows[i] * columns[j];
      }
    }
  }
}

/// Calls body(row, column, sum) for the thread's results that lie in the matrix.
template <typename Body>
__device__ __forceinline__ void for_own_results(const ProductPlace& place, const float (&sums)[4][4], Body&& body) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int row = place.own_row(i), column = place.own_column(j);
      if (row < place.rows && column < place.columns) body(row, column, sums[i][j]);
    }
  }
}

// ---- Where the operands of one sequence and head lie.

template <typename T>
__device__ __forceinline__ const T* first_of_queries(
    const void* x, const RelativePass& pass, const RelativeSpan& sequence, int head, int64_t width) {
  return static_cast<const T*>(x) + (sequence.query_begin * pass.args.forward.num_heads + head) * width;
}
template <typename T>
__device__ __forceinline__ const T* first_of_keys(const RelativePass& pass, const RelativeSpan& sequence, int head) {
  return static_cast<const T*>(sequence.keys) + pass.kv_head(head) * sequence.key_head_stride;
}
template <typename T>
__device__ __forceinline__ const T* first_of_values(const RelativePass& pass, const RelativeSpan& sequence, int head) {
  return static_cast<const T*>(sequence.values) + pass.kv_head(head) * sequence.value_head_stride;
}
template <typename T>
__device__ __forceinline__ const T* first_of_table(const DistanceTable& table, int head) {
  return static_cast<const T*>(table.values) + head * table.head_stride;
}

}  // namespace weft::cuda
