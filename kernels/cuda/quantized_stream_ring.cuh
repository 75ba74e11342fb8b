// How quantized_stream.cu brings codes in: which warp has which, and their way through shared memory.
//
// A granule is two groups of a panel, 64 input features of 16 output features; a unit is the 256 bytes of codes of 32
// (int4) or 16 (int8) input features. A block has some panels, its slots; a warp has a stretch of their granules.
#pragma once

#include "kernels/cuda/barriers.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantized_results.cuh"
#include "kernels/quantized_shape.h"

namespace weft::cuda::quantized_stream_parts {

using quantized_parts::QuantizedWeight;
using quantized_parts::ResultForm;

inline constexpr int kWarps = 16;
inline constexpr int kThreads = kWarps * 32;
inline constexpr int kMaxWeights = 8;  // of one launch
inline constexpr int kPanelWidth = kQuantizedPanelWidth;
/// Panels of a block at most.
inline constexpr int kMaxSlots = 16;
inline constexpr int kGranuleFeatures = 2 * kQuantizationGroup;

struct Parameters {
  QuantizedWeight weights[kMaxWeights];
  const bf16* x;
  int64_t num_panels;  // of all weights; of each, in gated products
  int in_features;
  int panel_bytes;
  int panel_granules;
  int panel_units;
  int num_weights;
  int rows;
  ResultForm form;
  bool are_weights_settled;  // they may be read before wait_for_previous()
};

/// What a warp copies at a time: 8 units and their scales.
template <int kBits>
struct Chunk {
  static constexpr int kUnits = 8;
  static constexpr int kGranuleUnits = kBits == 4 ? 2 : 4;
  static constexpr int kGranules = kUnits / kGranuleUnits;
  static constexpr int kGranuleBytes = kBits == 4 ? 2 * (64 + 256) : 64 + 2 * 512;
  static constexpr int kBytes = kGranules * kGranuleBytes;
  static_assert(kGranuleBytes ==
                QuantizedShape::codes_offset(kBits == 4, 2) - QuantizedShape::codes_offset(kBits == 4, 0));

  /// Where the codes of a unit begin in a chunk.
  __device__ static constexpr int codes_offset(int unit) {
    if (kBits == 4) return unit * 320 + 64;
    return unit / 4 * kGranuleBytes + 64 + unit % 4 * 256;
  }
  /// Where the scales of its group begin.
  __device__ static constexpr int scales_offset(int unit) {
    if (kBits == 4) return unit * 320;
    return unit / 4 * kGranuleBytes + unit % 4 / 2 * 32;
  }
};

/// A block's panels. Slots count them; in gated products the slots of gate and up alternate.
struct Work {
  int64_t first;  // panel, or pair of panels
  int slots;
  int granules;  // of all slots
};

template <bool kGated>
__device__ __forceinline__ Work block_work(const Parameters& parameters) {
  int64_t block = blockIdx.x, blocks = gridDim.x;
  int64_t begin = block * parameters.num_panels / blocks, end = (block + 1) * parameters.num_panels / blocks;
  int slots = static_cast<int>(end - begin) * (kGated ? 2 : 1);
  return {begin, slots, slots * parameters.panel_granules};
}

struct Panel {
  const QuantizedWeight* weight;
  int64_t index;  // in its weight
};

template <bool kGated>
__device__ __forceinline__ Panel find_panel(const Parameters& parameters, const Work& work, int slot) {
  if constexpr (kGated) return {&parameters.weights[slot % 2], work.first + slot / 2};
  int64_t panel = work.first + slot, begin = 0;
  int index = 0;
  while (index + 1 < parameters.num_weights && panel >= parameters.weights[index].panel_end) {
    begin = parameters.weights[index++].panel_end;
  }
  return {&parameters.weights[index], panel - begin};
}

/// Where a warp's part of the block's granules begins; the next warp's is where it ends.
__device__ __forceinline__ int range_begin(const Work& work, int warp) {
  return static_cast<int>(static_cast<unsigned>(warp * work.granules) / kWarps);
}

/// A place in a warp's range, and the chunk that begins there. It ends with the panel.
template <int kBits>
struct Cursor {
  int slot, granule;
  int left;   // granules to the end of the range
  int count;  // of the chunk

