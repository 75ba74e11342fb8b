// Rotation fused with the write of new keys and values into their cache, for decoding, where each launch counts.
#include <algorithm>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope_pairs.cuh"
#include "kernels/cuda/rope_parts.h"

namespace weft::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRotationsPerLaunch = 48;
constexpr int64_t kMostItems = (int64_t{1} << 31) - 1;

/// Some rows of a sequence. The caches are where the first row of head 0 goes.
struct Rotation {
  void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const float* cos_sin = nullptr;
  void* keys = nullptr;
  void* values = nullptr;
  int64_t head_stride = 0;
  int64_t rows = 0;
};

struct Rotations {
  Rotation list[kRotationsPerLaunch];
};

struct Heads {
  int num_heads, num_kv_heads, head_dim;
  int items;  // of a head
  int all() const { return num_heads + 2 * num_kv_heads; }
};

/// Blocks in y take one rotation each. An item is N pairs of a query or key head, or as many elements of a value.
template <typename T, int N, bool kInterleaved>
__global__ void __launch_bounds__(kThreads)
    rotate_and_write(const __grid_constant__ Varying<Rotations> rotations, const __grid_constant__ Heads heads) {
  let_next_start();
  const Rotation one = rotations.get().list[blockIdx.y];
  wait_for_previous();
  int num_heads = heads.num_heads, num_kv_heads = heads.num_kv_heads, head_dim = heads.head_dim;
  int row_heads = num_heads + 2 * num_kv_heads;
  auto total = static_cast<unsigned>(one.rows) * row_heads * heads.items;
  for (unsigned at = blockIdx.x * kThreads + threadIdx.x; at < total; at += gridDim.x * kThreads) {
    int item = static_cast<int>(at % heads.items), place = static_cast<int>(at / heads.items);
    int row = place / row_heads, head = place % row_heads;
    const float* angles = one.cos_sin + static_cast<int64_t>(row) * head_dim;
    if (head < num_heads) {
      T* own = static_cast<T*>(one.q) + (static_cast<int64_t>(row) * num_heads + head) * head_dim;
      turn_item<T, N, kInterleaved>(own, own, angles, item, head_dim / 2, 1.0f);
      continue;
    }
    bool is_key = head < num_heads + num_kv_heads;
    int kv_head = head - num_heads - (is_key ? 0 : num_kv_heads);
    int64_t source = (static_cast<int64_t>(row) * num_kv_heads + kv_head) * head_dim;
    int64_t target = kv_head * one.head_stride + static_cast<int64_t>(row) * head_dim;
    if (is_key) {
      const T* key = static_cast<const T*>(one.k) + source;
      turn_item<T, N, kInterleaved>(static_cast<T*>(one.keys) + target, key, angles, item, head_dim / 2, 1.0f);
      continue;
    }
    auto* from = reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(one.v) + source);
    auto* to = reinterpret_cast<Pack<T, N>*>(static_cast<T*>(one.values) + target);
    to[2 * item] = from[2 * item];
    to[2 * item + 1] = from[2 * item + 1];
  }
}

template <typename T>
Rotation rows_of(const RotatedCacheWrite& write, const RotateIntoCacheArgs& args, int64_t row, int64_t rows) {
  int64_t q_width = args.num_heads * args.head_dim, kv_width = args.num_kv_heads * args.head_dim;
  int64_t place = (write.past + row) * args.head_dim;
  return {.q = static_cast<T*>(write.q) + row * q_width,
          .k = static_cast<const T*>(write.k) + row * kv_width,
          .v = static_cast<const T*>(write.v) + row * kv_width,
          .cos_sin = static_cast<const float*>(write.cos_sin) + row * args.head_dim,
          .keys = static_cast<T*>(write.keys) + place,
          .values = static_cast<T*>(write.values) + place,
          .head_stride = args.head_stride,
          .rows = rows};
}

template <typename T, int N, bool kInterleaved>
void launch_all(const RotateIntoCacheArgs& args, CudaDevice& device) {
  Heads heads{.num_heads = static_cast<int>(args.num_heads),
              .num_kv_heads = static_cast<int>(args.num_kv_heads),
              .head_dim = static_cast<int>(args.head_dim),
              .items = static_cast<int>(args.head_dim / 2 / N)};
  int64_t row_items = static_cast<int64_t>(heads.all()) * heads.items;
  int64_t most_rows = kMostItems / row_items;
  Rotations batch = {};
  int count = 0;
  int64_t longest = 0;
  auto flush = [&] {
    if (count == 0) return;
    dim3 grid(grid_for(device, longest * row_items, kThreads), static_cast<unsigned>(count));
    launch(rotate_and_write<T, N, kInterleaved>, grid, kThreads, 0, device, varying(device, batch), heads);
    check_launch("rotate_into_cache");
    batch = {};
    count = 0;
    longest = 0;
  };
  for (const RotatedCacheWrite& write : args.sequences) {
    for (int64_t row = 0; row < write.count; row += most_rows) {
      if (count == kRotationsPerLaunch) flush();
      int64_t rows = std::min(most_rows, write.count - row);
      batch.list[count++] = rows_of<T>(write, args, row, rows);
      longest = std::max(longest, rows);
    }
  }
  flush();
}

/// Whether packs of N elements (and of N angles) are aligned wherever a head begins.
template <typename T, int N>
bool packs_fit(const RotateIntoCacheArgs& args) {
  constexpr size_t kBytes = sizeof(T) * N;
  bool fit = args.head_dim / 2 % N == 0 && static_cast<size_t>(args.head_dim) * sizeof(T) % 16 == 0 &&
             args.head_stride % (16 / static_cast<int64_t>(sizeof(T))) == 0;
  for (const RotatedCacheWrite& write : args.sequences) {
    fit = fit && is_aligned(write.q) && is_aligned(write.k) && is_aligned(write.v, kBytes) && is_aligned(write.keys) &&
          is_aligned(write.values, kBytes) && is_aligned(write.cos_sin, sizeof(float) * N);
  }
  return fit;
}

template <typename T, int N, bool kInterleaved>
void launch_wide(const RotateIntoCacheArgs& args, CudaDevice& device) {
  if (packs_fit<T, N>(args)) return launch_all<T, N, kInterleaved>(args, device);
  launch_all<T, 1, kInterleaved>(args, device);
}

}  // namespace

void rotate_into_cache(const RotateIntoCacheArgs& args, const Stream& stream) {
  require(args.head_dim % 2 == 0, "rotate_into_cache", "an even head_dim");
  if (args.num_heads + args.num_kv_heads == 0 || args.head_dim == 0) return;
  dispatch(args.dtype, "rotate_into_cache", [&](auto zero) {
    using T = decltype(zero);
    if (args.interleaved) return launch_wide<T, kPackSize<T> / 2, true>(args, device_of(stream));
    launch_wide<T, kPackSize<T>, false>(args, device_of(stream));
  });
}

}  // namespace weft::cuda
