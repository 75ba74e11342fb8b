#include "core/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/linear_plain.h"

namespace weft {
namespace {

void forward(const LinearForwardArgs& args, const Stream& stream) {
  for (const LinearWeight& weight : args.weights) {
    WEFT_ASSERT(weight.layout == Layout::row_major);
    switch (args.dtype) {
      case DType::f64:
        plain_linear_forward<double, double>(args, weight, stream.num_threads);
        break;
      case DType::f32:
        plain_linear_forward<float, float>(args, weight, stream.num_threads);
        break;
      case DType::bf16:
        if (args.y_dtype == DType::f32) {
          plain_linear_forward<bfloat16, float>(args, weight, stream.num_threads);
        } else {
          plain_linear_forward<bfloat16, bfloat16>(args, weight, stream.num_threads);
        }
        break;
      default:
        fail(ExitCode::failure, "linear has no {} kernel", dtype_name(args.dtype));
    }
  }
}

void backward_input(const LinearBackwardInputArgs& args, const Stream& stream) {
  switch (args.dtype) {
    case DType::f64:
      return plain_linear_backward_input<double>(args, stream.num_threads);
    case DType::f32:
      return plain_linear_backward_input<float>(args, stream.num_threads);
    case DType::bf16:
      return plain_linear_backward_input<bfloat16>(args, stream.num_threads);
    default:
      fail(ExitCode::failure, "linear has no {} kernel", dtype_name(args.dtype));
  }
}

template <typename T>
void backward_weight_of(const LinearBackwardWeightArgs& args, const Stream& stream) {
  if (args.dw != nullptr) plain_linear_backward_weight<T>(args, stream.num_threads);
  if (args.dbias != nullptr) plain_linear_backward_bias<T>(args, stream.num_threads);
}

void backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream) {
  switch (args.dtype) {
    case DType::f64:
      return backward_weight_of<double>(args, stream);
    case DType::f32:
      return backward_weight_of<float>(args, stream);
    case DType::bf16:
      return backward_weight_of<bfloat16>(args, stream);
    default:
      fail(ExitCode::failure, "linear has no {} kernel", dtype_name(args.dtype));
  }
}

size_t packed_bytes(int64_t, int64_t, DType) {
  return 0;
}
void pack(const PackArgs&, const Stream&) {
  fail(ExitCode::failure, "linear packs no weights on this machine");
}
void unpack_rows(const UnpackRowsArgs&, const Stream&) {
  fail(ExitCode::failure, "linear packs no weights on this machine");
}

}  // namespace

LinearKernels cpu_linear_kernels() {
  return {.forward = forward,
          .backward_input = backward_input,
          .backward_weight = backward_weight,
          .packed_bytes = packed_bytes,
          .pack = pack,
          .unpack_rows = unpack_rows};
}

}  // namespace weft
