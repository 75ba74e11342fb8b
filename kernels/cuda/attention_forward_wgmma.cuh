// What a forward pass by producers and consumers needs beside products: barriers in shared memory, copies of tiles by
// the tensor memory accelerator, barriers of a few groups of warps, and registers that change hands.
#pragma once

#include <cuda.h>

#include "kernels/cuda/attention_tiles.cuh"

namespace weft::cuda::pipeline {

/// A barrier whose phase ends after `arrivals` and the bytes that were announced.
__device__ __forceinline__ void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Makes new barriers known to copies; threads of the block know of them after __syncthreads.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and lets the phase also wait for bytes of copies.
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits for the end of the phase of this parity. The phase before a barrier's first counts as one of parity 1. Built
/// with WEFT_TRAP_ON_HANG, a wait of more than 2 to 4 seconds (of 2^32 cycles, counted in whole ones) ends the kernel
/// with an error.
__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
#ifdef WEFT_TRAP_ON_HANG
  asm volatile(
      "{\n"
      ".reg .pred is_over;\n"
      ".reg .u32 begin, now;\n"
      "mov.u32 begin, %%clock_hi;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 is_over, [%0], %1;\n"
      "@is_over bra over;\n"
      "mov.u32 now, %%clock_hi;\n"
      "sub.u32 now, now, begin;\n"
      "setp.ge.u32 is_over, now, 2;\n"
      "@is_over trap;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
#else
  asm volatile(
      "{\n"
      ".reg .pred is_over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 is_over, [%0], %1;\n"
      "@is_over bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

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

/// Of all warps of a group of four: registers a thread from now on.
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void leave_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace weft::cuda::pipeline
