#include "kernels/cpu/quantized_linear.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear_bf16.h"
#include "kernels/cpu/linear_f32.h"
#include "kernels/cpu/packed_tasks.h"
#include "kernels/cpu/parallel_tasks.h"
#include "kernels/cpu/quantized_product.h"
#include "kernels/cpu/scratch.h"
#include "kernels/quantized_shape.h"

namespace weft {
namespace {

constexpr int64_t kGroup = kQuantizationGroup;
/// Codes of one task: long enough to stream, short enough to share out evenly.
constexpr int64_t kTaskBytes = 16 << 10;
/// Panels that a thread widens at a time: a tile of many rows spans two.
constexpr int64_t kWidenedPanels = 2;

bool multiplies_in_bf16(const LinearForwardArgs& args) {
  return args.dtype == DType::bf16 && cpu_isa() == CpuIsa::avx512_bf16;
}

/// Up to here codes are multiplied as they are; beyond, it is cheaper to widen a panel once and multiply that.
int64_t max_direct_rows(const LinearForwardArgs& args) {
  if (multiplies_in_bf16(args)) return 16;
  return cpu_isa() >= CpuIsa::avx512 ? 8 : 3;
}

QuantizedProductFunction product_function(bool in_bf16) {
#if defined(__x86_64__)
  if (in_bf16) return quantized_product_avx512_bf16;
  if (cpu_isa() >= CpuIsa::avx512) return quantized_product_avx512;
  if (cpu_isa() >= CpuIsa::avx2) return quantized_product_avx2;
#endif
  return quantized_product_portable;
}

WidenPanelFunction widen_function() {
#if defined(__x86_64__)
  if (cpu_isa() == CpuIsa::avx512_bf16) return widen_panel_avx512_bf16;
  if (cpu_isa() == CpuIsa::avx512) return widen_panel_avx512;
  if (cpu_isa() >= CpuIsa::avx2) return widen_panel_avx2;
#endif
  return widen_panel_portable;
}

/// Rows of x filled up with zeros to whole groups, and the sums of their groups.
template <typename Element>
struct GroupedRows {
  Element* rows;
  float* sums;
};

template <typename From, typename Element>
void group_row(const From* x, int64_t in_features, GroupedRows<Element> to) {
  for (int64_t begin = 0; begin < in_features; begin += kGroup) {
    int64_t count = std::min(kGroup, in_features - begin);
    float values[kGroup] = {};
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(x[begin + i]);
    if constexpr (std::is_same_v<From, Element>) {
      Element* copy = to.rows + begin;
      std::memcpy(copy, x + begin, static_cast<size_t>(count) * sizeof(Element));
      std::fill(copy + count, copy + kGroup, Element());
    } else {
      std::copy(values, values + kGroup, to.rows + begin);
    }
    for (int64_t width = kGroup / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) values[i] += values[i + width];
    }
    to.sums[begin / kGroup] = values[0];
  }
}

template <typename From, typename Element>
void group_rows(const LinearForwardArgs& args, int64_t num_groups, GroupedRows<Element> to) {
  for (int64_t row = 0; row < args.rows; ++row) {
    group_row(static_cast<const From*>(args.x) + row * args.in_features,
              args.in_features,
              GroupedRows<Element>{to.rows + row * num_groups * kGroup, to.sums + row * num_groups});
  }
}

std::vector<QuantizedProduct> direct_products(const LinearForwardArgs& args, const void* x, const float* x_sums) {
  std::vector<QuantizedProduct> products;
  products.reserve(args.weights.size());
  for (const LinearWeight& weight : args.weights) {
    QuantizedShape shape(args.in_features, weight.layout);
    products.push_back({.x = x,
                        .x_sums = x_sums,
                        .rows = args.rows,
                        .num_groups = shape.num_groups(),
                        .packed = static_cast<const std::byte*>(weight.weight),
                        .panel_bytes = shape.panel_bytes(),
                        .bias = weight.bias,
                        .y = weight.y,
                        .out_features = weight.out_features,
                        .panel_begin = 0,
                        .panel_end = num_panels(weight.out_features),
                        .is_int4 = shape.is_int4(),
                        .bias_is_f32 = args.dtype == DType::f32,
                        .y_is_f32 = args.y_dtype == DType::f32});
  }
  return products;
}

/// Panels of one task.
int64_t panel_chunk(const QuantizedProduct& product) {
  return std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, product.panel_bytes));
}

int64_t num_chunks(const QuantizedProduct& product) {
  return (product.panel_end + panel_chunk(product) - 1) / panel_chunk(product);
}

