#include "kernels/cuda/attention_cache.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWritesPerLaunch = 64;
constexpr int64_t kMostUnits = (int64_t{1} << 31) - 1;

/// A CacheWriteArgs in units of which a head's row is a whole number.
struct Write {
  const void* source = nullptr;
  void* cache = nullptr;  // where token `past` of head 0 goes
  int64_t head_stride = 0;
  int32_t num_units = 0;  // of source: rows · heads · row_units
  int32_t row_units = 0, num_heads = 0;
};

struct Writes {
  Write writes[kWritesPerLaunch];
};

/// Blocks in y take one write each.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) write_kernel(const __grid_constant__ Varying<Writes> writes) {
  let_next_start();
  wait_for_previous();
  const Write& write = writes.get().writes[blockIdx.y];
  const Unit* source = static_cast<const Unit*>(write.source);
  Unit* cache = static_cast<Unit*>(write.cache);
  int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < write.num_units; at += step) {
    int index = static_cast<int>(at);
    int head_row = index / write.row_units;
    int row = head_row / write.num_heads, head = head_row % write.num_heads;
    cache[head * write.head_stride + static_cast<int64_t>(row) * write.row_units + index % write.row_units] =
        source[index];
  }
}

template <typename Unit>
void launch_writes(const Writes& writes, int count, CudaDevice& device) {
  int64_t most = 0;
  for (int i = 0; i < count; ++i) most = std::max<int64_t>(most, writes.writes[i].num_units);
  dim3 grid(grid_for(device, most, kThreads), static_cast<unsigned>(count));
  launch(write_kernel<Unit>, grid, kThreads, 0, device, varying(device, writes));
  check_launch("cache_write");
}

/// Appends a write, in pieces whose units can be counted by 32 bits; calls flush() whenever there is no room.
template <typename Unit, typename Flush>
void append(const CacheWriteArgs& args, Writes& writes, int& count, const Flush& flush) {
  auto element_bytes = static_cast<int64_t>(dtype_bytes(args.dtype));
  auto unit_bytes = static_cast<int64_t>(sizeof(Unit));
  int64_t row_units = args.head_dim * element_bytes / unit_bytes;
  int64_t source_row_units = row_units * args.num_kv_heads;
  int64_t most_rows = kMostUnits / source_row_units;
  for (int64_t row = 0; row < args.count; row += most_rows) {
    if (count == kWritesPerLaunch) flush();
    int64_t rows = std::min(most_rows, args.count - row);
    writes.writes[count++] = {
        .source = static_cast<const Unit*>(args.source) + row * source_row_units,
        .cache = static_cast<Unit*>(args.cache) + (args.past + row) * row_units,
        .head_stride = args.head_stride * element_bytes / unit_bytes,
        .num_units = static_cast<int32_t>(rows * source_row_units),
        .row_units = static_cast<int32_t>(row_units),
        .num_heads = static_cast<int32_t>(args.num_kv_heads),
    };
  }
}

template <typename Unit>
void write_all(std::span<const CacheWriteArgs> writes, CudaDevice& device) {
  Writes batch;
  int count = 0;
  auto flush = [&] {
    if (count > 0) launch_writes<Unit>(batch, count, device);
    count = 0;
  };
  for (const CacheWriteArgs& args : writes) {
    if (args.count > 0 && args.num_kv_heads > 0 && args.head_dim > 0) append<Unit>(args, batch, count, flush);
  }
  flush();
}

bool fits(const CacheWriteArgs& args, int64_t bytes) {
  auto element_bytes = static_cast<int64_t>(dtype_bytes(args.dtype));
  return args.head_dim * element_bytes % bytes == 0 && args.head_stride * element_bytes % bytes == 0 &&
         is_aligned(args.source, static_cast<size_t>(bytes)) && is_aligned(args.cache, static_cast<size_t>(bytes));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) expand_kernel(const T* __restrict__ table,
                                                          const int32_t* __restrict__ rows,
                                                          float* __restrict__ bias,
                                                          int64_t count,
                                                          int64_t num_heads,
                                                          int64_t stride) {
  int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < num_heads * stride; i += step) {
    int64_t head = i / stride, distance = i % stride;
    bias[i] = distance < count ? to_float(table[rows[distance] * num_heads + head]) : 0.0f;
  }
}

