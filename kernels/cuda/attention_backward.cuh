// What the kernels of attention's backward share.
//
// One kernel serves both passes. A block owns a tile of rows, keys in the pass for dk and dv and queries in the pass
// for dq, and the others pass by in tiles. With (A1, A2) the owner's pair of matrices and (B1, B2) the other's, where a
// query's pair is (q, dout) and a key's (k, v): scores = A1·B1ᵀ, dweights = A2·B2ᵀ, and the sums are dscores·B1 (dk or
// dq) and, for keys, weights·B2 (dv). So no sum crosses blocks, but where there are too few tiles of keys: several
// blocks then leave partial sums of one tile, which are added up afterwards. In any case a sum has one order.
#pragma once

#include <limits>
#include <optional>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/common.cuh"

namespace weft::cuda {

/// Sequences and positions are int: more than 2^30 tokens are refused.
struct BackwardSequence {
  int query_begin = 0, key_begin = 0;  // rows in the packed arrays
  int query_count = 0, key_count = 0;
  int visible_begin = -1;  // in BackwardParams::visible_keys; below 0: the mask says
  int bias_origin = 0;
  int first_query_tile = 0;  // of the one pass by wgmma
};

/// Rows that one block owns: keys or queries from `begin` on. The others that matter to any of them are [other_begin,
/// other_end). In the pass for keys they pass by once for each query head of a group, which makes the tile's steps:
/// all of the first head, then all of the next. A block takes [first_step, end_step) of them.
struct BackwardTile {
  int sequence = 0, begin = 0;
  int other_begin = 0, other_end = 0;
  int head = 0;  // of the first of BackwardTiles::heads
  int first_step = 0, end_step = std::numeric_limits<int>::max();
  int partial = -1;  // where its sums go; below 0: they are all, and go to the gradients
};

/// A tile of keys whose steps several blocks share: its sums are those of the partial ones from first_partial on.
struct BackwardSplit {
  int sequence = 0, begin = 0, head = 0;
  int first_partial = 0, num_partials = 0;
};

/// Tiles on the device, each for `heads` heads.
struct BackwardTiles {
  const BackwardTile* tiles = nullptr;
  int64_t count = 0;
  int heads = 0;
  const BackwardSplit* splits = nullptr;
  int64_t num_splits = 0, num_partials = 0;
};

struct BackwardTileSizes {
  int keys = 0, queries = 0;
  int queries_of_keys = 0;  // that pass a tile of keys in a step; 0: tiles of keys cannot be split
};

/// Everything that a block reads, by value.
struct BackwardParams {
  const void *q = nullptr, *k = nullptr, *v = nullptr, *dout = nullptr;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
  float* partials = nullptr;           // of split tiles of keys
  const float2* statistics = nullptr;  // [Hq, tokens]: log_sum_exp in units of log2, and sum of dout·out
  const BackwardSequence* sequences = nullptr;
  const int32_t* visible_keys = nullptr;
  const float* bias = nullptr;
  float* dbias = nullptr;
  int64_t bias_stride = 0;
  int64_t tokens = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int window = 0;
  float scale = 1, soft_cap = 0;
  float score_factor = 1;  // takes the sums of dscores to dk and dq
  // Of a soft cap: tanh(score / cap) = 1 − 2 / (1 + 2^(bend·product)), and the cap in units of log2.
  float bend = 0, cap_log2 = 0;
  bool causal = true;
  bool is_aligned = false;  // rows of every array start at multiples of 16 bytes
  AttentionDropout dropout;
};

/// bf16 on tensor cores.
BackwardTileSizes backward_mma_tile_sizes(int64_t head_dim);
void launch_backward_mma(const BackwardParams& params, BackwardTiles keys, BackwardTiles queries, CudaDevice& device);
/// What launch_backward_mma does where weights are dropped.
void launch_backward_mma_dropout(const BackwardParams& params,
                                 BackwardTiles keys,
                                 BackwardTiles queries,
                                 CudaDevice& device);

/// Rows of a tile of keys and of one of queries.
struct ChainSizes {
  int keys = 0, queries = 0;
};

/// bf16 in one pass by wgmma (BackwardChains). None: not for such heads, scores or devices. False, with no gradient
/// touched: not for these arrays.
std::optional<ChainSizes> backward_wgmma_sizes(const AttentionBackwardArgs& args, CudaDevice& device);
bool launch_backward_wgmma(const AttentionBackwardArgs& args,
                           const BackwardParams& params,
                           BackwardTiles keys,
                           BackwardTiles queries,
                           CudaDevice& device);

/// f32 without tensor cores.
BackwardTileSizes backward_plain_tile_sizes();
void launch_backward_plain(const BackwardParams& params, BackwardTiles keys, BackwardTiles queries, CudaDevice& device);

inline constexpr float kLog2E = 1.4426950408889634f;

/// Keys [begin, end) that a query sees; none behind the last query.
struct SeenKeys {
  int begin = 0, end = 0;
};

__device__ __forceinline__ SeenKeys seen_keys(const BackwardParams& params,
                                              const BackwardSequence& sequence,
                                              int query) {
  if (query >= sequence.query_count) return {0, 0};
  if (sequence.visible_begin >= 0) return {0, params.visible_keys[sequence.visible_begin + query]};
  int position = sequence.key_count - sequence.query_count + query;
  int begin = params.window > 0 ? max(0, position - params.window + 1) : 0;
  return {begin, params.causal ? position + 1 : sequence.key_count};
}

/// 1 / x to 1 unit in the last place; 0 for infinity.
__device__ __forceinline__ float reciprocal_approximate(float x) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(reciprocal) : "f"(x));
  return reciprocal;
}

/// What one query and key come to.
struct PairGradient {
  float weight = 0;
  float dbias = 0;   // by the score behind the cap
  float dscore = 0;  // by the score before it; q·k takes `scale` more
};

/// `bias` is read for pairs that see each other only.
__device__ __forceinline__ PairGradient pair_gradient(
    const BackwardParams& params, float product, float dweight, float2 statistics, const float* bias, bool is_visible) {
  if (!is_visible) return {};
  float score = product * params.scale;
  float slope = 1;
  if (params.soft_cap > 0) {
    float bent = tanhf(score / params.soft_cap);
    score = params.soft_cap * bent;
    slope = 1 - bent * bent;
  }
  if (bias != nullptr) score += *bias;
  PairGradient gradient;
  gradient.weight = exp2_approximate(score * kLog2E - statistics.x);
  gradient.dbias = gradient.weight * (dweight - statistics.y);
  gradient.dscore = gradient.dbias * slope;
  return gradient;
}

/// Where the bias of query 0 and key 0 lies, for a query head; null stays null.
template <typename T>
__device__ __forceinline__ T* bias_row(const BackwardParams& params,
                                       const BackwardSequence& sequence,
                                       int head,
                                       T* biases) {
  return biases == nullptr ? nullptr : biases + head * params.bias_stride + sequence.bias_origin;
}

}  // namespace weft::cuda
