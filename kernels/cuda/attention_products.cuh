// Products of bf16 tiles in shared memory on tensor cores with f32 sums, for groups of four warps that own 64 rows: by
// wgmma on compute capability 9.0a, by mma.sync elsewhere. Both leave the sums in the same lanes: sums[j][i] of a
// thread is row 16·warp + lane/4 + 8·(i/2), column 8·j + 2·(lane%4) + i%2.
//
// A tile of R rows lies in chunks of 64 columns, [chunk][R][128 bytes], from a multiple of 1024 bytes on; within a row
// the 16-byte cells are exchanged, cell c at c ^ (row % 8), which is what wgmma calls its 128-byte swizzle.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/common.cuh"

// Also by hand, to check the other way on the same GPU.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(WEFT_ATTENTION_WITHOUT_WGMMA)
#define WEFT_ATTENTION_WGMMA 1
#else
#define WEFT_ATTENTION_WGMMA 0
#endif

namespace weft::cuda::products {

/// Where 8 neighbouring columns of a row lie in a tile of `kRows` rows.
template <int kRows>
__device__ __forceinline__ uint32_t cell_offset(int row, int cell) {
  return static_cast<uint32_t>(cell / 8 * (kRows * 128) + row * 128 + ((cell % 8) ^ (row % 8)) * 16);
}

/// copy_async of 8 bytes.
__device__ __forceinline__ void copy_8_bytes(uint32_t to, const void* from, bool is_valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(is_valid ? 8 : 0) : "memory");
}
__device__ __forceinline__ void store_16_bytes(uint32_t to, uint4 cell) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(cell.x), "r"(cell.y), "r"(cell.z), "r"(cell.w)
               : "memory");
}

/// Waits for this thread's copies, so that after a barrier everyone's products may read them.
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
#if WEFT_ATTENTION_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// Sums over 16 columns a step become the left factor of a product over those columns.
template <int kColumns>
__device__ __forceinline__ void round_to_factor(const float (&sums)[kColumns / 8][4],
                                                uint32_t (&factor)[kColumns / 16][4]) {
#pragma unroll
  for (int step = 0; step < kColumns / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&from)[4] = sums[2 * step + i / 2];
      factor[step][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
  }
}

/// Keeps the compiler from moving what is done to registers across products in the background, which it knows nothing
/// of.
template <typename T, int kCount>
__device__ __forceinline__ void hold(T (&registers)[kCount][4]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        asm volatile("" : "+f"(registers[j][i])::"memory");
      } else {
        asm volatile("" : "+r"(registers[j][i])::"memory");
      }
    }
  }
}

#if WEFT_ATTENTION_WGMMA

/// Products begin after all that was done to the registers they read or add to.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// Closes a batch of products, which run in the background.
__device__ __forceinline__ void end_batch() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most `kRunning` batches run.
template <int kRunning>
__device__ __forceinline__ void wait_for_batches() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kRunning) : "memory");
}

/// A matrix in shared memory with the 128-byte swizzle: groups of 8 rows lie 1024 bytes apart; `chunk_bytes` from one
/// chunk of 64 columns to the next, for products over rows.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t chunk_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupBytes = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kGroupBytes | static_cast<uint64_t>((chunk_bytes & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((address & 0x3ffff) >> 4);
}

