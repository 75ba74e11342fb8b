// cuBLAS as a program calls it that has no library around it: the yardstick of the larger products.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace weft {

/// A bf16 product of row-major matrices, c [m, n] = a · b; `a` is [m, k], or [k, m] if transposed, b likewise.
struct BareProduct {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  DType c_dtype = DType::bf16;  // or f32
};

/// cublasGemmEx from libcublas, loaded when made, on the default stream's device and on `stream`.
class BareCublas {
 public:
  explicit BareCublas(void* stream);
  ~BareCublas();
  BareCublas(const BareCublas&) = delete;
  BareCublas& operator=(const BareCublas&) = delete;

  /// False where the library is missing.
  bool is_there() const { return handle_ != nullptr; }
  void multiply(const BareProduct& product);

 private:
  void* library_ = nullptr;
  void* handle_ = nullptr;
};

}  // namespace weft
