#include <numbers>

#include "core/random.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/elementwise_parts.h"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void fill(RandomNormalArgs args, T* y) {
  int64_t count = args.rows * args.width;
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    int64_t row = i / args.width;
    auto index =
        static_cast<uint64_t>((args.row_begin + row) * args.global_width + args.column_begin + i - row * args.width);
    float radius = sqrtf(-2 * logf(1 - args.key.uniform(2 * index)));
    float value = radius * cosf(2 * std::numbers::pi_v<float> * args.key.uniform(2 * index + 1));
    y[i] = from_float<T>(args.deviation * value + args.centre);
  }
}

}  // namespace

void random_normal(const RandomNormalArgs& args, const Stream& stream) {
  int64_t count = args.rows * args.width;
  if (count == 0) return;
  CudaDevice& device = device_of(stream);
  dispatch(args.dtype, "random_normal", [&](auto zero) {
    using T = decltype(zero);
    fill<T><<<grid_for(device, count, kThreads), kThreads, 0, device.stream()>>>(args, static_cast<T*>(args.y));
  });
  check_launch("random_normal");
}

}  // namespace weft::cuda
