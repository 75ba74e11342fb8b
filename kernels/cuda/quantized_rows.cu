// Quantized weights made whole again: some rows that are looked up, or many for a product by cuBLASLt.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantized.cuh"
#include "kernels/cuda/quantized_parts.cuh"
#include "kernels/cuda/row_ids.cuh"
#include "kernels/quantized_shape.h"

namespace weft::cuda {
namespace {

using namespace quantized_parts;

constexpr int kLanes = 32;
constexpr int kRowThreads = 256;

struct Source {
  const std::byte* panels;
  int64_t panel_bytes;
  int64_t in_features;
  bool fits_packs;  // words of the rows begin at multiples of 16 bytes, or of their size
};

/// Word `word` of a row of the weight, widened into that row at `to`.
template <typename T, int kBits>
__device__ __forceinline__ void widen_word(const Source& source, int64_t row, int word, T* to) {
  constexpr int kFeatures = kWordFeatures<kBits>, kWords = kGroup / kFeatures;
  constexpr int kPacked = kFeatures < kPackSize<T> ? kFeatures : kPackSize<T>;
  int group = word / kWords, feature = static_cast<int>(row % kPanelWidth);
  const std::byte* panel = source.panels + row / kPanelWidth * source.panel_bytes;
  const auto* codes = reinterpret_cast<const uint32_t*>(panel + codes_offset<kBits>(group));
  float weights[kFeatures];
  decode_weights<kBits>(
      codes[word % kWords * kPanelWidth + feature], load_scale<kBits>(panel, group, feature), weights);
  int64_t begin = int64_t{word} * kFeatures;
  if (source.fits_packs) {
#pragma unroll
    for (int first = 0; first < kFeatures; first += kPacked) {
      Pack<T, kPacked> pack;
#pragma unroll
      for (int i = 0; i < kPacked; ++i) pack.values[i] = from_float<T>(weights[first + i]);
      *reinterpret_cast<Pack<T, kPacked>*>(to + begin + first) = pack;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kFeatures; ++i) {
    if (begin + i < source.in_features) to[begin + i] = from_float<T>(weights[i]);
  }
}

/// Words of a row that have an input feature.
template <int kBits>
__device__ __forceinline__ int words_of(const Source& source) {
  return static_cast<int>((source.in_features + kWordFeatures<kBits> - 1) / kWordFeatures<kBits>);
}

/// A block for a panel and 32 words of each of its rows: a row a warp, so that writes are neighbours, and the warps
/// share the lines that they read.
template <typename T, int kBits>
__global__ void __launch_bounds__(kLanes* kPanelWidth)
    widen_panels(const __grid_constant__ Source source, T* rows, int64_t row_begin, int64_t num_rows) {
  let_next_start();
  wait_for_previous();
  int64_t row = int64_t{blockIdx.x} * kPanelWidth + threadIdx.x / kLanes;
  int word = static_cast<int>(blockIdx.y * kLanes + threadIdx.x % kLanes);
  if (row >= num_rows || word >= words_of<kBits>(source)) return;
  widen_word<T, kBits>(source, row_begin + row, word, rows + row * source.in_features);
}

/// A block a row; zeros for a negative number.
template <typename T, int kBits, typename Ids>
__global__ void __launch_bounds__(kRowThreads)
    unpack_kernel(const __grid_constant__ Source source, const __grid_constant__ Ids ids, T* rows) {
  let_next_start();
  wait_for_previous();
  int64_t row = ids.at(blockIdx.x);
  T* to = rows + int64_t{blockIdx.x} * source.in_features;
  if (row < 0) {
    for (int64_t i = threadIdx.x; i < source.in_features; i += blockDim.x) to[i] = from_float<T>(0.0f);
    return;
  }
  for (int word = static_cast<int>(threadIdx.x); word < words_of<kBits>(source); word += static_cast<int>(blockDim.x)) {
    widen_word<T, kBits>(source, row, word, to);
  }
}

Source source_of(const void* packed, const QuantizedShape& shape, int64_t in_features, const void* rows) {
  return {.panels = static_cast<const std::byte*>(packed),
          .panel_bytes = shape.panel_bytes(),
          .in_features = in_features,
          .fits_packs = in_features % (shape.is_int4() ? 8 : 4) == 0 && is_aligned(rows)};
}

/// body(zero of the dtype, the bits as a type).
template <typename Body>
void dispatch_rows(DType dtype, Layout layout, const Body& body) {
  dispatch(dtype, "quantized rows", [&](auto zero) {
    if (layout == Layout::int4) {
      body(zero, std::integral_constant<int, 4>());
    } else {
      body(zero, std::integral_constant<int, 8>());
    }
  });
}

}  // namespace

void widen_quantized_rows(const WidenArgs& args, CudaDevice& device) {
  QuantizedShape shape(args.in_features, args.layout);
  if (args.num_rows == 0 || args.in_features == 0) return;
  Source source = source_of(args.packed, shape, args.in_features, args.rows);
  int64_t words = ceil_div(args.in_features, shape.is_int4() ? 8 : 4);
  dim3 grid(static_cast<unsigned>(shape.num_panels(args.num_rows)), static_cast<unsigned>(ceil_div(words, kLanes)));
  dispatch_rows(args.dtype, args.layout, [&](auto zero, auto bits) {
    using T = decltype(zero);
    launch(widen_panels<T, bits()>,
           grid,
           kLanes * kPanelWidth,
           0,
           device,
           source,
           static_cast<T*>(args.rows),
           args.row_begin,
           args.num_rows);
  });
  check_launch("linear");
}

void unpack_quantized_rows(const UnpackRowsArgs& args, const Stream& stream) {
  if (args.num_indices == 0 || args.in_features == 0) return;
  CudaDevice& device = device_of(stream);
  QuantizedShape shape(args.in_features, args.layout);
  Source source = source_of(args.packed, shape, args.in_features, args.rows);
  int64_t words = ceil_div(args.in_features, shape.is_int4() ? 8 : 4);
  int threads = static_cast<int>(std::min<int64_t>(ceil_div(words, kLanes) * kLanes, kRowThreads));
  dispatch_rows(args.dtype, args.layout, [&](auto zero, auto bits) {
    using T = decltype(zero);
    with_row_ids(args.indices, args.num_indices, device, [&](const auto& ids) {
      launch(unpack_kernel<T, bits(), std::decay_t<decltype(ids)>>,
             static_cast<unsigned>(args.num_indices),
             threads,
             0,
             device,
             source,
             ids,
             static_cast<T*>(args.rows));
    });
  });
  check_launch("embedding");
}

}  // namespace weft::cuda
