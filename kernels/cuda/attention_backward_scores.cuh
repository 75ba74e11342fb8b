// From products to weights and their gradients in attention's backward on tensor cores, for tiles of which a thread has
// scores[j][i].
//
// `Places` tells of them by functions: queries(j), what is known of the two queries that scores[j] are of;
// query_of(i), which of them element i belongs to; key(j, i), its key.
#pragma once

#include "kernels/cuda/attention_backward.cuh"

namespace weft::cuda {

/// What a thread knows of the queries of one place: two columns where keys are owned, else its two rows.
struct alignas(16) QueryPair {
  float log_sum_exp[2], delta[2];
  int begin[2], end[2];
};

template <typename Places>
__device__ __forceinline__ bool is_hidden(const Places& places, const QueryPair& queries, int j, int i) {
  int key = places.key(j, i), query = Places::query_of(i);
  return key < queries.begin[query] || key >= queries.end[query];
}

/// Products become weights. `factor`: of the scores, in units of log2.
template <bool kIsBounded, typename Places, int kCount>
__device__ __forceinline__ void weigh_products(const Places& places, float factor, float (&scores)[kCount][4]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    QueryPair queries = places.queries(j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float weight = exp2_approximate(fmaf(scores[j][i], factor, -queries.log_sum_exp[Places::query_of(i)]));
      if constexpr (kIsBounded) {
        if (is_hidden(places, queries, j, i)) weight = 0;
      }
      scores[j][i] = weight;
    }
  }
}

/// Products become weights times a quarter of what the cap's slope is; the weights themselves go into their factor.
template <bool kIsBounded, typename Places, int kCount>
__device__ __forceinline__ void weigh_capped_products(const Places& places,
                                                      const BackwardParams& params,
                                                      float (&scores)[kCount][4],
                                                      uint32_t (&factor)[kCount / 2][4]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    QueryPair queries = places.queries(j);
    float weights[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float bent = reciprocal_approximate(1 + exp2_approximate(scores[j][i] * params.bend));  // (1 − tanh) / 2
      float rest = params.cap_log2 - queries.log_sum_exp[Places::query_of(i)];
      weights[i] = exp2_approximate(fmaf(bent, -2 * params.cap_log2, rest));
      scores[j][i] = weights[i] * fmaf(-bent, bent, bent);
      if constexpr (kIsBounded) {
        if (is_hidden(places, queries, j, i)) weights[i] = scores[j][i] = 0;
      }
    }
    factor[j / 2][j % 2 * 2] = pack_bf16(weights[0], weights[1]);
    factor[j / 2][j % 2 * 2 + 1] = pack_bf16(weights[2], weights[3]);
  }
}

/// Gradients of weights become those of scores, up to a factor. What is not seen has weight 0, and may be NaN
/// otherwise.
template <bool kIsBounded, typename Places, int kCount>
__device__ __forceinline__ void differentiate_weights(const Places& places,
                                                      const float (&weights)[kCount][4],
                                                      float (&dweights)[kCount][4]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    QueryPair queries = places.queries(j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float dscore = weights[j][i] * (dweights[j][i] - queries.delta[Places::query_of(i)]);
      dweights[j][i] = kIsBounded && weights[j][i] == 0 ? 0 : dscore;
    }
  }
}

}  // namespace weft::cuda
