#include "core/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/linear_bf16.h"
#include "kernels/cpu/linear_f32.h"
#include "kernels/cpu/linear_plain.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/quantized_linear.h"
#include "kernels/cpu/quantized_weights.h"
#include "kernels/quantized_shape.h"

namespace weft {
namespace {

[[noreturn]] void fail_dtype(DType dtype) {
  fail(ExitCode::failure, "linear has no cpu kernel for {}", dtype_name(dtype));
}

void plain_forward(const LinearForwardArgs& args, const Stream& stream) {
  for (const LinearWeight& weight : args.weights) {
    WEFT_ASSERT(weight.layout == Layout::row_major);
    plain_linear_forward<double>(args, weight, stream.num_threads);
  }
}

/// Weights that are not quantized.
void multiply_whole(const LinearForwardArgs& args, const Stream& stream) {
  switch (args.dtype) {
    case DType::f64:
      return plain_forward(args, stream);
    case DType::f32:
      return linear_f32_forward(args, stream);
    case DType::bf16:
      return linear_bf16_forward(args, stream);
    default:
      fail_dtype(args.dtype);
  }
}

void forward(const LinearForwardArgs& args, const Stream& stream) {
  WEFT_ASSERT(args.y_dtype == args.dtype || (args.dtype == DType::bf16 && args.y_dtype == DType::f32));
  split_quantized(
      args,
      [&](const LinearForwardArgs& part) { quantized_linear_forward(part, stream); },
      [&](const LinearForwardArgs& part) { multiply_whole(part, stream); });
  for (const LinearWeight& weight : args.weights) {
    if (args.activation == Activation::identity || weight.layout != Layout::row_major) continue;
    cpu_activation_kernels().forward({.x = weight.y,
                                      .y = weight.y,
                                      .count = args.rows * weight.out_features,
                                      .activation = args.activation,
                                      .dtype = args.y_dtype},
                                     stream);
  }
}

void backward_input(const LinearBackwardInputArgs& args, const Stream& stream) {
  switch (args.dtype) {
    case DType::f64:
      return plain_linear_backward_input<double>(args, stream.num_threads);
    case DType::f32:
      return linear_f32_backward_input(args, stream);
    case DType::bf16:
      return linear_bf16_backward_input(args, stream);
    default:
      fail_dtype(args.dtype);
  }
}

void backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream) {
  switch (args.dtype) {
    case DType::f64:
      if (args.dw != nullptr) plain_linear_backward_weight<double>(args, stream.num_threads);
      if (args.dbias != nullptr) plain_linear_backward_bias<double>(args, stream.num_threads);
      return;
    case DType::f32:
      if (args.dw != nullptr) linear_f32_backward_weight(args, stream);
      if (args.dbias != nullptr) plain_linear_backward_bias<float>(args, stream.num_threads);
      return;
    case DType::bf16:
      if (args.dw != nullptr) linear_bf16_backward_weight(args, stream);
      if (args.dbias != nullptr) plain_linear_backward_bias<bfloat16>(args, stream.num_threads);
      return;
    default:
      fail_dtype(args.dtype);
  }
}

}  // namespace

LinearKernels cpu_linear_kernels() {
  return {.forward = forward,
          .backward_input = backward_input,
          .backward_weight = backward_weight,
          .packed_bytes = packed_weight_bytes,
          .pack = pack_weight,
          .unpack_rows = unpack_weight_rows,
          .machine_peaks = measure_cpu_peaks};
}

}  // namespace weft
