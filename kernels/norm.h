// Root-mean-square norm (Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019), alone and fused with the
// residual addition before it.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "kernels/stream.h"

namespace weft {

/// sum = x + residual (when residual is given); y = sum / sqrt(mean(sum²) + eps) · (weight_offset + weight). Statistics
/// and products in f32, rounded once; the sum is rounded to dtype before it is normed, so that it equals the stored
/// sum. With `round_before_weight` the normalised value is rounded to dtype before the weight multiplies it (Llama's
/// order; Gemma's is without).
struct RmsNormForwardArgs {
  const void* x = nullptr;         // [rows, width]
  const void* residual = nullptr;  // [rows, width] or null
  const void* weight = nullptr;    // [width], dtype
  void* sum = nullptr;             // [rows, width]; null when residual is null
  void* y = nullptr;               // [rows, width]
  float* inv_rms = nullptr;        // [rows] kept for backward (double for f64 is not needed: recomputed there), or null
  int64_t rows = 0, width = 0;
  double eps = 1e-6;
  float weight_offset = 0;  // 1 for Gemma
  bool round_before_weight = false;
  DType dtype = DType::f32;
};

/// Two norms with the addition between them, as behind a branch whose result is normed (Gemma 2): sum = residual +
/// norm(x) · inner_weight and y = norm(sum) · weight, each rounded as by two calls.
struct RmsNormTwiceArgs {
  RmsNormForwardArgs outer;            // with a residual
  const void* inner_weight = nullptr;  // [width], of the norm of x
};

/// Given dy, and dsum (the gradient that reached the sum by its other uses, or null): dinput = d loss / d sum. The same
/// dinput serves x and residual.
struct RmsNormBackwardArgs {
  const void* input = nullptr;  // what was normed: sum, or x without a residual
  const void* weight = nullptr;
  const void* dy = nullptr;    // null when only dsum arrived
  const void* dsum = nullptr;  // or null
  void* dinput = nullptr;      // [rows, width] dtype; may alias dsum; null when not wanted
  void* dweight = nullptr;     // [width] f32 (f64 for f64), or null
  int64_t rows = 0, width = 0;
  double eps = 1e-6;
  float weight_offset = 0;
  bool accumulate_input = false;
  bool accumulate_weight = false;
  DType dtype = DType::f32;
};

/// Layer norm (Ba et al., 2016) after an optional residual addition: sum = x + residual, rounded to dtype;
/// y = (sum − mean)/sqrt(variance + eps)·weight + bias, statistics and arithmetic in f32 (f64 for f64), rounded once.
/// With `subtract_mean` false it is an RMS norm: no mean is taken. Without weight (bias) it is 1 (0). `groups`
/// gives each row its row of weight and bias (conditional layer norm).
struct LayerNormForwardArgs {
  const void* x = nullptr;          // [rows, width]
  const void* residual = nullptr;   // [rows, width] or null
  const void* weight = nullptr;     // [width] or [groups, width]; or null
  const void* bias = nullptr;       // likewise
  const int32_t* groups = nullptr;  // [rows]; null: all 0
  void* sum = nullptr;              // [rows, width]; null: not kept
  void* y = nullptr;                // [rows, width]; may not alias the inputs
  int64_t rows = 0, width = 0;
  double eps = 1e-12;
  bool subtract_mean = true;
  DType dtype = DType::f32;
};

/// dinput = d loss / d sum.
struct LayerNormBackwardArgs {
  const void* input = nullptr;  // what was normed
  const void* weight = nullptr;
  const int32_t* groups = nullptr;
  const void* dy = nullptr;
  void* dinput = nullptr;   // [rows, width] dtype, or null
  void* dweight = nullptr;  // shape of weight, f32 (f64 for f64), added to; or null
  void* dbias = nullptr;    // likewise
  int64_t rows = 0, width = 0;
  double eps = 1e-12;
  bool subtract_mean = true;
  DType dtype = DType::f32;
};

struct LayerNormKernels {
  void (*forward)(const LayerNormForwardArgs&, const Stream&) = nullptr;
  void (*backward)(const LayerNormBackwardArgs&, const Stream&) = nullptr;
};

struct RmsNormKernels {
  void (*forward)(const RmsNormForwardArgs&, const Stream&) = nullptr;
  /// Null: two calls of forward do as well.
  void (*forward_twice)(const RmsNormTwiceArgs&, const Stream&) = nullptr;
  void (*backward)(const RmsNormBackwardArgs&, const Stream&) = nullptr;
};

}  // namespace weft
