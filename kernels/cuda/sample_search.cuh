// What the kernels of kernels/cuda/sample.cu share: weights as whole numbers, and the search for the least weight that
// is kept.
//
// Weights lie in [0, 1] and are summed as whole numbers of 1/unit, so that sums are the same in any order: neither the
// number of blocks nor the order of atomic additions changes a choice. The cut is searched by the bits of the weights,
// ten at a time from the top: a histogram of counts and sums says in which bin top_k's count or top_p's sum is reached,
// and the next histogram is of that bin alone.
#pragma once

#include <cstdint>

#include "kernels/cuda/best_value.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/exp_negative.h"
#include "kernels/sampling.h"

namespace weft::cuda {

using Sum = unsigned long long;

inline constexpr int kSampleThreads = 256;
inline constexpr int kLevels = 3;
inline constexpr int kLevelBits = 10;
inline constexpr int kBins = 1 << kLevelBits;
/// Of a weight's bits as a number: the two above are sign and the exponents from 2 on.
inline constexpr int kWeightBits = kLevels * kLevelBits;
inline constexpr Sum kNoLimit = ~Sum{0};

/// Of the weights in falling order, those before the cut and how far its weight is known.
struct CutSearch {
  Sum limit;             // the sum up to which top_p keeps
  Sum sum_above;         // of the weights with larger leading bits than `prefix`
  uint32_t count_above;  // how many those are
  uint32_t prefix;       // the cut's leading bits
  int32_t is_open;       // 0: nothing is cut
};

__device__ __forceinline__ CutSearch start_of_search() {
  return {.limit = kNoLimit, .sum_above = 0, .count_above = 0, .prefix = 0, .is_open = 1};
}

/// Kept are the weights with larger bits, and of those with the same the first `num_equal`.
struct Cut {
  uint32_t bits;
  uint32_t num_equal;
};

/// Some rows of a call. Rows are cut into chunks of columns.
struct SampleTask {
  float* logits;
  int32_t* ids;
  const int32_t* late_ids;
  const SampleChoice* choices;
  const LogitChange* changes;
  Best* best;           // [rows, chunks]
  float* banned;        // [changes]: the logits of what is banned with its share, else −infinity
  uint32_t* counts;     // [rows, levels, bins]
  Sum* sums;            // [rows, levels, bins]
  CutSearch* searches;  // [rows, levels]: after each level
  Cut* cuts;            // [rows]
  Sum* chunk_sums;      // [rows, chunks]: of the weights above the cut
  uint32_t* chunk_equals;
  int64_t width, chunk;
  int32_t num_chunks;
  float unit;
};

__device__ __forceinline__ bool has_search(const SampleChoice& choice) {
  return choice.is_greedy == 0 && (choice.top_k > 0 || choice.top_p < 1);
}

/// Bits of exp((logit − best)·scale), which order as the weights do.
__device__ __forceinline__ uint32_t weight_bits(float logit, float best, float scale) {
  return __float_as_uint(exp_negative(__fmul_rn(__fsub_rn(logit, best), scale)));
}
__device__ __forceinline__ Sum whole_weight(uint32_t bits, float unit) {
  return __float2ull_rn(__uint_as_float(bits) * unit);
}

struct Prefix {
  Sum before;  // of the threads with lower numbers
  Sum total;
};

/// All threads of the block take part; `shared` has one element a warp.
__device__ __forceinline__ Prefix block_prefix(Sum value, Sum* shared) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Sum inclusive = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    Sum other = __shfl_up_sync(0xffffffffu, inclusive, distance);
    if (lane >= distance) inclusive += other;
  }
  if (lane == 31) shared[warp] = inclusive;
  __syncthreads();
  Prefix prefix{inclusive - value, 0};
#pragma unroll
  for (int other = 0; other < kSampleThreads / 32; ++other) {
    if (other < warp) prefix.before += shared[other];
    prefix.total += shared[other];
  }
  __syncthreads();
  return prefix;
}

/// The row's largest logit, the same in all threads.
__device__ __forceinline__ Best best_of_row(const SampleTask& task, int64_t row) {
  Best best{0, -1};
  for (int chunk = threadIdx.x % 32; chunk < task.num_chunks; chunk += 32) {
    best = better(best, task.best[row * task.num_chunks + chunk]);
  }
  return best_of_warp(best);
}
__device__ __forceinline__ bool is_usable(const Best& best) {
  return best.column >= 0 && isfinite(best.value);
}

