// The recurrence of RWKV-6: a block a sequence and head goes through the tokens one by one, its state in registers.
// Backward is in wkv_backward.cuh.
#include "kernels/wkv.h"

#include <algorithm>
#include <vector>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/wkv_backward.cuh"

namespace weft {
namespace cuda {
namespace {

constexpr int64_t kMaxHeadSize = 128;

/// Tokens that a block keeps in shared memory, and their outputs.
template <int width>
struct ForwardShared {
  float r[kWkvChunk][width], k[kWkvChunk][width], v[kWkvChunk][width], decay[kWkvChunk][width];
  float y[kWkvChunk][width];
  float u[width];
  float bonus[kWkvChunk];  // Σ_n r·u·k
};

/// A thread's part of a chunk of tokens, on its way from global to shared memory.
template <typename T, int width>
struct ForwardLoads {
  float r[kWkvLoads], k[kWkvLoads], v[kWkvLoads], w[kWkvLoads];

  __device__ __forceinline__ void load(const WkvParams& p, const WkvHead& head, int64_t first) {
#pragma unroll
    for (int e = 0; e < kWkvLoads; ++e) {
      r[e] = k[e] = v[e] = w[e] = 0;
      int64_t token = first + wkv_load_token<width>(e);
      if (token >= head.length || wkv_channel<width>() >= p.head_size) continue;
      int64_t at = head.at(p, token) + wkv_channel<width>();
      r[e] = to_float(static_cast<const T*>(p.r)[at]);
      k[e] = to_float(static_cast<const T*>(p.k)[at]);
      v[e] = to_float(static_cast<const T*>(p.v)[at]);
      w[e] = p.w[at];
    }
  }
  __device__ __forceinline__ void store(ForwardShared<width>& shared) const {
#pragma unroll
    for (int e = 0; e < kWkvLoads; ++e) {
      int token = wkv_load_token<width>(e), channel = wkv_channel<width>();
      shared.r[token][channel] = r[e];
      shared.k[token][channel] = k[e];
      shared.v[token][channel] = v[e];
      shared.decay[token][channel] = expf(-wkv_rate(w[e]));
    }
  }
};

/// What a thread owns of the state: of column m = thread / 4 the rows 16c + 4·(thread % 4) + j.
template <int width>
struct StateColumn {
  float values[width / 16][4];

  static __device__ __forceinline__ int column() { return static_cast<int>(threadIdx.x) / 4; }
  static __device__ __forceinline__ int row(int c) { return c * 16 + static_cast<int>(threadIdx.x) % 4 * 4; }

  /// From [N, N], null for zeros.
  __device__ __forceinline__ void load(const float* from, int size) {
#pragma unroll
    for (int c = 0; c < width / 16; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        bool exists = from != nullptr && row(c) + j < size && column() < size;
        values[c][j] = exists ? from[(row(c) + j) * size + column()] : 0.0f;
      }
    }
  }
  __device__ __forceinline__ void store(float* to, int size) const {
#pragma unroll
    for (int c = 0; c < width / 16; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (row(c) + j < size && column() < size) to[(row(c) + j) * size + column()] = values[c][j];
      }
    }
  }

