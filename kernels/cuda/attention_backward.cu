// Backward of attention (Dao, "FlashAttention-2", 2023, algorithm 2): in one pass where attention_backward_wgmma is for
// it, else in two, for dk and dv and for dq: weights are computed from log_sum_exp twice, but every sum stays in one
// block. Sums have one order either way.
#include <algorithm>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_backward_chains.cuh"
#include "kernels/cuda/attention_backward_plan.cuh"
#include "kernels/cuda/attention_tiles.h"

namespace weft::cuda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kRowThreads = 16;
constexpr int kThreads = 256;

/// statistics[head, token] = (log_sum_exp in units of log2, sum of dout·out), 16 threads a row.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads) row_statistics(const T* __restrict__ out,
                                                           const T* __restrict__ dout,
                                                           const float* __restrict__ log_sum_exp,
                                                           float2* __restrict__ statistics,
                                                           int64_t tokens,
                                                           int num_heads,
                                                           int head_dim) {
  int64_t row = blockIdx.x * static_cast<int64_t>(kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  int lane = threadIdx.x % kRowThreads;
  bool is_row = row < tokens * num_heads;
  float sum = 0;
  if (is_row) {
    for (int d = lane * kPack; d < head_dim; d += kRowThreads * kPack) {
      auto a = *reinterpret_cast<const Pack<T, kPack>*>(out + row * head_dim + d);
      auto b = *reinterpret_cast<const Pack<T, kPack>*>(dout + row * head_dim + d);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum += to_float(a.values[i]) * to_float(b.values[i]);
    }
  }
#pragma unroll
  for (int distance = kRowThreads / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (is_row && lane == 0)
    statistics[row % num_heads * tokens + row / num_heads] = make_float2(log_sum_exp[row] * kLog2E, sum);
}

template <typename T>
void launch_row_statistics(const AttentionBackwardArgs& args,
                           const BackwardParams& params,
                           float2* statistics,
                           CudaDevice& device) {
  int64_t rows = params.tokens * params.num_heads;
  if (rows == 0) return;
  auto blocks = static_cast<unsigned>(ceil_div(rows, kThreads / kRowThreads));
  auto launch = [&](auto kernel) {
    kernel<<<blocks, kThreads, 0, device.stream()>>>(static_cast<const T*>(args.out),
                                                     static_cast<const T*>(args.dout),
                                                     static_cast<const float*>(args.log_sum_exp),
                                                     statistics,
                                                     params.tokens,
                                                     params.num_heads,
                                                     params.head_dim);
  };
  if (params.is_aligned) {
    launch(row_statistics<T, kPackSize<T>>);
  } else {
    launch(row_statistics<T, 1>);
  }
  check_launch("attention_backward: row_statistics");
}

BackwardParams params_of(const AttentionBackwardArgs& args, int64_t tokens) {
  BackwardParams params;
  params.q = args.q;
  params.k = args.k;
  params.v = args.v;
  params.dout = args.dout;
  params.dq = args.dq;
  params.dk = args.dk;
  params.dv = args.dv;
  params.bias = static_cast<const float*>(args.bias.values);
  params.dbias = static_cast<float*>(args.dbias);
  params.bias_stride = args.bias.stride;
  params.tokens = tokens;
  params.num_heads = static_cast<int>(args.num_heads);
  params.num_kv_heads = static_cast<int>(args.num_kv_heads);
  params.head_dim = static_cast<int>(args.head_dim);
  params.window = static_cast<int>(std::min(args.mask.window, BackwardPlan::kMaxTokens));
  params.scale = args.mask.scale;
  params.score_factor = args.mask.scale;
  params.soft_cap = args.mask.soft_cap;
  if (params.soft_cap > 0) params.bend = 2 * kLog2E * params.scale / params.soft_cap;
  params.cap_log2 = params.soft_cap * kLog2E;
  params.causal = args.mask.causal;
  params.dropout = args.dropout;
  params.is_aligned = args.head_dim * static_cast<int64_t>(dtype_bytes(args.dtype)) % 16 == 0;
  for (const void* array : {args.q, args.k, args.v, args.out, args.dout})
    params.is_aligned = params.is_aligned && is_aligned(array);
  for (const void* array : {args.dq, args.dk, args.dv}) params.is_aligned = params.is_aligned && is_aligned(array);
  return params;
}

constexpr int64_t kMostPadding = 4096;  // rows, beside one for each query

}  // namespace

bool attention_backward_wgmma(const AttentionBackwardArgs& args, CudaDevice& device) {
  std::optional<ChainSizes> sizes = backward_wgmma_sizes(args, device);
  if (!sizes) return false;
  BackwardChains chains(args, *sizes, device.num_multiprocessors());
  BackwardParams params = params_of(args, chains.tokens());
  if (!params.is_aligned || chains.padded_queries() > 2 * chains.tokens() + kMostPadding) return false;
  BackwardTiles keys, queries;
  DeviceBuffer<std::byte> uploaded_plan = chains.upload(device, params, keys, queries);
  if (keys.count == 0 && queries.count == 0) return true;
  DeviceBuffer<float2> statistics(device, std::max<int64_t>(params.tokens * params.num_heads, 1));
  params.statistics = statistics.data();
  launch_row_statistics<bf16>(args, params, statistics.data(), device);
  return launch_backward_wgmma(args, params, keys, queries, device);
}

void attention_backward_two_passes(const AttentionBackwardArgs& args, CudaDevice& device) {
  dispatch(args.dtype, "attention_backward", [&](auto zero) {
    using T = decltype(zero);
    constexpr bool kIsPlain = sizeof(T) == 4;
    BackwardPlan plan(args,
                      kIsPlain ? backward_plain_tile_sizes() : backward_mma_tile_sizes(args.head_dim),
                      device.num_multiprocessors());
    BackwardParams params = params_of(args, plan.tokens());
    BackwardTiles keys, queries;
    DeviceBuffer<std::byte> uploaded_plan = plan.upload(device, params, keys, queries);
    if (keys.count == 0 && queries.count == 0) return;
    DeviceBuffer<float2> statistics(device, std::max<int64_t>(params.tokens * params.num_heads, 1));
    params.statistics = statistics.data();
    launch_row_statistics<T>(args, params, statistics.data(), device);
    if constexpr (kIsPlain) {
      launch_backward_plain(params, keys, queries, device);
    } else {
      launch_backward_mma(params, keys, queries, device);
    }
  });
}

void attention_backward(const AttentionBackwardArgs& args, CudaDevice& device) {
  require(args.head_dim >= 1 && args.head_dim <= kMaxHeadDim, "attention_backward", "a head_dim of 1 to 256");
  require(args.num_kv_heads > 0 && args.num_heads % args.num_kv_heads == 0,
          "attention_backward",
          "heads in multiples of kv heads");
  if (attention_backward_wgmma(args, device)) return;
  attention_backward_two_passes(args, device);
}

}  // namespace weft::cuda