void multiply_codes(const LinearForwardArgs& args, const Stream& stream) {
  int64_t num_groups = (args.in_features + kGroup - 1) / kGroup;
  int64_t num_elements = args.rows * num_groups * kGroup;
  bool in_bf16 = multiplies_in_bf16(args);
  size_t row_bytes = static_cast<size_t>(num_elements) * (in_bf16 ? sizeof(bfloat16) : sizeof(float));
  Scratch scratch(stream, row_bytes + static_cast<size_t>(args.rows * num_groups) * sizeof(float));
  auto* sums = reinterpret_cast<float*>(scratch.data() + row_bytes);
  auto* floats = reinterpret_cast<float*>(scratch.data());
  if (in_bf16) {
    auto* rows = reinterpret_cast<bfloat16*>(scratch.data());
    group_rows<bfloat16>(args, num_groups, GroupedRows<bfloat16>{rows, sums});
  } else if (args.dtype == DType::bf16) {
    group_rows<bfloat16>(args, num_groups, GroupedRows<float>{floats, sums});
  } else {
    group_rows<float>(args, num_groups, GroupedRows<float>{floats, sums});
  }
  std::vector<QuantizedProduct> products = direct_products(args, scratch.data(), sums);
  QuantizedProductFunction multiply = product_function(in_bf16);
  int64_t tasks = 0;
  for (const QuantizedProduct& product : products) tasks += num_chunks(product);
  parallel_tasks(stream.num_threads, tasks, [&](int64_t task) {
    const QuantizedProduct* product = products.data();
    for (; task >= num_chunks(*product); ++product) task -= num_chunks(*product);
    QuantizedProduct part = *product;
    part.panel_begin = task * panel_chunk(part);
    part.panel_end = std::min(part.panel_end, part.panel_begin + panel_chunk(part));
    multiply(part);
    if (args.activation != Activation::identity) activate(part, args.activation);
  });
}

/// Products whose panels are widened when their turn comes.
template <typename Element>
class WidenedLinear {
 public:
  WidenedLinear(const LinearForwardArgs& args, const Stream& stream, PackedProductFunction<Element> multiply)
      : args_(args),
        multiply_(multiply),
        widen_(widen_function()),
        panel_elements_(panel_elements<Element>(args.in_features)),
        stream_(stream),
        panels_(stream,
                static_cast<size_t>(std::max(1, stream.num_threads) * kWidenedPanels *
                                    panel_bytes<Element>(args.in_features))) {}

  void run() {
    std::vector<PackedProduct<Element>> products;
    for (const LinearWeight& weight : args_.weights) products.push_back(product_with(weight));
    run_packed_parts<Element>(
        products, args_.activation, stream_, [&](const PackedProduct<Element>& part, size_t index, int thread) {
          multiply_part(part, args_.weights[index], thread);
        });
  }

 private:
  PackedProduct<Element> product_with(const LinearWeight& weight) const {
    return {.x = static_cast<const Element*>(args_.x),
            .x_stride = args_.in_features,
            .rows = args_.rows,
            .in_features = args_.in_features,
            .bias = static_cast<const Element*>(weight.bias),
            .y = weight.y,
            .out_features = weight.out_features,
            .panel_end = num_panels(weight.out_features),
            .y_is_f32 = args_.y_dtype == DType::f32};
  }

  void multiply_part(PackedProduct<Element> part, const LinearWeight& weight, int thread) {
    QuantizedShape shape(args_.in_features, weight.layout);
    Element* widened = reinterpret_cast<Element*>(panels_.data()) + thread * kWidenedPanels * panel_elements_;
    part.packed = widened;
    for (int64_t end = part.panel_end; part.panel_begin < end; part.panel_begin += kWidenedPanels) {
      part.panel_end = std::min(end, part.panel_begin + kWidenedPanels);
      part.packed_begin = part.panel_begin;
      for (int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
        widen_({.panel = static_cast<const std::byte*>(weight.weight) + panel * shape.panel_bytes(),
                .in_features = args_.in_features,
                .is_int4 = shape.is_int4(),
                .widened = widened + (panel - part.panel_begin) * panel_elements_,
                .widens_to_f32 = sizeof(Element) == sizeof(float)});
      }
      multiply_(part);
    }
  }

  const LinearForwardArgs& args_;
  PackedProductFunction<Element> multiply_;
  WidenPanelFunction widen_;
  int64_t panel_elements_;
  const Stream& stream_;
  Scratch panels_;  // of each thread
};

}  // namespace

void quantized_linear_forward(const LinearForwardArgs& args, const Stream& stream) {
  if (args.rows == 0) return;
  if (args.rows <= max_direct_rows(args)) return multiply_codes(args, stream);
  if (args.dtype == DType::bf16) {
    WidenedLinear<uint16_t>(args, stream, packed_product_of_bf16()).run();
  } else {
    WidenedLinear<float>(args, stream, packed_product_of_f32()).run();
  }
}

}  // namespace weft