/// The same matrix `bytes` further on, which is within shared memory: its address does not overflow.
__device__ __forceinline__ uint64_t moved(uint64_t descriptor, uint32_t bytes) {
  return (descriptor & 0xffffffff00000000) | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

// clang-format off
#define WEFT_SUMS_4(s, j) "+f"((s)[j][0]), "+f"((s)[j][1]), "+f"((s)[j][2]), "+f"((s)[j][3])
#define WEFT_SUMS_16(s, j) WEFT_SUMS_4(s, j), WEFT_SUMS_4(s, (j) + 1), WEFT_SUMS_4(s, (j) + 2), WEFT_SUMS_4(s, (j) + 3)
#define WEFT_SUMS_32(s, j) WEFT_SUMS_16(s, j), WEFT_SUMS_16(s, (j) + 4)
#define WEFT_SUMS_64(s, j) WEFT_SUMS_32(s, j), WEFT_SUMS_32(s, (j) + 8)
#define WEFT_SUMS_128(s, j) WEFT_SUMS_64(s, j), WEFT_SUMS_64(s, (j) + 16)
#define WEFT_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WEFT_NAMES_32 WEFT_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WEFT_NAMES_64 WEFT_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
                                    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WEFT_NAMES_40 WEFT_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define WEFT_NAMES_128 WEFT_NAMES_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WEFT_WGMMA "wgmma.mma_async.sync.aligned.m64"
// clang-format on

/// sums (+)= A·Bᵀ over 16 columns of both; overwritten when not `accumulate`.
template <int kColumns>
__device__ __forceinline__ void multiply_step(float (*sums)[4], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kColumns == 32) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %18, 0; " WEFT_WGMMA "n32k16.f32.bf16.bf16 {" WEFT_NAMES_16
                 "}, %16, %17, p, 1, 1, 0, 0; }"
                 : WEFT_SUMS_16(sums, 0)
                 : "l"(a), "l"(b), "r"(accumulate));
  } else if constexpr (kColumns == 64) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; " WEFT_WGMMA "n64k16.f32.bf16.bf16 {" WEFT_NAMES_32
                 "}, %32, %33, p, 1, 1, 0, 0; }"
                 : WEFT_SUMS_32(sums, 0)
                 : "l"(a), "l"(b), "r"(accumulate));
  } else if constexpr (kColumns == 80) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %42, 0; " WEFT_WGMMA "n80k16.f32.bf16.bf16 {" WEFT_NAMES_40
                 "}, %40, %41, p, 1, 1, 0, 0; }"
                 : WEFT_SUMS_32(sums, 0), WEFT_SUMS_4(sums, 8), WEFT_SUMS_4(sums, 9)
                 : "l"(a), "l"(b), "r"(accumulate));
  } else {
    static_assert(kColumns == 128);
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; " WEFT_WGMMA "n128k16.f32.bf16.bf16 {" WEFT_NAMES_64
                 "}, %64, %65, p, 1, 1, 0, 0; }"
                 : WEFT_SUMS_64(sums, 0)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
}

/// sums += W·B over 16 rows of B, W in registers.
template <int kColumns>
__device__ __forceinline__ void multiply_step(float (*sums)[4], const uint32_t (&w)[4], uint64_t b) {
  if constexpr (kColumns == 64) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0; " WEFT_WGMMA "n64k16.f32.bf16.bf16 {" WEFT_NAMES_32
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1; }"
                 : WEFT_SUMS_32(sums, 0)
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(b), "r"(1));
  } else if constexpr (kColumns == 256) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %133, 0; " WEFT_WGMMA "n256k16.f32.bf16.bf16 {" WEFT_NAMES_128
                 "}, {%128, %129, %130, %131}, %132, p, 1, 1, 1; }"
                 : WEFT_SUMS_128(sums, 0)
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(b), "r"(1));
  } else {
    static_assert(kColumns == 128);
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %69, 0; " WEFT_WGMMA "n128k16.f32.bf16.bf16 {" WEFT_NAMES_64
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1; }"
                 : WEFT_SUMS_64(sums, 0)
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(b), "r"(1));
  }
}

/// sums (+)= Aᵀ·B over 16 rows of both, 64 columns of A and kColumns of B.
template <int kColumns>
__device__ __forceinline__ void multiply_columns_step(float (*sums)[4], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kColumns == 32) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %18, 0; " WEFT_WGMMA "n32k16.f32.bf16.bf16 {" WEFT_NAMES_16
                 "}, %16, %17, p, 1, 1, 1, 1; }"
                 : WEFT_SUMS_16(sums, 0)
                 : "l"(a), "l"(b), "r"(accumulate));
  } else {
    static_assert(kColumns == 64);
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; " WEFT_WGMMA "n64k16.f32.bf16.bf16 {" WEFT_NAMES_32
                 "}, %32, %33, p, 1, 1, 1, 1; }"
                 : WEFT_SUMS_32(sums, 0)
                 : "l"(a), "l"(b), "r"(accumulate));
  }
}

/// sums = A·Bᵀ, a batch: 64 rows from `a` on, of a tile of kARows; B a tile of kRows rows; both kDims wide.
template <int kDims, int kARows, int kRows>
__device__ __forceinline__ void multiply_rows(float (&sums)[kRows / 8][4], uint32_t a, uint32_t b) {
  uint64_t first_a = descriptor(a, 16), first_b = descriptor(b, 16);
#pragma unroll
  for (int step = 0; step < kDims / 16; ++step) {
    uint32_t within = step % 4 * 32;
    multiply_step<kRows>(sums,
                         moved(first_a, step / 4 * (kARows * 128) + within),
                         moved(first_b, step / 4 * (kRows * 128) + within),
                         step > 0);
  }
  end_batch();
}

