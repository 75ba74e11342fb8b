#include "kernels/token_shift.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/cuda_kernels.h"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;

/// Sequences as a kernel's parameter, so that decoding copies nothing to the device first.
struct Sequences {
  static constexpr int kMost = 64;
  TokenShiftSequence values[kMost];
};

/// Units of `Unit` in a row. Along y sequences, along x their elements.
template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    shift_rows(const Unit* x, Unit* y, const __grid_constant__ Sequences sequences, int64_t units) {
  const TokenShiftSequence& sequence = sequences.values[blockIdx.y];
  int64_t first = sequence.begin * units, count = sequence.length * units;
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count; at += step) {
    if (at >= units) {
      y[first + at] = x[first + at - units];
      continue;
    }
    // `last` may be `before`: the thread that reads a unit of the one writes it in the other.
    y[first + at] = sequence.before != nullptr ? static_cast<const Unit*>(sequence.before)[at] : Unit{};
    if (sequence.last != nullptr) static_cast<Unit*>(sequence.last)[at] = x[first + count - units + at];
  }
}

/// `dbefore` is that of the first of these sequences; null: not wanted.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) shift_gradients(
    const Unit* dy, Unit* dx, Unit* dbefore, const __grid_constant__ Sequences sequences, int64_t units) {
  const TokenShiftSequence& sequence = sequences.values[blockIdx.y];
  int64_t first = sequence.begin * units, count = sequence.length * units;
  int64_t begin = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = begin; at < count; at += step) {
    dx[first + at] = at + units < count ? dy[first + at + units] : Unit{};
  }
  if (dbefore == nullptr) return;
  for (int64_t at = begin; at < units; at += step) {
    dbefore[blockIdx.y * units + at] = count > 0 ? dy[first + at] : Unit{};
  }
}

/// Calls body(sequences, index of the first, grid) for as many at a time as fit a kernel's parameters.
template <typename Body>
void for_batches(std::span<const TokenShiftSequence> all, int64_t units, Body&& body) {
  auto total = static_cast<int64_t>(all.size());
  for (int64_t first = 0; first < total; first += Sequences::kMost) {
    Sequences batch = {};
    int64_t longest = 1;
    int64_t count = total - first < Sequences::kMost ? total - first : Sequences::kMost;
    for (int64_t i = 0; i < count; ++i) {
      batch.values[i] = all[static_cast<size_t>(first + i)];
      if (batch.values[i].length > longest) longest = batch.values[i].length;
    }
    int64_t blocks = ceil_div(longest * units, kThreads);
    constexpr int64_t kMostBlocks = 4096;
    body(batch,
         first,
         dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), static_cast<unsigned>(count)));
  }
}

/// Calls body(Unit{}) with the widest unit in which rows of `bytes` can be moved, given the pointers' bits.
template <typename Body>
void dispatch_unit(size_t bytes, uintptr_t bits, Body&& body) {
  bits |= bytes;
  if (bits % 16 == 0) return body(uint4{});
  if (bits % 4 == 0) return body(uint32_t{});
  if (bits % 2 == 0) return body(uint16_t{});
  body(uint8_t{});
}

uintptr_t bits_of(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

void forward(const TokenShiftForwardArgs& args, const Stream& stream) {
  if (args.width == 0) return;
  size_t bytes = static_cast<size_t>(args.width) * dtype_bytes(args.dtype);
  uintptr_t bits = bits_of(args.x) | bits_of(args.y);
  for (const TokenShiftSequence& sequence : args.sequences) bits |= bits_of(sequence.before) | bits_of(sequence.last);
  dispatch_unit(bytes, bits, [&](auto zero) {
    using Unit = decltype(zero);
    auto units = static_cast<int64_t>(bytes / sizeof(Unit));
    for_batches(args.sequences, units, [&](const Sequences& batch, int64_t, dim3 grid) {
      shift_rows<<<grid, kThreads, 0, device_of(stream).stream()>>>(
          static_cast<const Unit*>(args.x), static_cast<Unit*>(args.y), batch, units);
      check_launch("token_shift");
    });
  });
}

void backward(const TokenShiftBackwardArgs& args, const Stream& stream) {
  if (args.width == 0) return;
  size_t bytes = static_cast<size_t>(args.width) * dtype_bytes(args.dtype);
  uintptr_t bits = bits_of(args.dy) | bits_of(args.dx) | bits_of(args.dbefore);
  dispatch_unit(bytes, bits, [&](auto zero) {
    using Unit = decltype(zero);
    auto units = static_cast<int64_t>(bytes / sizeof(Unit));
    for_batches(args.sequences, units, [&](const Sequences& batch, int64_t first, dim3 grid) {
      auto* dbefore = static_cast<Unit*>(args.dbefore);
      shift_gradients<<<grid, kThreads, 0, device_of(stream).stream()>>>(
          static_cast<const Unit*>(args.dy),
          static_cast<Unit*>(args.dx),
          dbefore != nullptr ? dbefore + first * units : nullptr,
          batch,
          units);
      check_launch("token_shift backward");
    });
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

TokenShiftKernels cuda_token_shift_kernels() {
  return {.forward = cuda::forward, .backward = cuda::backward};
}

}  // namespace weft