struct SearchScratch {
  Sum sums[kSampleThreads / 32];
  double shares[33];
  CutSearch result;
};

/// What the banned ids have of the softmax's sum.
__device__ inline double banned_share(const SampleTask& task,
                                      const SampleChoice& choice,
                                      float best,
                                      SearchScratch& scratch) {
  if (choice.num_bans == 0) return 0;
  double share = 0;
  for (int i = threadIdx.x; i < choice.num_bans; i += kSampleThreads) {
    double difference = task.banned[choice.first_change + i] - best;
    share += exp(fmin(700.0, difference * choice.scale));
  }
  return block_sum(share, scratch.shares);
}

__device__ __forceinline__ Sum limit_of_mass(double top_p, double mass_of_all) {
  double limit = top_p * mass_of_all;
  return top_p < 1 && limit < 0x1p63 ? static_cast<Sum>(limit) : kNoLimit;
}

/// The search after the histogram of a level is complete, the same in all threads of the block.
__device__ inline CutSearch search_level(
    const SampleTask& task, const SampleChoice& choice, float best, int64_t row, int level, SearchScratch& scratch) {
  CutSearch search = level > 0 ? task.searches[row * kLevels + level - 1] : start_of_search();
  if (search.is_open == 0) return search;
  constexpr int kOwn = kBins / kSampleThreads;
  // Each thread's bins from the largest on, and the first thread has the largest.
  int64_t largest = (row * kLevels + level) * kBins + kBins - 1 - static_cast<int>(threadIdx.x) * kOwn;
  uint32_t counts[kOwn];
  Sum sums[kOwn];
  Sum own_count = 0, own_sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own_count += counts[i] = task.counts[largest - i];
    own_sum += sums[i] = task.sums[largest - i];
  }
  Prefix count = block_prefix(own_count, scratch.sums);
  Prefix sum = block_prefix(own_sum, scratch.sums);
  if (level == 0) {
    double share = banned_share(task, choice, best, scratch);
    search.limit = limit_of_mass(choice.top_p, static_cast<double>(sum.total) + share * task.unit);
  }
  if (threadIdx.x == 0) {
    scratch.result = search;
    scratch.result.is_open = 0;
  }
  __syncthreads();
  auto is_reached = [&](Sum tokens, Sum weight) {
    return (choice.top_k > 0 && tokens >= static_cast<Sum>(choice.top_k)) || weight > search.limit;
  };
  Sum count_above = search.count_above + count.before, sum_above = search.sum_above + sum.before;
  bool is_before = !is_reached(count_above, sum_above);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (is_before && is_reached(count_above + counts[i], sum_above + sums[i])) {
      auto bin = static_cast<uint32_t>(kBins - 1 - static_cast<int>(threadIdx.x) * kOwn - i);
      scratch.result.prefix = search.prefix << kLevelBits | bin;
      scratch.result.count_above = static_cast<uint32_t>(count_above);
      scratch.result.sum_above = sum_above;
      scratch.result.is_open = 1;
      is_before = false;
    }
    count_above += counts[i];
    sum_above += sums[i];
  }
  __syncthreads();
  search = scratch.result;
  __syncthreads();
  return search;
}

/// From the search after all levels, and min_p.
__device__ __forceinline__ Cut cut_of(const SampleChoice& choice, const CutSearch& search, float unit) {
  Cut cut{0, 0};
  if (has_search(choice) && search.is_open != 0) {
    cut.bits = search.prefix;
    Sum by_count = choice.top_k > 0 ? static_cast<Sum>(choice.top_k) - search.count_above : kNoLimit;
    Sum weight = whole_weight(cut.bits, unit);
    bool has_limit = search.limit != kNoLimit && weight > 0;
    Sum by_sum = has_limit ? (search.limit - search.sum_above) / weight + 1 : kNoLimit;
    Sum least = by_count < by_sum ? by_count : by_sum;
    cut.num_equal = static_cast<uint32_t>(least < UINT32_MAX ? least : UINT32_MAX);
  }
  uint32_t least = __float_as_uint(choice.min_p);
  return least > cut.bits ? Cut{least - 1, 0} : cut;
}

}  // namespace weft::cuda
