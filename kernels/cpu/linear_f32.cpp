#include "kernels/cpu/linear_f32.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/dot_product.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear_plain.h"
#include "kernels/cpu/onednn_matmul.h"
#include "kernels/cpu/packed_tasks.h"
#include "kernels/cpu/parallel_tasks.h"

namespace weft {
namespace {

#if defined(_OPENMP)
constexpr bool kHasOneDnn = true;
#else
constexpr bool kHasOneDnn = false;
#endif

/// Up to here reading the weight takes longer than computing with it.
constexpr int64_t kMaxDotProductRows = 12;
/// Weights of one task: long enough to stream, short enough to share out evenly.
constexpr int64_t kTaskBytes = 32 << 10;

DotProductFunction dot_product_function() {
#if defined(__x86_64__)
  if (cpu_isa() >= CpuIsa::avx512) return dot_product_avx512;
  if (cpu_isa() >= CpuIsa::avx2) return dot_product_avx2;
#endif
  return dot_product_portable;
}

DotProduct dot_product_of(const LinearForwardArgs& args, const LinearWeight& weight) {
  return {.x = static_cast<const float*>(args.x),
          .weight = static_cast<const float*>(weight.weight),
          .bias = static_cast<const float*>(weight.bias),
          .y = static_cast<float*>(weight.y),
          .rows = args.rows,
          .in_features = args.in_features,
          .out_features = weight.out_features};
}

/// All weights in one parallel region.
void dot_product_forward(const LinearForwardArgs& args, int num_threads) {
  int64_t row_bytes = std::max<int64_t>(1, args.in_features) * static_cast<int64_t>(sizeof(float));
  int64_t chunk = std::max<int64_t>(4, kTaskBytes / row_bytes / 4 * 4);
  auto num_chunks = [&](const LinearWeight& weight) { return (weight.out_features + chunk - 1) / chunk; };
  int64_t tasks = 0;
  for (const LinearWeight& weight : args.weights) tasks += num_chunks(weight);
  DotProductFunction multiply = dot_product_function();
  parallel_tasks(num_threads, tasks, [&](int64_t task) {
    const LinearWeight* weight = args.weights.data();
    for (; task >= num_chunks(*weight); ++weight) task -= num_chunks(*weight);
    DotProduct product = dot_product_of(args, *weight);
    product.begin = task * chunk;
    product.end = std::min(product.out_features, product.begin + chunk);
    multiply(product);
  });
}

#if defined(_OPENMP)
MatrixView rows_of(const void* data, int64_t columns) {
  return {.data = static_cast<const float*>(data), .row_stride = columns, .column_stride = 1};
}

MatrixView transposed(const void* data, int64_t columns) {
  return {.data = static_cast<const float*>(data), .row_stride = 1, .column_stride = columns};
}
#endif

void row_major_forward(const LinearForwardArgs& args, const Stream& stream) {
  if (!kHasOneDnn || args.rows <= kMaxDotProductRows) return dot_product_forward(args, stream.num_threads);
#if defined(_OPENMP)
  for (const LinearWeight& weight : args.weights) {
    onednn_matmul({.m = args.rows,
                   .n = weight.out_features,
                   .k = args.in_features,
                   .a = rows_of(args.x, args.in_features),
                   .b = transposed(weight.weight, args.in_features),
                   .bias = static_cast<const float*>(weight.bias),
                   .c = static_cast<float*>(weight.y)},
                  stream.num_threads);
  }
#endif
}

PackedProduct<float> packed_forward(const LinearForwardArgs& args, const LinearWeight& weight) {
  return {.x = static_cast<const float*>(args.x),
          .x_stride = args.in_features,
          .rows = args.rows,
          .in_features = args.in_features,
          .packed = static_cast<const float*>(weight.weight),
          .bias = static_cast<const float*>(weight.bias),
          .y = weight.y,
          .out_features = weight.out_features,
          .panel_end = num_panels(weight.out_features)};
}

}  // namespace

PackedProductFunction<float> packed_product_of_f32() {
#if defined(__x86_64__)
  if (cpu_isa() >= CpuIsa::avx512) return packed_product_avx512;
  if (cpu_isa() >= CpuIsa::avx2) return packed_product_avx2;
#endif
  return packed_product_portable;
}

void linear_f32_forward(const LinearForwardArgs& args, const Stream& stream) {
  std::vector<LinearWeight> row_major;
  std::vector<PackedProduct<float>> packed;
  for (const LinearWeight& weight : args.weights) {
    if (weight.layout == Layout::packed) {
      packed.push_back(packed_forward(args, weight));
    } else {
      row_major.push_back(weight);
    }
  }
  if (!packed.empty()) {
    run_packed_products<float>(packed, packed_product_of_f32(), args.activation, stream);
  }
  LinearForwardArgs rest = args;
  rest.weights = row_major;
  if (!row_major.empty()) row_major_forward(rest, stream);
}

void linear_f32_backward_input(const LinearBackwardInputArgs& args, const Stream& stream) {
#if defined(_OPENMP)
  if (args.rows == 0) return;
  onednn_matmul({.m = args.rows,
                 .n = args.in_features,
                 .k = args.out_features,
                 .a = rows_of(args.dy, args.out_features),
                 .b = rows_of(args.weight, args.in_features),
                 .c = static_cast<float*>(args.dx),
                 .accumulate = args.accumulate},
                stream.num_threads);
#else
  plain_linear_backward_input<float>(args, stream.num_threads);
#endif
}

void linear_f32_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream) {
#if defined(_OPENMP)
  if (args.rows == 0) return plain_linear_backward_weight<float>(args, stream.num_threads);
  onednn_matmul({.m = args.out_features,
                 .n = args.in_features,
                 .k = args.rows,
                 .a = transposed(args.dy, args.out_features),
                 .b = rows_of(args.x, args.in_features),
                 .c = static_cast<float*>(args.dw),
                 .accumulate = args.accumulate_weight},
                stream.num_threads);
#else
  plain_linear_backward_weight<float>(args, stream.num_threads);
#endif
}

}  // namespace weft