  __device__ __forceinline__ Cursor(const Parameters& parameters, const Work& work, int warp) {
    int begin = range_begin(work, warp);
    slot = begin / parameters.panel_granules;
    granule = begin - slot * parameters.panel_granules;
    left = range_begin(work, warp + 1) - begin;
    measure(parameters);
  }
  /// Of the chunk, that exist: the last granule of a panel may be half of one.
  __device__ __forceinline__ int units(const Parameters& parameters) const {
    constexpr int kUnits = Chunk<kBits>::kGranuleUnits;
    return min(count * kUnits, parameters.panel_units - granule * kUnits);
  }
  __device__ __forceinline__ void advance(const Parameters& parameters) {
    left -= count;
    granule += count;
    if (granule == parameters.panel_granules) {
      granule = 0;
      ++slot;
    }
    measure(parameters);
  }

 private:
  __device__ __forceinline__ void measure(const Parameters& parameters) {
    count = min(min(left, Chunk<kBits>::kGranules), parameters.panel_granules - granule);
  }
};

/// A warp's codes on their way through kStages chunks of shared memory, filled by its first lane.
template <int kBits, int kStages, bool kGated>
class Ring {
 public:
  static constexpr int kWarpBytes = kStages * Chunk<kBits>::kBytes;
  static constexpr int kBytes = kWarps * kWarpBytes;
  static constexpr int kBarrierBytes = kWarps * kStages * 8;

  __device__ __forceinline__
  Ring(const Parameters& parameters, const Work& work, const Cursor<kBits>& begin, std::byte* shared, int warp)
      : parameters_(parameters), work_(work), ahead_(begin), panel_(panel()) {
    auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    chunks_ = address + static_cast<uint32_t>(warp * kWarpBytes);
    barriers_ = address + static_cast<uint32_t>(kBytes + warp * kStages * 8);
    if (threadIdx.x % 32 == 0) {
      for (int stage = 0; stage < kStages; ++stage) pipeline::init_barrier(barriers_ + stage * 8, 1);
      pipeline::publish_barriers();
    }
    __syncwarp();
  }

  /// Brings what fill() copies into L2.
  __device__ __forceinline__ void prefetch() const {
    if (threadIdx.x % 32 != 0) return;
    Ring ahead = *this;
#pragma unroll 1
    for (int stage = 0; stage < kStages && ahead.ahead_.left > 0; ++stage) {
      prefetch_range_to_l2(ahead.source(), static_cast<uint32_t>(ahead.bytes()));
      ahead.advance();
    }
  }

  __device__ __forceinline__ void fill() {
#pragma unroll 1
    for (int stage = 0; stage < kStages; ++stage) refill(stage);
  }

  /// Starts the next chunk on its way to a stage that no lane reads any more.
  __device__ __forceinline__ void refill(int stage) {
    if (ahead_.left == 0) return;
    if (threadIdx.x % 32 == 0) {
      int count = bytes();
      pipeline::arrive_expecting(barriers_ + stage * 8, count);
      pipeline::copy_bytes(chunks_ + stage * Chunk<kBits>::kBytes, source(), count, barriers_ + stage * 8);
    }
    advance();
  }

  /// Waits for the chunk of a stage; its address.
  __device__ __forceinline__ uint32_t take(int stage, uint32_t parity) const {
    pipeline::wait(barriers_ + stage * 8, parity);
    return chunks_ + static_cast<uint32_t>(stage * Chunk<kBits>::kBytes);
  }

 private:
  __device__ __forceinline__ const std::byte* panel() const {
    if (ahead_.left == 0) return nullptr;
    Panel found = find_panel<kGated>(parameters_, work_, ahead_.slot);
    return found.weight->panels + found.index * parameters_.panel_bytes;
  }
  __device__ __forceinline__ const std::byte* source() const {
    return panel_ + ahead_.granule * Chunk<kBits>::kGranuleBytes;
  }
  __device__ __forceinline__ int bytes() const {
    constexpr int kGranuleBytes = Chunk<kBits>::kGranuleBytes;
    return min(ahead_.count * kGranuleBytes, parameters_.panel_bytes - ahead_.granule * kGranuleBytes);
  }
  __device__ __forceinline__ void advance() {
    int slot = ahead_.slot;
    ahead_.advance(parameters_);
    if (ahead_.slot != slot) panel_ = panel();
  }

  const Parameters& parameters_;
  const Work& work_;
  Cursor<kBits> ahead_;
  const std::byte* panel_;  // of ahead_
  uint32_t chunks_, barriers_;
};

}  // namespace weft::cuda::quantized_stream_parts
