// What a pass of attention by producers and consumers needs beside products: barriers in shared memory, copies of tiles
// by the tensor memory accelerator, barriers of a few groups of warps, and registers that change hands.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/barriers.cuh"
#include "kernels/cuda/common.cuh"

namespace weft::cuda::pipeline {

/// Starts the copy of a box from element (column, row, head) of a map into shared memory; its bytes arrive at
/// `barrier`. What lies outside of the map's array becomes zero.
__device__ __forceinline__ void copy_box(
    uint32_t to, const CUtensorMap* map, uint32_t barrier, int column, int row, int head) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)),
      "r"(barrier),
      "r"(column),
      "r"(row),
      "r"(head)
      : "memory");
}

/// Before a block's first use of a map that was copied into global memory.
__device__ __forceinline__ void acquire_map(const CUtensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(reinterpret_cast<uint64_t>(map))
               : "memory");
}

// A fence of both kinds of memory would cost a barrier for the whole GPU's.
/// What this thread wrote to the block's shared memory becomes known to copies and products, and what they wrote there
/// to this thread.
__device__ __forceinline__ void publish_shared_to_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/// What this thread knows of global memory becomes known to its copies, and what they wrote there to this thread.
__device__ __forceinline__ void publish_global_to_copies() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

/// Starts a copy of a multiple of 16 bytes from shared to global memory, both aligned to 16 bytes.
__device__ __forceinline__ void copy_out(void* to, uint32_t from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to)),
               "r"(from),
               "r"(bytes)
               : "memory");
}
/// The same for floats that are added to those in global memory.
__device__ __forceinline__ void add_out(float* to, uint32_t from, int bytes) {
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to)),
      "r"(from),
      "r"(bytes)
      : "memory");
}
/// Closes what was started, and waits until it has read shared memory.
__device__ __forceinline__ void wait_until_read() {
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}
/// Waits until what was closed is in global memory.
__device__ __forceinline__ void wait_until_written() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/// Waits until a number in global memory has become `turn`, by give_count of another block's thread. Built with
/// WEFT_TRAP_ON_HANG, for some seconds at most.
__device__ __forceinline__ void wait_for_count(const int* number, int turn) {
#ifdef WEFT_TRAP_ON_HANG
  int64_t begin = clock64();
#endif
  int seen = 0;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(__cvta_generic_to_global(number)) : "memory");
#ifdef WEFT_TRAP_ON_HANG
    if (clock64() - begin > int64_t{1} << 33) __trap();
#endif
  } while (seen != turn);
}
__device__ __forceinline__ void give_count(int* number, int count) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(__cvta_generic_to_global(number)), "r"(count) : "memory");
}

/// Barriers of some of the block's warps: `threads` of those that wait and those that only arrive together.
__device__ __forceinline__ void wait_in_turn(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void give_turn(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// Waits for products below this stay below what led to `sum`, which is never negative. ptxas would move them up, past
/// arithmetic that is to run beside the products; not past a store.
__device__ __forceinline__ void finish_before_waiting(float sum, uint32_t anywhere) {
  asm volatile("{ .reg .pred never; setp.lt.f32 never, %0, 0f00000000; @never st.shared.f32 [%1], %0; }" ::"f"(sum),
               "r"(anywhere)
               : "memory");
}

/// The same for weights, which have no signs.
template <int kCount>
__device__ __forceinline__ void finish_before_waiting(const float (&weights)[kCount][4], uint32_t anywhere) {
  uint32_t all = 0;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) all |= __float_as_uint(weights[j][i]);
  }
  asm volatile("{ .reg .pred never; setp.lt.s32 never, %0, 0; @never st.shared.u32 [%1], %0; }" ::"r"(all),
               "r"(anywhere)
               : "memory");
}

/// Of all warps of a group of four: registers a thread from now on.
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void leave_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

/// Which of a ring's stages is next, and the parity of its phase.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// A warp is done with what a barrier guards.
__device__ __forceinline__ void release(uint32_t barrier) {
  if (threadIdx.x % 32 == 0) arrive(barrier);
}

/// Of four lanes with words (piece 0 to 3) each, lane p gets all words of piece p, in the order of lanes.
__device__ __forceinline__ void exchange_pieces(uint32_t (&words)[4]) {
  bool is_odd = threadIdx.x % 2 != 0, is_high = threadIdx.x / 2 % 2 != 0;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    uint32_t received = __shfl_xor_sync(0xffffffffu, is_odd ? words[i] : words[i + 1], 1);
    (is_odd ? words[i] : words[i + 1]) = received;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint32_t received = __shfl_xor_sync(0xffffffffu, is_high ? words[i] : words[i + 2], 2);
    (is_high ? words[i] : words[i + 2]) = received;
  }
}

/// Writes the thread's columns of a row, its lower or higher one (r 0 or 1), multiplied by `factor`; four lanes have a
/// row. `to`: where the row begins, which has `room` elements, a multiple of 8. All lanes of a warp take part.
template <int kCount>
__device__ __forceinline__ void store_row(
    const float (&sums)[kCount][4], int r, float factor, bf16* to, int room, bool is_there) {
  int pair = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int n = 0; n < kCount; n += 4) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = pack_bf16(sums[n + i][2 * r] * factor, sums[n + i][2 * r + 1] * factor);
    exchange_pieces(words);
    int column = (n + pair) * 8;
    if (is_there && column < room) {
      *reinterpret_cast<uint4*>(to + column) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

/// Starts copying `kRows` rows from `row` on of a head, as a tile.
template <int kWidth, int kRows>
__device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap* map, uint32_t barrier, int row, int head) {
  arrive_expecting(barrier, kRows * kWidth * 2);
#pragma unroll
  for (int chunk = 0; chunk < kWidth / 64; ++chunk) {
    copy_box(to + chunk * (kRows * 128), map, barrier, chunk * 64, row, head);
  }
}

}  // namespace weft::cuda::pipeline
