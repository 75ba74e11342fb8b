// A block has some panels of the weights, which its warps share evenly, whatever the borders between panels: a warp's
// part is one stretch of a few panels, which a ring of its own in shared memory brings in by copies of 2 KB. Where a
// warp comes to the end of a panel or of its part it leaves a piece of that panel's sums; when all are done the pieces
// are added up.
//
// In a step that runs as a graph the rings fill while the kernels before still run: of a short product that is all of
// its weights. Weights that take long get rings of half the size, two blocks a multiprocessor and several blocks for
// each place.
#include "kernels/cuda/quantized_stream.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantized.cuh"
#include "kernels/cuda/quantized_stream.cuh"
#include "kernels/quantized_shape.h"

namespace weft::cuda {
namespace {

using namespace quantized_stream_parts;

/// Chunks of a warp's ring: when its block has a multiprocessor to itself, and when two share it.
constexpr int kStages = 4, kHalfStages = 2;
/// Up to here two blocks' registers fit.
constexpr int kMaxSharedRows = 4;
/// Panels of a block that shares its multiprocessor.
constexpr int kSharingSlots = 8;
/// Input features at most: granules of a block are counted in 32 bits, 16 times over.
constexpr int64_t kMaxDepth = int64_t{1} << 24;

/// What WEFT_QUANTIZED_STREAM says: 1, or `half` for rings of half the size wherever there are some. Not the default
/// until the results have been compared on a GPU: the kernels have run there, but have been compared in emulation only.
enum class Way { none, full, half };

Way way() {
  static const Way chosen = [] {
    const char* value = std::getenv("WEFT_QUANTIZED_STREAM");
    if (value != nullptr && std::strcmp(value, "half") == 0) return Way::half;
    return value != nullptr && std::strcmp(value, "1") == 0 ? Way::full : Way::none;
  }();
  return chosen;
}

constexpr int partial_floats(int slots, int rows) {
  return (slots + kWarps) * rows * kPanelWidth;
}

template <int kBits, int kRows, int kRingStages, bool kGated>
__global__ void __launch_bounds__(kThreads, kRows == 1 || kRingStages == kHalfStages ? 2 : 1)
    stream_panels(const __grid_constant__ Parameters parameters) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  using F = Form<kBits, kRows>;
  using PanelRing = Ring<kBits, kRingStages, kGated>;
  extern __shared__ __align__(128) std::byte shared_memory[];
  let_next_start();
  int warp = static_cast<int>(threadIdx.x) / 32;
  float* partial = reinterpret_cast<float*>(shared_memory + PanelRing::kBytes + PanelRing::kBarrierBytes);
  Work work = block_work<kGated>(parameters);
  Cursor<kBits> now(parameters, work, warp);
  PanelRing ring(parameters, work, now, shared_memory, warp);
  if (!parameters.are_weights_settled) {
    ring.prefetch();
    wait_for_previous();
  }
  ring.fill();
  if (parameters.are_weights_settled) wait_for_previous();
  Lane<kBits, kRows> lane;
  InputRows<kBits, kRows> x(parameters, lane);
  Inputs<kBits, kRows> ahead;
  int units = now.units(parameters);
  Stretch stretch = stretch_of(parameters, now, units);
  x.load(stretch, ahead);
  Totals<kBits, kRows> totals = {};
  int stage = 0;
  uint32_t parity = 0;
  while (now.left > 0) {
    Cursor<kBits> next = now;
    next.advance(parameters);
    int next_units = next.units(parameters);
    Stretch next_stretch = stretch_of(parameters, next, next_units);
    uint32_t chunk = ring.take(stage, parity);
#pragma unroll
    for (int first = 0; first < Chunk<kBits>::kUnits; first += F::kBatchUnits) {
      if (first >= units) break;
      Inputs<kBits, kRows> inputs = ahead;
      bool is_last = first + F::kBatchUnits >= (F::kBatchUnits == Chunk<kBits>::kUnits ? 0 : units);
      stretch.begin += F::kBatchUnits * F::kUnitFeatures;
      if (is_last) stretch = next_stretch;
      x.load(stretch, ahead);
      add_batch<kBits, kRows>(chunk + static_cast<uint32_t>(Chunk<kBits>::codes_offset(first) + lane.codes_offset()),
                              chunk + static_cast<uint32_t>(Chunk<kBits>::scales_offset(first) + lane.scales_offset()),
                              units - first,
                              lane,
                              inputs,
                              totals);
    }
    __syncwarp();
    ring.refill(stage);
    if (++stage == kRingStages) {
      stage = 0;
      parity ^= 1;
    }
    if (next.slot != now.slot || next.left == 0) {
      finish_piece<kBits, kRows>(lane, totals, partial + (now.slot + warp) * kRows * kPanelWidth);
    }
    now = next;
    units = next_units;
  }
  __syncthreads();
  write_slots<kRows, kGated>(parameters, work, partial);
#endif
}

Parameters make_parameters(const LinearForwardArgs& args,
                           std::span<const LinearWeight> weights,
                           bool is_gated,
                           CudaDevice& device) {
  QuantizedShape shape(args.in_features, weights.front().layout);
  Parameters parameters{};
  for (const LinearWeight& weight : weights) {
    if (weight.out_features == 0) continue;
    if (!is_gated || parameters.num_panels == 0) parameters.num_panels += shape.num_panels(weight.out_features);
    parameters.weights[parameters.num_weights++] = {static_cast<const std::byte*>(weight.weight),
                                                    weight.bias,
                                                    weight.y,
                                                    weight.out_features,
                                                    parameters.num_panels};
  }
  parameters.x = static_cast<const bf16*>(args.x);
  parameters.in_features = static_cast<int>(args.in_features);
  parameters.panel_bytes = static_cast<int>(shape.panel_bytes());
  parameters.panel_granules = static_cast<int>(ceil_div(shape.num_groups(), 2));
  parameters.panel_units = static_cast<int>(shape.num_groups() * (shape.is_int4() ? 1 : 2));
  parameters.rows = static_cast<int>(args.rows);
  parameters.form = {.activation = args.activation, .y_is_f32 = args.y_dtype == DType::f32};
  parameters.are_weights_settled = device.graphs().is_active();
  return parameters;
}

using Kernel = void (*)(Parameters);

template <Kernel kernel>
void launch_with(const Parameters& parameters, int64_t blocks, int shared_bytes, CudaDevice& device) {
  static std::atomic<uint64_t> prepared = 0;
  uint64_t bit = uint64_t{1} << (device.device().index & 63);
  if ((prepared.load() & bit) == 0) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.max_shared_bytes()),
          "linear");
    prepared.fetch_or(bit);
  }
  launch(kernel, static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(shared_bytes), device, parameters);
  check_launch("linear");
}

