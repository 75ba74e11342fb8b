// Products of few rows that quantized_stream.cu does not take: f32, and rows that are no whole packs.
//
// A block has a panel of 16 output features, its warps take turns in the panel's codes: 512 bytes a step, a group of
// int8 or two of int4. A lane has 16 bytes of them, 4 output features by the input features of one word; the weights it
// makes of them serve all rows of x.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantized.cuh"
#include "kernels/cuda/quantized_parts.cuh"
#include "kernels/cuda/quantized_results.cuh"
#include "kernels/cuda/quantized_stream.h"
#include "kernels/quantized_shape.h"

namespace weft::cuda {
namespace {

using namespace quantized_parts;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kMaxWeights = 8;  // of one launch
/// Of a panel, fetched while the kernel before ends.
constexpr int64_t kPrefetchBytes = 8192;

struct Parameters {
  QuantizedWeight weights[kMaxWeights];
  const void* x;
  int64_t in_features;
  int64_t panel_bytes;
  int num_groups;
  int num_weights;
  int rows;
  ResultForm form;
  bool x_is_aligned;  // words of x's rows begin at multiples of their size
};

/// x[begin, begin + kCount) of a row as f32; zeros from `end` on.
template <int kCount, typename T>
__device__ __forceinline__ void load_inputs(
    const T* row, int64_t begin, int64_t end, bool aligned, float (&x)[kCount]) {
  constexpr int kPacked = kCount < kPackSize<T> ? kCount : kPackSize<T>;
  if (aligned && begin + kCount <= end) {
#pragma unroll
    for (int first = 0; first < kCount; first += kPacked) {
      auto pack = *reinterpret_cast<const Pack<T, kPacked>*>(row + begin + first);
#pragma unroll
      for (int i = 0; i < kPacked; ++i) x[first + i] = to_float(pack.values[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = begin + i < end ? to_float(row[begin + i]) : 0.0f;
}

/// Where a lane stands in a step: its group, its word of 4 features in it, and its codes in memory.
template <int kBits>
struct LanePlace {
  int group, word, quad;

  __device__ LanePlace(int step, int lane) {
    constexpr int kLanesOfGroup = kBits == 4 ? 16 : 32;
    group = step * (32 / kLanesOfGroup) + lane / kLanesOfGroup;
    word = lane % kLanesOfGroup / 4;
    quad = lane % 4;
  }
  __device__ const uint4* codes(const std::byte* panel) const {
    return reinterpret_cast<const uint4*>(panel + codes_offset<kBits>(group)) + word * 4 + quad;
  }
};

template <typename T, int kBits, int kRows>
__device__ __forceinline__ void add_step(const Parameters& parameters,
                                         const std::byte* panel,
                                         const LanePlace<kBits>& place,
                                         const uint4& codes,
                                         float (&sums)[kRows][4]) {
  constexpr int kFeatures = kWordFeatures<kBits>;
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
  float weights[4][kFeatures];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    decode_weights<kBits>(words[i], load_scale<kBits>(panel, place.group, place.quad * 4 + i), weights[i]);
  }
  int64_t begin = int64_t{place.group} * kGroup + place.word * kFeatures;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const T* row = static_cast<const T*>(parameters.x) + min(r, parameters.rows - 1) * parameters.in_features;
    float x[kFeatures];
    load_inputs(row, begin, parameters.in_features, parameters.x_is_aligned, x);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int k = 0; k < kFeatures; ++k) sums[r][i] = fmaf(weights[i][k], x[k], sums[r][i]);
    }
  }
}

/// kRows rows of x; those behind the last repeat it.
template <typename T, int kBits, int kRows>
__global__ void __launch_bounds__(kThreads) multiply_panels(const __grid_constant__ Parameters parameters) {
  __shared__ float partial[kWarps][kRows][kPanelWidth];
  let_next_start();
  int index = 0;
  int64_t first_panel = 0, block = blockIdx.x;
  while (block >= parameters.weights[index].panel_end) first_panel = parameters.weights[index++].panel_end;
  const QuantizedWeight& weight = parameters.weights[index];
  const std::byte* panel = weight.panels + (block - first_panel) * parameters.panel_bytes;
  if (threadIdx.x == 0) {
    prefetch_range_to_l2(panel, static_cast<uint32_t>(min(parameters.panel_bytes, kPrefetchBytes)));
  }
  wait_for_previous();
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float sums[kRows][4] = {};
  LanePlace<kBits> place(warp, lane);
  uint4 codes = {};
  if (place.group < parameters.num_groups) codes = *place.codes(panel);
  for (int step = warp; place.group < parameters.num_groups; step += kWarps) {
    LanePlace<kBits> next(step + kWarps, lane);
    uint4 next_codes = {};
    if (next.group < parameters.num_groups) next_codes = *next.codes(panel);
    add_step<T, kBits, kRows>(parameters, panel, place, codes, sums);
    place = next;
    codes = next_codes;
  }
  __syncwarp();  // lanes of int4's two groups may leave apart
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) {
        sums[r][i] += __shfl_xor_sync(0xffffffffu, sums[r][i], distance);
      }
      if (lane < 4) partial[warp][r][lane * 4 + i] = sums[r][i];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kPanelWidth; i += kThreads) {
    int row = i / kPanelWidth, column = i % kPanelWidth;
    int64_t feature = (block - first_panel) * kPanelWidth + column;
    if (row >= parameters.rows || feature >= weight.out_features) continue;
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += partial[part][row][column];
    write_sum<T>(parameters.form, weight, feature, row, sum);
  }
}

