// What both forward kernels do with a tile: find it, know which keys its queries see, turn products into scores.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "kernels/cuda/attention_tiles.h"

namespace weft::cuda {

inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr float kLog2E = 1.4426950408889634f;

/// A block's tile of queries and head.
struct Tile {
  TileSequence sequence;
  int first_query = 0;
  int head = 0;
  int number = 0;  // of the sequence in the list
};

/// The tile and head of a block. Blocks of one tile's heads are neighbours, so that they find the sequence's keys in
/// the cache at the same time.
__device__ __forceinline__ Tile find_tile(const TileList& list, int num_heads, int block) {
  Tile tile;
  int index = block / num_heads;
  tile.head = block % num_heads;
  if (list.sequences != nullptr) {
    TilePlace place = list.tiles[index];
    tile.sequence = list.sequences[place.sequence];
    tile.first_query = place.first_query;
    tile.number = place.sequence;
    return tile;
  }
  int s = 0;
  while (s + 1 < list.num_sequences && list.inlined[s + 1].first_tile <= index) ++s;
  tile.sequence = list.inlined[s];
  int of_sequence = index - tile.sequence.first_tile;
  if (list.is_last_first) of_sequence = (tile.sequence.query_count - 1) / list.rows - of_sequence;
  tile.first_query = of_sequence * list.rows;
  tile.number = s;
  return tile;
}
__device__ __forceinline__ Tile find_tile(const TileList& list, int num_heads) {
  return find_tile(list, num_heads, static_cast<int>(blockIdx.x));
}

/// The keys [x, y) that a query sees. Neither falls from a query to the next.
__device__ __forceinline__ int2 visible_range(const TileSequence& sequence,
                                              const ForwardParams& params,
                                              const int32_t* visible_keys,
                                              int query) {
  if (sequence.first_visible >= 0) return {0, visible_keys[sequence.first_visible + query]};
  int position = sequence.key_count - sequence.query_count + query;
  int begin = params.window > 0 ? max(0, position - params.window + 1) : 0;
  int end = params.causal ? max(0, min(sequence.key_count, position + 1)) : sequence.key_count;
  return {begin, end};
}

/// Fills `bounds` with the ranges of the tile's rows; rows behind the last query have that one's. The caller
/// synchronises.
__device__ __forceinline__ void fill_bounds(
    int2* bounds, int rows, const Tile& tile, const ForwardParams& params, const int32_t* visible_keys) {
  for (int row = static_cast<int>(threadIdx.x); row < rows; row += static_cast<int>(blockDim.x)) {
    int query = min(tile.first_query + row, tile.sequence.query_count - 1);
    bounds[row] = visible_range(tile.sequence, params, visible_keys, query);
  }
}

/// Where the biases of a tile's row begin: add the key. Null without a bias.
__device__ __forceinline__ const float* bias_of_row(const Tile& tile, const ForwardParams& params, int row) {
  if (params.bias == nullptr) return nullptr;
  int query = min(tile.first_query + row, tile.sequence.query_count - 1);
  return params.bias + tile.head * params.bias_stride + tile.sequence.bias_origin - query;
}

/// Row of the tile in q, out and log_sum_exp.
__device__ __forceinline__ int64_t element_row(const Tile& tile, const ForwardParams& params, int row) {
  return (tile.sequence.query_begin + tile.first_query + row) * params.num_heads + tile.head;
}

/// The natural logarithm of a row's sum of exponentials; −infinity for a row that sees no key. `maximum` in units of
/// log2.
__device__ __forceinline__ float log_sum_exp_of(float maximum, float sum) {
  return sum == 0 ? -INFINITY : fmaf(maximum, kLn2, logf(sum));
}

/// What a row's weighted values are multiplied by at the end: nothing seen gives zeros, and what is no number stays so.
__device__ __forceinline__ float inverse_of_sum(float sum) {
  return sum == 0 ? 0.0f : 1.0f / sum;
}

}  // namespace weft::cuda