/// sums += W·B, a batch: B has kRows rows, and kColumns columns from the chunk at `b` on. kAtOnce: most
/// columns of an instruction.
template <int kColumns, int kRows, int kAtOnce = 128>
__device__ __forceinline__ void multiply_factor(float (&sums)[kColumns / 8][4],
                                                const uint32_t (&w)[kRows / 16][4],
                                                uint32_t b) {
  constexpr int kPart = kColumns < kAtOnce ? kColumns : kAtOnce;
  uint64_t first = descriptor(b, kRows * 128);
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
#pragma unroll
    for (int part = 0; part < kColumns / kPart; ++part) {
      uint32_t further = part * (kPart / 64) * (kRows * 128) + step * (16 * 128);
      multiply_step<kPart>(sums + part * (kPart / 8), w[step], moved(first, further));
    }
  }
  end_batch();
}

/// sums = Aᵀ·B, a batch: 64 columns from the chunk at `a` on and kColumns from `b` on, which is where a chunk or its
/// second half begins; chunks of kRows rows.
template <int kRows, int kColumns>
__device__ __forceinline__ void multiply_columns(float (&sums)[kColumns / 8][4], uint32_t a, uint32_t b) {
  uint64_t first_a = descriptor(a, kRows * 128), first_b = descriptor(b, kRows * 128);
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
    multiply_columns_step<kColumns>(
        sums, moved(first_a, step * (16 * 128)), moved(first_b, step * (16 * 128)), step > 0);
  }
  end_batch();
}

#undef WEFT_SUMS_4
#undef WEFT_SUMS_16
#undef WEFT_SUMS_32
#undef WEFT_SUMS_64
#undef WEFT_SUMS_128
#undef WEFT_NAMES_16
#undef WEFT_NAMES_32
#undef WEFT_NAMES_40
#undef WEFT_NAMES_64
#undef WEFT_NAMES_128
#undef WEFT_WGMMA

#else  // mma.sync

__device__ __forceinline__ void begin_products() {}
template <int kRunning>
__device__ __forceinline__ void wait_for_batches() {}

template <int kDims, int kARows, int kRows>
__device__ __forceinline__ void multiply_rows(float (&sums)[kRows / 8][4], uint32_t a, uint32_t b) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int j = 0; j < kRows / 8; ++j) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0;
#pragma unroll
  for (int step = 0; step < kDims / 16; ++step) {
    uint32_t left[4];
    load_matrices(left, a + cell_offset<kARows>(warp * 16 + lane % 16, 2 * step + lane / 16));
#pragma unroll
    for (int j = 0; j < kRows / 8; j += 2) {
      uint32_t right[4];
      load_matrices(right, b + cell_offset<kRows>(j * 8 + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
      mma_bf16(sums[j], left, right[0], right[1]);
      mma_bf16(sums[j + 1], left, right[2], right[3]);
    }
  }
}

template <int kColumns, int kRows, int kAtOnce = 128>
__device__ __forceinline__ void multiply_factor(float (&sums)[kColumns / 8][4],
                                                const uint32_t (&w)[kRows / 16][4],
                                                uint32_t b) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 2) {
      uint32_t right[4];
      load_matrices_transposed(right, b + cell_offset<kRows>(step * 16 + lane % 16, j + lane / 16));
      mma_bf16(sums[j], w[step], right[0], right[1]);
      mma_bf16(sums[j + 1], w[step], right[2], right[3]);
    }
  }
}

template <int kRows, int kColumns>
__device__ __forceinline__ void multiply_columns(float (&sums)[kColumns / 8][4], uint32_t a, uint32_t b) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  int first_cell = static_cast<int>(b % 128 / 16);
  b -= b % 128;
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0;
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
    uint32_t left[4];
    int left_row = step * 16 + lane / 16 * 8 + lane % 8;
    load_matrices_transposed(left, a + cell_offset<kRows>(left_row, warp * 2 + lane / 8 % 2));
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 2) {
      uint32_t right[4];
      load_matrices_transposed(right, b + cell_offset<kRows>(step * 16 + lane % 16, first_cell + j + lane / 16));
      mma_bf16(sums[j], left, right[0], right[1]);
      mma_bf16(sums[j + 1], left, right[2], right[3]);
    }
  }
}

#endif

}  // namespace weft::cuda::products