Parameters make_parameters(const LinearForwardArgs& args, std::span<const LinearWeight> weights) {
  QuantizedShape shape(args.in_features, weights.front().layout);
  Parameters parameters{};
  int64_t panels = 0;
  for (const LinearWeight& weight : weights) {
    if (weight.out_features == 0) continue;
    panels += shape.num_panels(weight.out_features);
    parameters.weights[parameters.num_weights++] = {
        static_cast<const std::byte*>(weight.weight), weight.bias, weight.y, weight.out_features, panels};
  }
  int64_t word = shape.is_int4() ? 8 : 4;
  parameters.x = args.x;
  parameters.in_features = args.in_features;
  parameters.panel_bytes = shape.panel_bytes();
  parameters.num_groups = static_cast<int>(shape.num_groups());
  parameters.rows = static_cast<int>(args.rows);
  parameters.form = {.activation = args.activation, .y_is_f32 = args.y_dtype == DType::f32};
  parameters.x_is_aligned = args.in_features % word == 0 && is_aligned(args.x);
  return parameters;
}

template <typename T, int kBits, int kRows>
void launch_panels(const Parameters& parameters, CudaDevice& device) {
  if (parameters.num_weights == 0) return;
  auto blocks = static_cast<unsigned>(parameters.weights[parameters.num_weights - 1].panel_end);
  launch(multiply_panels<T, kBits, kRows>, blocks, kThreads, 0, device, parameters);
  check_launch("linear");
}

template <typename T, int kBits>
void launch_rows(const Parameters& parameters, CudaDevice& device) {
  if (parameters.rows <= 1) return launch_panels<T, kBits, 1>(parameters, device);
  if (parameters.rows <= 2) return launch_panels<T, kBits, 2>(parameters, device);
  if (parameters.rows <= 4) return launch_panels<T, kBits, 4>(parameters, device);
  if (parameters.rows <= 8) return launch_panels<T, kBits, 8>(parameters, device);
  launch_panels<T, kBits, 16>(parameters, device);
}

}  // namespace

void quantized_product(const LinearForwardArgs& args, CudaDevice& device) {
  require(args.rows >= 1 && args.rows <= kMaxQuantizedRows, "linear", "few rows");
  for (size_t begin = 0, end = 0; begin < args.weights.size(); begin = end) {
    Layout layout = args.weights[begin].layout;
    while (end < args.weights.size() && end - begin < kMaxWeights && args.weights[end].layout == layout) ++end;
    std::span<const LinearWeight> weights = args.weights.subspan(begin, end - begin);
    if (quantized_stream(args, weights, device)) continue;
    Parameters parameters = make_parameters(args, weights);
    dispatch(args.dtype, "linear", [&](auto zero) {
      using T = decltype(zero);
      layout == Layout::int4 ? launch_rows<T, 4>(parameters, device) : launch_rows<T, 8>(parameters, device);
    });
  }
}

}  // namespace weft::cuda
