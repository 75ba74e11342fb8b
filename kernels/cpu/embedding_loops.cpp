#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

template <typename T>
void forward_rows(const EmbeddingForwardArgs& args, int64_t begin, int64_t end) {
  Real<T> scale = args.scale;
  for (int64_t row = begin; row < end; ++row) {
    T* y = static_cast<T*>(args.y) + row * args.width;
    int64_t index = args.ids[row] - args.row_begin;
    if (index < 0 || index >= args.rows) {
      for (int64_t i = 0; i < args.width; ++i) y[i] = T{};
      continue;
    }
    const T* source = static_cast<const T*>(args.table) + index * args.width;
#pragma omp simd
    for (int64_t i = 0; i < args.width; ++i) y[i] = round_to<T>(load(source[i]) * scale);
  }
}

template <typename T>
void backward_columns(const EmbeddingBackwardArgs& args, int64_t begin, int64_t end) {
  Real<T> scale = args.scale;
  for (int64_t row = 0; row < args.num_ids; ++row) {
    int64_t index = args.ids[row] - args.row_begin;
    if (index < 0 || index >= args.rows) continue;
    const T* dy = static_cast<const T*>(args.dy) + row * args.width;
    Real<T>* dtable = static_cast<Real<T>*>(args.dtable) + index * args.width;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) dtable[i] += load(dy[i]) * scale;
  }
}

template <typename T>
void scatter_columns(const GatherRowsArgs& args, int64_t begin, int64_t end) {
  T* x = static_cast<T*>(const_cast<void*>(args.x));
  for (int64_t row = 0; row < args.num_indices; ++row) {
    const T* source = static_cast<const T*>(args.y) + row * args.width;
    T* target = x + args.indices[row] * args.width;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) target[i] = round_to<T>(load(target[i]) + load(source[i]));
  }
}

}  // namespace

void embedding_forward(const EmbeddingForwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { forward_rows<T>(args, begin, end); });
}

void embedding_backward(const EmbeddingBackwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { backward_columns<T>(args, begin, end); });
}

void scatter_add_rows(const GatherRowsArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { scatter_columns<T>(args, begin, end); });
}

}  // namespace weft::WEFT_ISA
