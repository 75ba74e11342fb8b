// Matrix products with a weight: y = x · wᵀ + bias. Weights are [out_features, in_features] as in a checkpoint.
//
// Axes: M rows (tokens), N out_features, K in_features.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "core/tensor.h"
#include "kernels/activation.h"
#include "kernels/stream.h"

namespace weft {

/// One weight of a product. Several weights may share an input (q, k, v; gate, up): one pass over x serves them all.
struct LinearWeight {
  const void* weight = nullptr;  // [N, K], dtype of x unless quantized; `layout` says how it lies
  const void* bias = nullptr;    // [N], dtype of x, or null
  void* y = nullptr;             // [M, N], `y_dtype`
  int64_t out_features = 0;
  Layout layout = Layout::row_major;
};

struct LinearForwardArgs {
  const void* x = nullptr;  // [M, K]
  std::span<const LinearWeight> weights;
  int64_t rows = 0;
  int64_t in_features = 0;
  DType dtype = DType::f32;    // of x, the weights and the biases: f32, bf16, f64
  DType y_dtype = DType::f32;  // equal to dtype, or f32 for bf16 inputs; products are summed in f32 (f64 for f64)
  Activation activation = Activation::identity;  // of every y, behind the bias
};

/// y = activation(x · gateᵀ) ⊙ (x · upᵀ), both products rounded to dtype before.
struct GatedLinearArgs {
  const void* x = nullptr;     // [M, K]
  const void* gate = nullptr;  // [N, K]
  const void* up = nullptr;    // [N, K]
  void* y = nullptr;           // [M, N]
  int64_t rows = 0, in_features = 0, out_features = 0;
  Activation activation = Activation::silu;
  DType dtype = DType::f32;
  Layout layout = Layout::row_major;  // of gate and up
};

/// dx = dy · w (row_major weights only).
struct LinearBackwardInputArgs {
  const void* dy = nullptr;      // [M, N]
  const void* weight = nullptr;  // [N, K]
  void* dx = nullptr;            // [M, K]
  int64_t rows = 0, out_features = 0, in_features = 0;
  DType dtype = DType::f32;
  bool accumulate = false;  // dx += instead of dx =
};

/// dw = dyᵀ · x and db = column sums of dy; gradients of weights are f32 (f64 for f64).
struct LinearBackwardWeightArgs {
  const void* dy = nullptr;  // [M, N]
  const void* x = nullptr;   // [M, K]
  void* dw = nullptr;        // [N, K], or null
  void* dbias = nullptr;     // [N], or null
  int64_t rows = 0, out_features = 0, in_features = 0;
  DType dtype = DType::f32;
  bool accumulate_weight = false;
  bool accumulate_bias = false;
};

/// Packing for inference: rows of a weight are brought, a block at a time, into the order that both the matrix-vector
/// and the matrix-matrix product stream through once. There is one copy of a packed weight, for every number of rows.
///
/// Quantized layouts round each kQuantizationGroup neighbouring in_features of a row together (the last group of a row
/// may be shorter). w ≈ scale · q with q in −127 … 127 for int8; w ≈ scale · q + minimum with q in 0 … 15 for int4, as
/// ggml's Q8_0 and Q4_1; scales and minima are f16. The bits depend on the row alone. A group that holds a number that
/// is not finite becomes NaN.
struct PackArgs {
  const void* rows = nullptr;  // [num_rows, K] row-major, in host memory
  void* packed = nullptr;      // packed_bytes(N, K, dtype, layout)
  int64_t row_begin = 0;       // a multiple of kPackRowBlock
  int64_t num_rows = 0;        // a multiple of kPackRowBlock unless the rows reach the end
  int64_t out_features = 0, in_features = 0;
  DType dtype = DType::bf16;  // of the rows; f32 for quantized layouts
  Layout layout = Layout::packed;
};

struct UnpackRowsArgs {
  const void* packed = nullptr;
  const int32_t* indices = nullptr;  // rows wanted; a negative index gives a row of zeros
  void* rows = nullptr;              // [num_indices, K]
  int64_t num_indices = 0;
  int64_t out_features = 0, in_features = 0;
  DType dtype = DType::bf16;  // of the rows
  Layout layout = Layout::packed;
};

inline constexpr int64_t kPackRowBlock = 64;
inline constexpr int64_t kQuantizationGroup = 32;

/// This machine's limits, measured now on random data: the denominators of every bound that Weft prints.
struct MachinePeaks {
  double memory_bytes_per_second = 0;  // reading, all threads
  double matmul_flops_per_second = 0;  // of the best matrix product at 1024³-like sizes in `dtype`
};

struct LinearKernels {
  void (*forward)(const LinearForwardArgs&, const Stream&) = nullptr;
  /// False, with nothing done, where forward and gated_forward of the activations do as well. Null: everywhere.
  bool (*gated_forward)(const GatedLinearArgs&, const Stream&) = nullptr;
  void (*backward_input)(const LinearBackwardInputArgs&, const Stream&) = nullptr;
  void (*backward_weight)(const LinearBackwardWeightArgs&, const Stream&) = nullptr;
  /// Of a weight for products in `dtype`. 0 when there is no such layout for it on this device: `packed` weights stay
  /// row-major then.
  size_t (*packed_bytes)(int64_t out_features, int64_t in_features, DType dtype, Layout layout) = nullptr;
  void (*pack)(const PackArgs&, const Stream&) = nullptr;
  void (*unpack_rows)(const UnpackRowsArgs&, const Stream&) = nullptr;
  MachinePeaks (*machine_peaks)(DType dtype, const Stream&) = nullptr;
};

/// The limits of the device behind `stream`.
MachinePeaks measure_machine_peaks(DType dtype, const Stream& stream);

/// Of the CPU.
MachinePeaks measure_cpu_peaks(DType dtype, const Stream& stream);

}  // namespace weft