/// Distances `order[begin, end)` read row `row` of the table.
struct RowDistances {
  int32_t row = 0, begin = 0, end = 0;
};

/// A warp sums what the distances of one row and head found, always in the same order.
__global__ void __launch_bounds__(kThreads) reduce_kernel(const float* __restrict__ dbias,
                                                          const int32_t* __restrict__ order,
                                                          const RowDistances* __restrict__ rows,
                                                          float* __restrict__ dtable,
                                                          int64_t num_sums,
                                                          int64_t num_heads,
                                                          int64_t stride) {
  int64_t index = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (index >= num_sums) return;
  RowDistances distances = rows[index / num_heads];
  int64_t head = index % num_heads;
  int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0;
  for (int i = distances.begin + lane; i < distances.end; i += 32) sum += dbias[head * stride + order[i]];
  sum = warp_sum(sum);
  if (lane == 0) dtable[distances.row * num_heads + head] += sum;
}

}  // namespace

void cache_write(std::span<const CacheWriteArgs> writes, CudaDevice& device) {
  bool is_wide = true;
  for (const CacheWriteArgs& args : writes) {
    if (args.dtype != DType::f32 && args.dtype != DType::bf16) fail_dtype("cache_write", args.dtype);
    is_wide = is_wide && fits(args, sizeof(uint4));
  }
  if (is_wide) return write_all<uint4>(writes, device);
  write_all<uint16_t>(writes, device);
}

void bias_expand(const BiasExpandArgs& args, CudaDevice& device) {
  int64_t total = args.num_heads * args.stride;
  if (total == 0) return;
  auto launch = [&](const int32_t* rows_on_device) {
    dispatch(args.dtype, "bias_expand", [&](auto zero) {
      using T = decltype(zero);
      expand_kernel<T>
          <<<grid_for(device, total, kThreads), kThreads, 0, device.stream()>>>(static_cast<const T*>(args.table),
                                                                                rows_on_device,
                                                                                static_cast<float*>(args.bias),
                                                                                args.count,
                                                                                args.num_heads,
                                                                                args.stride);
    });
    check_launch("bias_expand");
  };
  if (args.count == 0) return launch(nullptr);
  launch(uploaded(device, args.rows, args.count).data());
}

void bias_reduce(const BiasReduceArgs& args, CudaDevice& device) {
  if (args.dtype != DType::f32 && args.dtype != DType::bf16) fail_dtype("bias_reduce", args.dtype);
  if (args.count == 0 || args.num_heads == 0) return;
  require(args.count <= kMostUnits, "bias_reduce", "fewer than 2^31 distances");
  std::vector<int32_t> order(static_cast<size_t>(args.count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return args.rows[a] < args.rows[b]; });
  std::vector<RowDistances> rows;
  for (int32_t i = 0; i < static_cast<int32_t>(args.count); ++i) {
    int32_t row = args.rows[order[static_cast<size_t>(i)]];
    if (rows.empty() || rows.back().row != row) rows.push_back({row, i, i});
    rows.back().end = i + 1;
  }
  auto order_on_device = uploaded(device, order.data(), args.count);
  auto rows_on_device = uploaded(device, rows.data(), static_cast<int64_t>(rows.size()));
  int64_t num_sums = static_cast<int64_t>(rows.size()) * args.num_heads;
  int64_t blocks = ceil_div(num_sums, kThreads / 32);
  require(blocks <= kMostUnits, "bias_reduce", "fewer rows and heads");
  reduce_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, device.stream()>>>(static_cast<const float*>(args.dbias),
                                                                                 order_on_device.data(),
                                                                                 rows_on_device.data(),
                                                                                 static_cast<float*>(args.dtable),
                                                                                 num_sums,
                                                                                 args.num_heads,
                                                                                 args.stride);
  check_launch("bias_reduce");
}

}  // namespace weft::cuda
