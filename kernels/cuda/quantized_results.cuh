// The end of a product with quantized weights: bias, activation and the one rounding of a sum.
#pragma once

#include "kernels/cuda/activation_math.cuh"
#include "kernels/cuda/common.cuh"

namespace weft::cuda::quantized_parts {

struct QuantizedWeight {
  const std::byte* panels;
  const void* bias;
  void* y;
  int64_t out_features;
  int64_t panel_end;  // one behind its last panel, counted over all weights of the launch
};

struct ResultForm {
  Activation activation;
  bool y_is_f32;
};

template <typename T>
__device__ __forceinline__ void write_sum(
    const ResultForm& form, const QuantizedWeight& weight, int64_t feature, int row, float sum) {
  if (weight.bias != nullptr) sum += to_float(static_cast<const T*>(weight.bias)[feature]);
  sum = activate(sum, form.activation);
  int64_t index = row * weight.out_features + feature;
  if (form.y_is_f32) {
    static_cast<float*>(weight.y)[index] = sum;
  } else {
    static_cast<T*>(weight.y)[index] = from_float<T>(sum);
  }
}

/// Of a gated product, of which both factors are rounded like those of two products.
template <typename T>
__device__ __forceinline__ void write_gated_sums(
    const ResultForm& form, const QuantizedWeight& weight, int64_t feature, int row, float gate, float up) {
  float opened = activate(to_float(from_float<T>(gate)), form.activation);
  static_cast<T*>(weight.y)[row * weight.out_features + feature] = from_float<T>(to_float(from_float<T>(up)) * opened);
}

}  // namespace weft::cuda::quantized_parts