template <int kBits, int kRows, int kRingStages, bool kGated>
void launch_ring(const Parameters& parameters, int64_t blocks, CudaDevice& device) {
  using PanelRing = Ring<kBits, kRingStages, kGated>;
  auto slots = static_cast<int>(ceil_div(parameters.num_panels, blocks)) * (kGated ? 2 : 1);
  int shared_bytes =
      PanelRing::kBytes + PanelRing::kBarrierBytes + partial_floats(slots, kRows) * static_cast<int>(sizeof(float));
  launch_with<stream_panels<kBits, kRows, kRingStages, kGated>>(parameters, blocks, shared_bytes, device);
}

/// Whether half a ring holds a warp's part, but for what a border between panels may cut off.
template <int kBits>
bool fits_half_ring(const Parameters& parameters, int64_t slots) {
  int64_t granules = ceil_div(slots * parameters.panel_granules, kWarps);
  return granules <= kHalfStages * Chunk<kBits>::kGranules;
}

template <int kBits, int kRows, bool kGated>
void launch_panels(const Parameters& parameters, CudaDevice& device) {
  constexpr int kSlots = kGated ? 2 : 1;
  int64_t places = device.num_multiprocessors(), panels = parameters.num_panels;
  if (panels == 0) return;
  bool is_short = panels <= places * (kMaxSlots / kSlots);
  int64_t blocks = std::min(places, panels);
  if constexpr (kRows <= kMaxSharedRows) {
    if (!is_short) {
      blocks = 2 * places * ceil_div(panels, 2 * places * (kSharingSlots / kSlots));
      return launch_ring<kBits, kRows, kHalfStages, kGated>(parameters, blocks, device);
    }
    // The less shared memory it takes, the earlier it may begin beside the kernels before.
    if (way() == Way::half || fits_half_ring<kBits>(parameters, ceil_div(panels, blocks) * kSlots)) {
      return launch_ring<kBits, kRows, kHalfStages, kGated>(parameters, blocks, device);
    }
  }
  if (!is_short) blocks = places * ceil_div(panels, places * (kMaxSlots / kSlots));
  launch_ring<kBits, kRows, kStages, kGated>(parameters, blocks, device);
}

