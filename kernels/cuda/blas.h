// Matrix products by cuBLASLt, which is loaded when the first product asks for it, so that programs start without it.
#pragma once

#include <cstdint>
#include <memory>

#include "core/dtype.h"

namespace weft::cuda {

class CudaDevice;

/// C = op(A) · op(B) + bias, all row-major without gaps, sums in f32 (never TF32), rounded once. The three uses:
///   y[M, N]  = x[M, K] · w[N, K]ᵀ      a = x,  b = w, transpose_b;          m, n, k = M, N, K
///   dx[M, K] = dy[M, N] · w[N, K]      a = dy, b = w;                       m, n, k = M, K, N
///   dw[N, K] = dy[M, N]ᵀ · x[M, K]     a = dy, transpose_a, b = x;          m, n, k = N, K, M
struct Product {
  const void* a = nullptr;     // [m, k], or [k, m] when transpose_a
  const void* b = nullptr;     // [k, n], or [n, k] when transpose_b
  void* c = nullptr;           // [m, n]
  const void* bias = nullptr;  // [n] of c_dtype, added to every row, or null; only where bias_fits()
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  DType dtype = DType::f32;    // of a and b: f32 or bf16
  DType c_dtype = DType::f32;  // equal to dtype, or f32
  bool accumulate = false;     // c += instead of c =
};

/// Whether the product can add this bias itself: of the result's dtype and on a 16-byte boundary.
bool bias_fits(const Product& product);

/// cuBLASLt on one GPU, the one that is current at construction. One stream uses it at a time (its workspace is
/// shared by all products).
class BlasHandle {
 public:
  /// Throws Error(failure) when the library cannot be loaded.
  BlasHandle();
  ~BlasHandle();
  BlasHandle(const BlasHandle&) = delete;
  BlasHandle& operator=(const BlasHandle&) = delete;

  /// Queues the product on the device's stream. m, n and k are at least 1.
  void multiply(const Product& product, CudaDevice& device);

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace weft::cuda