  /// Adds a token; gives Σ_n r·S of the column before that, in all four threads.
  __device__ __forceinline__ float step(const float* r, const float* k, const float* decay, float v) {
    float y = 0;
#pragma unroll
    for (int c = 0; c < width / 16; ++c) {
      float4 r4 = *reinterpret_cast<const float4*>(r + row(c));
      float4 k4 = *reinterpret_cast<const float4*>(k + row(c));
      float4 a4 = *reinterpret_cast<const float4*>(decay + row(c));
      float* s = values[c];
      y += r4.x * s[0] + r4.y * s[1] + r4.z * s[2] + r4.w * s[3];
      s[0] = a4.x * s[0] + k4.x * v;
      s[1] = a4.y * s[1] + k4.y * v;
      s[2] = a4.z * s[2] + k4.z * v;
      s[3] = a4.w * s[3] + k4.w * v;
    }
    y += __shfl_xor_sync(0xffffffffu, y, 1);
    return y + __shfl_xor_sync(0xffffffffu, y, 2);
  }
};

/// Fills shared.bonus, a token a warp at a time.
template <int width>
__device__ __forceinline__ void add_up_bonus(ForwardShared<width>& shared) {
  int lane = static_cast<int>(threadIdx.x) % 32;
  for (int token = static_cast<int>(threadIdx.x) / 32; token < kWkvChunk; token += width * 4 / 32) {
    float sum = 0;
#pragma unroll
    for (int n = lane; n < width; n += 32) sum += shared.r[token][n] * shared.u[n] * shared.k[token][n];
    sum = warp_sum(sum);
    if (lane == 0) shared.bonus[token] = sum;
  }
}

/// Grid [heads, sequences], 4 · width threads.
template <typename T, int width>
__global__ void __launch_bounds__(4 * width) wkv_forward_kernel(const __grid_constant__ WkvParams p) {
  __shared__ __align__(16) ForwardShared<width> shared;
  WkvHead head(p, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.x));
  int64_t state_size = int64_t{p.head_size} * p.head_size;
  int thread = static_cast<int>(threadIdx.x), column = StateColumn<width>::column();
  if (thread < width) shared.u[thread] = wkv_bonus<T>(p, head, thread);
  StateColumn<width> state;
  const float* initial = static_cast<const float*>(head.sequence->initial_state);
  state.load(initial == nullptr ? nullptr : initial + head.head * state_size, p.head_size);
  ForwardLoads<T, width> loads;
  loads.load(p, head, 0);
  for (int64_t first = 0; first < head.length; first += kWkvChunk) {
    if (p.boundary_states != nullptr && first % kWkvBoundaryTokens == 0)
      state.store(head.boundary(p, first / kWkvBoundaryTokens), p.head_size);
    __syncthreads();  // the chunk before has been read
    loads.store(shared);
    __syncthreads();
    loads.load(p, head, first + kWkvChunk);
    add_up_bonus<width>(shared);
    __syncthreads();
    int count = static_cast<int>(min(int64_t{kWkvChunk}, head.length - first));
    for (int t = 0; t < count; ++t) {
      float v = shared.v[t][column];
      float y = state.step(shared.r[t], shared.k[t], shared.decay[t], v);
      if (thread % 4 == 0) shared.y[t][column] = y + shared.bonus[t] * v;
    }
    __syncthreads();
    wkv_store<T, width>(p, head, first, shared.y, p.y);
  }
  float* final_state = static_cast<float*>(head.sequence->final_state);
  if (final_state != nullptr) state.store(final_state + head.head * state_size, p.head_size);
}

/// A call's sequences, among the parameters or on the device.
class WkvCall {
 public:
  WkvCall(const WkvForwardArgs& args, CudaDevice& device)
      : uploaded_(args.sequences.size() <= kInlineWkvSequences
                      ? DeviceBuffer<WkvSequence>()
                      : uploaded(device, args.sequences.data(), static_cast<int64_t>(args.sequences.size()))) {
    require(args.head_size >= 1 && args.head_size <= kMaxHeadSize, "wkv", "a head_size of 1 to 128");
    require(args.sequences.size() <= 65535, "wkv", "at most 65535 sequences");
    params.r = args.r;
    params.k = args.k;
    params.v = args.v;
    params.w = static_cast<const float*>(args.w);
    params.u = args.u;
    params.y = args.y;
    params.boundary_states = static_cast<float*>(args.boundary_states);
    params.uploaded = uploaded_.data();
    params.num_sequences = static_cast<int32_t>(args.sequences.size());
    params.num_heads = static_cast<int32_t>(args.num_heads);
    params.head_size = static_cast<int32_t>(args.head_size);
    if (uploaded_.data() == nullptr) std::copy(args.sequences.begin(), args.sequences.end(), params.inlined);
  }

  WkvParams params;

 private:
  DeviceBuffer<WkvSequence> uploaded_;
};

