// Barriers in shared memory that copies by the tensor memory accelerator arrive at; compute capability 9.0 and up.
#pragma once

#include <cstdint>

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

/// Starts the copy of `bytes`, a multiple of 16 above 0 that was announced to `barrier`, between multiples of 16.
__device__ __forceinline__ void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(__cvta_generic_to_global(from)),
               "r"(bytes),
               "r"(barrier)
               : "memory");
}

}  // namespace weft::cuda::pipeline