template <int kBits, bool kGated>
void launch_rows(const Parameters& parameters, CudaDevice& device) {
  if (parameters.rows <= 1) return launch_panels<kBits, 1, kGated>(parameters, device);
  if (parameters.rows <= 2) return launch_panels<kBits, 2, kGated>(parameters, device);
  if (parameters.rows <= 4) return launch_panels<kBits, 4, kGated>(parameters, device);
  if (parameters.rows <= 8) return launch_panels<kBits, 8, kGated>(parameters, device);
  launch_panels<kBits, 16, kGated>(parameters, device);
}

/// Of the larger of the two rings, with as many pieces as there may be.
constexpr int kMostSharedBytes = Ring<4, kStages, false>::kBytes + Ring<4, kStages, false>::kBarrierBytes +
                                 partial_floats(kMaxSlots, 16) * static_cast<int>(sizeof(float));

bool is_for_stream(const LinearForwardArgs& args, std::span<const LinearWeight> weights, const CudaDevice& device) {
  if (way() == Way::none || device.architecture() < 90 || kMostSharedBytes > device.max_shared_bytes()) return false;
  bool fits = args.dtype == DType::bf16 && args.rows >= 1 && args.rows <= kMaxQuantizedRows && args.in_features > 0 &&
              args.in_features <= kMaxDepth && args.in_features % 8 == 0 && is_aligned(args.x) &&
              weights.size() <= kMaxWeights;
  for (const LinearWeight& weight : weights) fits = fits && is_aligned(weight.weight);
  return fits;
}

}  // namespace

bool quantized_stream(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device) {
  if (!is_for_stream(args, weights, device)) return false;
  Parameters parameters = make_parameters(args, weights, false, device);
  bool is_int4 = weights.front().layout == Layout::int4;
  is_int4 ? launch_rows<4, false>(parameters, device) : launch_rows<8, false>(parameters, device);
  return true;
}

bool quantized_gated_stream(const GatedLinearArgs& args, CudaDevice& device) {
  const LinearWeight weights[] = {
      {.weight = args.gate, .y = args.y, .out_features = args.out_features, .layout = args.layout},
      {.weight = args.up, .y = args.y, .out_features = args.out_features, .layout = args.layout}};
  LinearForwardArgs products{.x = args.x,
                             .weights = weights,
                             .rows = args.rows,
                             .in_features = args.in_features,
                             .dtype = args.dtype,
                             .y_dtype = args.dtype,
                             .activation = args.activation};
  if (args.out_features == 0 || !is_for_stream(products, weights, device)) return false;
  Parameters parameters = make_parameters(products, weights, true, device);
  args.layout == Layout::int4 ? launch_rows<4, true>(parameters, device) : launch_rows<8, true>(parameters, device);
  return true;
}

}  // namespace weft::cuda