/// Calls body.template operator()<width>() with the least width that holds a head.
template <typename Body>
void for_width(int64_t head_size, const Body& body) {
  if (head_size <= 32) return body.template operator()<32>();
  if (head_size <= 64) return body.template operator()<64>();
  body.template operator()<128>();
}

void forward(const WkvForwardArgs& args, const Stream& stream) {
  if (args.sequences.empty() || args.num_heads == 0) return;
  CudaDevice& device = device_of(stream);
  WkvCall call(args, device);
  dispatch(args.dtype, "wkv", [&](auto zero) {
    using T = decltype(zero);
    for_width(args.head_size, [&]<int width>() {
      dim3 grid(static_cast<unsigned>(args.num_heads), static_cast<unsigned>(args.sequences.size()));
      wkv_forward_kernel<T, width><<<grid, 4 * width, 0, device.stream()>>>(call.params);
    });
  });
  check_launch("wkv");
}

void recurrent(const WkvForwardArgs& args, const Stream& stream) {
  require(args.boundary_states == nullptr, "wkv recurrent", "no boundary states");
  forward(args, stream);
}

/// Sums over the sequences in their order.
__global__ void __launch_bounds__(128)
    add_sequences_kernel(const float* rows, int64_t count, int64_t width, float* sum) {
  int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= width) return;
  float total = sum[n];
  for (int64_t row = 0; row < count; ++row) total += rows[row * width + n];
  sum[n] = total;
}

template <typename T, int width>
void launch_backward(WkvBackwardParams& params, int64_t tasks, CudaDevice& device) {
  constexpr auto kBytes = static_cast<int>(sizeof(WkvBackwardShared<width>));
  require(kBytes <= device.max_shared_bytes(), "wkv backward", "more shared memory than the device has");
  check(cudaFuncSetAttribute(wkv_backward_kernel<T, width>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "wkv backward");
  int64_t places = int64_t{device.num_multiprocessors()} * (width <= 64 ? 2 : 1);
  int64_t blocks = std::min(tasks, places);
  DeviceBuffer<float> states(device, blocks * kWkvChunksOfBoundary * width * width);
  params.states = states.data();
  wkv_backward_kernel<T, width><<<static_cast<unsigned>(blocks), 4 * width, kBytes, device.stream()>>>(params);
  check_launch("wkv backward");
}

void backward(const WkvBackwardArgs& args, const Stream& stream) {
  const WkvForwardArgs& forward = args.forward;
  auto sequences = static_cast<int64_t>(forward.sequences.size());
  if (sequences == 0 || forward.num_heads == 0) return;
  require(forward.boundary_states != nullptr, "wkv backward", "the states that forward kept");
  CudaDevice& device = device_of(stream);
  WkvCall call(forward, device);
  int64_t channels = forward.num_heads * forward.head_size;
  DeviceBuffer<float> du(device, sequences * channels);
  WkvBackwardParams params{.forward = call.params,
                           .dy = args.dy,
                           .dfinal_states = static_cast<const float*>(args.dfinal_states),
                           .dr = args.dr,
                           .dk = args.dk,
                           .dv = args.dv,
                           .dw = static_cast<float*>(args.dw),
                           .du = du.data(),
                           .dinitial_states = static_cast<float*>(args.dinitial_states)};
  dispatch(forward.dtype, "wkv backward", [&](auto zero) {
    using T = decltype(zero);
    for_width(forward.head_size,
              [&]<int width>() { launch_backward<T, width>(params, sequences * forward.num_heads, device); });
  });
  if (args.du == nullptr) return;
  add_sequences_kernel<<<static_cast<unsigned>(ceil_div(channels, 128)), 128, 0, device.stream()>>>(
      du.data(), sequences, channels, static_cast<float*>(args.du));
  check_launch("wkv backward");
}

}  // namespace
}  // namespace cuda

WkvKernels cuda_wkv_kernels() {
  return {.forward = cuda::forward, .recurrent = cuda::recurrent, .backward = cuda::backward};
}

}  // namespace weft
