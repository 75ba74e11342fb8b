// The instructions behind attention's products on tensor cores: bf16 tiles of 16 x 8 x 16 with f32 sums, the loads of
// their operands from shared memory, and copies from global to shared memory that run beside arithmetic.
//
// Fragments. A lane of a warp has group = lane / 4 and pair = lane % 4. Of a product C[16, 8] += A[16, 16] · B[16, 8]
// it holds
//   A, 4 registers of 2 bf16:  a[0] (row group,     columns 2·pair, +1)     a[2] the same row, columns + 8
//                              a[1] (row group + 8, columns 2·pair, +1)     a[3] the same row, columns + 8
//   B, 2 registers of 2 bf16:  b0 (rows 2·pair, +1, column group)           b1 rows + 8
//   C, 4 f32:                  c[0], c[1] (row group, columns 2·pair, +1)   c[2], c[3] row group + 8
// The low half of a register is the element of the lower index. So two neighbouring C tiles (columns 0-7 and 8-15),
// each pair of numbers rounded into a register, are an A operand: a = {left[0,1], left[2,3], right[0,1], right[2,3]}.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace weft::cuda {

/// c += a · b.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two numbers as a register of a fragment; `low` is the element of the lower index.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&pair);
}

/// A pointer into shared memory as the instructions below take it.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Four matrices of 8 x 8 bf16. Lane l gives the address of row l % 8 (16 bytes, aligned) of matrix l / 8; of matrix i
/// it receives in out[i] the elements (row group, columns 2·pair and + 1).
///
/// Operands from a tile that lies row by row ("half" is 8 columns of 16 bytes):
///   A[16 rows, 16 columns] stored [row][column]:   row l % 16, half l / 16                out = a
///   B of 16 columns (two tiles of 8), stored [column of B][row of B] (keys of q · k^T):
///                                                  row l % 8 + l / 16 · 8, half l / 8 % 2   out = {b0, b1 of the first
///                                                  tile, b0, b1 of the second}
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

/// The same, each matrix transposed: in out[i] the elements (rows 2·pair and + 1, column group).
///
///   B of 16 columns (two tiles of 8), stored [row of B][column of B] (values of p · v):
///                                                  row l % 16, half l / 16                out = {b0, b1 of the first
///                                                  tile, b0, b1 of the second}
///   A[16, 16] stored [column of A][row of A]:      row l % 8 + l / 16 · 8, half l / 8 % 2   out = a
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

/// Stores four matrices of 8 x 8 bf16 in the same manner, on compute capability 9.0 and up: lane l gives the address of
/// row l % 8 of matrix l / 8, and has in words[i] the elements (row group, columns 2·pair and + 1) of matrix i.
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(address),
               "r"(words[0]),
               "r"(words[1]),
               "r"(words[2]),
               "r"(words[3])
               : "memory");
}

/// Plain stores to shared memory.
__device__ __forceinline__ void store_shared(uint32_t to, uint16_t bits) {
  asm volatile("st.shared.u16 [%0], %1;\n" ::"r"(to), "h"(bits) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t to, uint32_t bits) {
  asm volatile("st.shared.u32 [%0], %1;\n" ::"r"(to), "r"(bits) : "memory");
}

/// Starts a copy of 16 bytes, both sides aligned; of `is_valid` false nothing is read and zeros are written, yet
/// `from` has to be an address that may be read.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool is_valid) {
  int bytes = is_valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/// Ends a group of this thread's copies.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/// Waits until at most `pending` of this thread's groups are on their way. Other threads see the data after a barrier.
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

/// Bytes from the start of a tile in shared memory with `chunks` pieces of 16 bytes a row (a multiple of 4) to piece
/// `chunk` of `row`. Pieces of a row change places by its number, so that eight consecutive rows of one column lie in
/// different banks. Depends on row % 8 only, beyond the row's start.
template <int chunks>
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t chunk) {
  static_assert(chunks % 4 == 0);
  uint32_t moved = chunks % 8 == 0 ? chunk ^ (row & 7) : chunk ^ ((row >> 1) & 3);
  return (row * chunks + moved) * 16;
}

/// swizzled(row, 2 · step + half) of `start` = swizzled(row, half), half 0 or 1, and a constant `step`: for loops over
/// a row's columns in steps of 16 elements. `start` may count from address 0 if the tile begins at a multiple of 128.
template <int chunks>
__device__ __forceinline__ uint32_t swizzled_step(uint32_t start, int step) {
  // The bits of a step within the exchanged pieces are flipped; rows begin at multiples of those pieces' bytes.
  constexpr int kSteps = chunks % 8 == 0 ? 4 : 2;
  return (start ^ static_cast<uint32_t>(step % kSteps * 32)) + static_cast<uint32_t>(step / kSteps * kSteps * 32);
}

/// 2^x to about 2 units in the last place; 0 for −infinity.
__device__ __forceinline__ float exp2_approximate(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace weft::cuda
