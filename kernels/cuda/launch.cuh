// Launches that overlap: the blocks of a kernel may start while the kernel before it on the stream still runs, so that
// a chain of short kernels, as in decoding, does not pay for each launch and for each kernel's slow first and last
// microsecond (programmatic dependent launch, compute capability 9.0 and up; elsewhere these are plain launches).
//
// A kernel launched by launch() starts once every block of the kernel before it has called let_next_start() or ended.
// What holds in every such kernel:
//   - All threads that touch global memory call wait_for_previous() first. It returns when the kernel before has ended
//     and its writes are visible. That kernel waited for the one before it, so everything earlier has ended as well.
//   - This goes for reads of inputs, and for writes just as much: the allocator reuses memory in the order of the
//     stream, so that an output or a scratch buffer may be what an unfinished kernel still reads.
//   - Before the wait there are only: reading parameters, computing where to work, shared memory of its own, and
//     prefetches into L2 (prefetch_to_l2, prefetch_range_to_l2). A prefetch is no read: L2 is where all writes meet, so
//     that even data that an unfinished kernel writes afterwards is found up to date. Hence weights are prefetched and
//     not loaded before the wait, and nobody has to know which kernel wrote them, nor how long ago.
//   - Within a step that runs as a graph (step_graph.h) nothing writes weights: there they may also be read before the
//     wait. What a step's kernels are told by Varying or by an upload was copied before any of them began: it may be
//     read before the wait everywhere.
//   - Inputs are not read by loads of constant memory (ld.global.nc: __ldg, const __restrict__): those promise that
//     nobody writes the data while the kernel runs, and the compiler may move them to before the wait.
//   - At least one thread waits in each block that does any work; a block without work may just end.
//   - let_next_start() stands at the top. The next kernel's blocks start only when all blocks of this one have started,
//     hence never in place of one of them: they take what is left of a multiprocessor, or the place of a block that has
//     ended, and wait there without using it. What they prefetch was to be read from memory next anyway.
//   - Copies, fills, plain launches and waits for events between two kernels are complete barriers, as always.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/cuda/varying.cuh"

namespace weft::cuda {

/// False makes all launches plain ones.
inline constexpr bool kOverlapLaunches = true;

__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kOverlapLaunches) asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kOverlapLaunches) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// The same pointer, through which loads by inline assembly that is not volatile stay behind wait_for_previous().
template <typename T>
__device__ __forceinline__ T* pointer_after_wait(T* pointer) {
  asm volatile("" : "+l"(pointer)::"memory");
  return pointer;
}

/// Brings the line of `pointer` into L2.
__device__ __forceinline__ void prefetch_to_l2(const void* pointer) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(pointer)) : "memory");
#endif
}

/// Brings `bytes`, a multiple of 16 above 0, from a multiple of 16 on into L2.
__device__ __forceinline__ void prefetch_range_to_l2(const void* begin, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(begin)), "r"(bytes)
               : "memory");
#endif
}

namespace launch_parts {

template <typename T>
void note_parameter(StepGraphs& graphs, T value) {
  __builtin_clear_padding(&value);
  graphs.note_value(value);
}
template <typename T>
void note_parameter(StepGraphs& graphs, const Varying<T>& value) {
  graphs.note_value(value.elsewhere);
}

/// In a step that runs as a graph: tells what is launched. True if the graph does it.
template <typename... Parameters>
bool is_left_to_graph(StepGraphs& graphs,
                      void (*kernel)(Parameters...),
                      const cudaLaunchConfig_t& config,
                      unsigned cluster_blocks,
                      const std::decay_t<Parameters>&... values) {
  if (!graphs.is_recording() && !graphs.is_replaying()) return false;
  graphs.note_launch();
  graphs.note_value(kernel);
  const unsigned shape[] = {config.gridDim.x,
                            config.gridDim.y,
                            config.gridDim.z,
                            config.blockDim.x,
                            config.blockDim.y,
                            config.blockDim.z,
                            static_cast<unsigned>(config.dynamicSmemBytes),
                            cluster_blocks};
  graphs.note(shape, sizeof shape);
  (note_parameter(graphs, values), ...);
  return graphs.is_replaying();
}

}  // namespace launch_parts

/// Like launch(), in clusters of `cluster_blocks` along x (1: none). Errors are for check_launch.
template <typename... Parameters, typename... Values>
void launch_clusters(void (*kernel)(Parameters...),
                     unsigned cluster_blocks,
                     dim3 grid,
                     dim3 block,
                     size_t shared_bytes,
                     CudaDevice& device,
                     Values&&... values) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = device.stream();
  config.attrs = attributes;
  if (kOverlapLaunches && device.architecture() >= 90) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster_blocks > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = cluster_blocks;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
  }
  if (launch_parts::is_left_to_graph(device.graphs(), kernel, config, cluster_blocks, values...)) return;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, std::forward<Values>(values)...));
}

/// Launches a kernel that keeps the rules above.
template <typename... Parameters, typename... Values>
void launch(
    void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, CudaDevice& device, Values&&... values) {
  launch_clusters(kernel, 1, grid, block, shared_bytes, device, std::forward<Values>(values)...);
}

}  // namespace weft::cuda
