// Decoding: one launch where the stretches of keys of a row are few enough for a cluster of blocks, else two.
#include <algorithm>
#include <bit>
#include <type_traits>
#include <vector>

#include "kernels/cuda/attention_split_lanes.cuh"
#include "kernels/cuda/attention_split_mma.cuh"

namespace weft::cuda {
namespace {

constexpr int64_t kMaxSplits = 256;
constexpr int64_t kMaxWidth = 256;
// Keys that one block has read before a cluster's would have met.
constexpr int64_t kMaxBlockKeys = 256;
// Keys of a block of a cluster that are read before a second launch would have been over.
constexpr int64_t kMaxClusterKeys = 512;
constexpr int kJoinThreads = 512;

/// Joins the stretches of a row; of grid [rows_per_block, kv heads and chunks of rows, sequences].
template <typename T, int width>
__global__ void __launch_bounds__(kJoinThreads) split_join_kernel(const __grid_constant__ SplitParams p) {
  constexpr int kLanes = width / 4, kGroups = kJoinThreads / kLanes, kStride = part_stride(width);
  __shared__ float weights[kMaxSplits], reduction[33];
  __shared__ float4 sums[kGroups][kLanes];
  let_next_start();
  wait_for_previous();
  SplitPlace place = split_place(p, 0);
  int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (row >= place.rows) return;
  int64_t first = (int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * p.num_splits;
  const float* parts = p.parts + (first * p.rows_per_block + row) * kStride;
  int64_t stride = int64_t{p.rows_per_block} * kStride;
  bool has_part = thread < place.splits;
  JoinedPart joined{make_float4(0, 0, 0, 0), 0, 0};
  float maximum = has_part ? parts[thread * stride + width] : kMaskedScore;
  joined.maximum = block_max(maximum, reduction);
  float weight = has_part ? exp2f(maximum - joined.maximum) : 0.0f;
  if (has_part) weights[thread] = weight;
  joined.sum = block_sum(has_part ? weight * parts[thread * stride + width + 1] : 0.0f, reduction);
  int lane = thread % kLanes, group = thread / kLanes;
  auto add = [&](float factor, const float4& values) {
    joined.values.x += factor * values.x;
    joined.values.y += factor * values.y;
    joined.values.z += factor * values.z;
    joined.values.w += factor * values.w;
  };
#pragma unroll 4
  for (int part = group; part < place.splits; part += kGroups)
    add(weights[part], *reinterpret_cast<const float4*>(parts + part * stride + lane * 4));
  sums[group][lane] = joined.values;
  __syncthreads();
  if (group > 0) return;
  for (int other = 1; other < kGroups; ++other) add(1, sums[other][lane]);
  write_row<T>(p, place, row, lane * 4, joined);
}

struct SplitShape {
  int64_t sequences = 0, heads = 0;  // of the grid: key/value heads times chunks of rows
  int64_t keys = 0, longest = 0;     // of all sequences; of one
};

/// How many stretches of keys, by how many warps each.
struct SplitPlan {
  int64_t splits = 1, warps = 4;
};

/// A block for every place on the device while its stretch is long enough to be worth one.
SplitPlan plan_splits(const SplitShape& shape, const CudaDevice& device) {
  int64_t places = int64_t{device.num_multiprocessors()} * 2;
  int64_t stretch = std::max<int64_t>(64, ceil_div(shape.keys * shape.heads, places));
  if (shape.longest <= kMaxBlockKeys) return {.splits = 1, .warps = 8};
  int64_t wanted = std::max<int64_t>(1, ceil_div(shape.longest, stretch));
  if (wanted <= kMaxClusterSplits)
    return {.splits = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(wanted)))};
  bool has_clusters = device.architecture() >= 90;
  if (has_clusters && shape.longest <= kMaxClusterSplits * kMaxClusterKeys)
    return {.splits = kMaxClusterSplits, .warps = 8};
  // Sequences of very different length: most of the blocks of the short ones have nothing to do.
  int64_t limit = std::max<int64_t>(kMaxClusterSplits, 4 * places / (shape.sequences * shape.heads));
  return {.splits = std::min({wanted, limit, kMaxSplits})};
}

SplitSequence convert(const AttentionForwardArgs& args, const AttentionSequence& sequence) {
  require(sequence.query_count <= kMaxSplitQueries && sequence.key_count < (int64_t{1} << 30),
          "attention",
          "at most 8 queries and 2^30 keys a sequence to decode");
  SplitSequence converted{.keys = sequence.keys,
                          .values = sequence.values,
                          .query_begin = sequence.query_begin,
                          .key_token_stride = sequence.key_token_stride,
                          .key_head_stride = sequence.key_head_stride,
                          .bias_origin = sequence.bias_origin,
                          .query_count = static_cast<int32_t>(sequence.query_count),
                          .position = static_cast<int32_t>(sequence.key_count - sequence.query_count),
                          .is_explicit = sequence.visible_keys != nullptr ? 1 : 0,
                          .ends = {}};
  for (int64_t i = 0; i < sequence.query_count; ++i) {
    int64_t end = sequence.key_count;
    if (args.mask.causal) end = std::min(end, sequence.key_count - sequence.query_count + i + 1);
    if (sequence.visible_keys != nullptr) end = sequence.visible_keys[i];
    converted.ends[i] = static_cast<int32_t>(std::max<int64_t>(end, 0));
  }
  return converted;
}

/// Keys that one of the queries sees.
int64_t keys_of(const SplitParams& p, const SplitSequence& sequence) {
  int64_t end = sequence.ends[sequence.query_count - 1];
  if (p.window == 0 || sequence.is_explicit != 0) return end;
  return end - std::clamp<int64_t>(int64_t{sequence.position} - p.window + 1, 0, end);
}

/// Whether every row of q, keys, values and out begins at a multiple of `bytes` and consists of whole ones.
bool rows_fit(const AttentionForwardArgs& args, const std::vector<SplitSequence>& sequences, size_t bytes) {
  size_t element = dtype_bytes(args.dtype);
  auto fits = [&](int64_t elements) { return static_cast<size_t>(elements) * element % bytes == 0; };
  bool all = fits(args.head_dim) && is_aligned(args.q, bytes) && is_aligned(args.out, bytes);
  for (const SplitSequence& sequence : sequences) {
    all = all && is_aligned(sequence.keys, bytes) && is_aligned(sequence.values, bytes) &&
          fits(sequence.key_token_stride) && fits(sequence.key_head_stride);
  }
  return all;
}

/// A call on its way: parameters, and the memory that must last until its kernels are launched.
struct SplitCall {
  SplitParams params;
  SplitShape shape;
  std::vector<SplitSequence> sequences;
  int64_t max_rows = 0;  // of a key/value head

  explicit SplitCall(const AttentionForwardArgs& args);
};

SplitCall::SplitCall(const AttentionForwardArgs& args) {
  params.q = args.q;
  params.out = args.out;
  params.log_sum_exp = static_cast<float*>(args.log_sum_exp);
  params.bias = static_cast<const float*>(args.bias.values);
  params.bias_stride = args.bias.stride;
  params.num_heads = static_cast<int32_t>(args.num_heads);
  params.group = static_cast<int32_t>(args.num_heads / args.num_kv_heads);
  params.head_dim = static_cast<int32_t>(args.head_dim);
  params.window = static_cast<int32_t>(std::min<int64_t>(args.mask.window, int64_t{1} << 30));
  params.has_cap = args.mask.soft_cap > 0;
  params.factor = (params.has_cap ? args.mask.soft_cap : args.mask.scale) * kSplitLog2E;
  params.inner = params.has_cap ? args.mask.scale / args.mask.soft_cap : 0;
  for (const AttentionSequence& sequence : args.sequences) {
    if (sequence.query_count <= 0) continue;
    sequences.push_back(convert(args, sequence));
    int64_t keys = keys_of(params, sequences.back());
    shape.keys += keys;
    shape.longest = std::max(shape.longest, keys);
    max_rows = std::max(max_rows, sequence.query_count * params.group);
  }
  shape.sequences = static_cast<int64_t>(sequences.size());
  shape.heads = args.num_kv_heads;
  params.is_wide = rows_fit(args, sequences, 4 * dtype_bytes(args.dtype));
}

using SplitKernel = void (*)(SplitParams);

void launch_split(
    SplitKernel kernel, const SplitParams& params, dim3 grid, int64_t warps, int width, CudaDevice& device) {
  int64_t bytes = (warps + 1) * params.rows_per_block * part_stride(width) * 4;
  bytes = std::max<int64_t>(bytes, int64_t{2} * width * 16);  // the queries of split_mma_kernel's wide heads
  if (bytes > 48 * 1024) {
    require(bytes <= device.max_shared_bytes(), "attention", "more shared memory than the device has");
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
          "attention");
  }
  unsigned cluster_blocks = params.join == SplitJoin::cluster ? grid.x : 1;
  auto threads = static_cast<unsigned>(warps * 32);
  launch_clusters(kernel, cluster_blocks, grid, threads, static_cast<size_t>(bytes), device, params);
  check_launch("attention");
}

template <typename T, int width>
void launch_join(const SplitParams& params, dim3 grid, CudaDevice& device) {
  grid.x = static_cast<unsigned>(params.rows_per_block);
  launch(split_join_kernel<T, width>, grid, kJoinThreads, 0, device, params);
  check_launch("attention");
}

/// `kernel` is of dtype T and head_dims up to `width`, and takes `rows_per_block` rows at most.
template <typename T, int width>
void run(SplitCall& call, SplitKernel kernel, int64_t rows_per_block, CudaDevice& device) {
  SplitParams& params = call.params;
  params.rows_per_block = static_cast<int32_t>(std::min(rows_per_block, call.max_rows));
  params.row_chunks = static_cast<int32_t>(ceil_div(call.max_rows, params.rows_per_block));
  call.shape.heads *= params.row_chunks;
  int64_t heads = call.shape.heads, sequences = call.shape.sequences;
  require(heads <= 65535 && sequences <= 65535, "attention", "at most 65535 heads and sequences to decode");
  SplitPlan plan = plan_splits(call.shape, device);
  params.num_splits = static_cast<int32_t>(plan.splits);
  params.key_step = static_cast<int32_t>(plan.warps * kMmaKeys);
  bool fits_cluster = device.architecture() >= 90 && plan.splits <= kMaxClusterSplits;
  if (plan.splits > 1) params.join = fits_cluster ? SplitJoin::cluster : SplitJoin::kernel;
  dim3 grid(static_cast<unsigned>(plan.splits), static_cast<unsigned>(heads), static_cast<unsigned>(sequences));
  if (params.join != SplitJoin::kernel) return launch_split(kernel, params, grid, plan.warps, width, device);
  int64_t rows = plan.splits * heads * sequences * params.rows_per_block;
  DeviceBuffer<float> parts(device, rows * part_stride(width));
  params.parts = parts.data();
  launch_split(kernel, params, grid, plan.warps, width, device);
  launch_join<T, width>(params, grid, device);
}

template <typename T, int lanes>
void run_lanes(SplitCall& call, CudaDevice& device) {
  constexpr int kWidth = 8 * lanes;
  if (call.max_rows == 1) return run<T, kWidth>(call, split_lanes_kernel<T, lanes, 1>, 1, device);
  if (call.max_rows <= 4) return run<T, kWidth>(call, split_lanes_kernel<T, lanes, 4>, 4, device);
  run<T, kWidth>(call, split_lanes_kernel<T, lanes, 8>, 8, device);
}

template <int width>
void run_mma(SplitCall& call, CudaDevice& device) {
  run<bf16, width>(call, split_mma_kernel<width>, kMmaRows, device);
}

template <typename T>
void run_of_dtype(const AttentionForwardArgs& args, SplitCall& call, CudaDevice& device) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (rows_fit(args, call.sequences, 16)) {
      if (args.head_dim <= 64) return run_mma<64>(call, device);
      if (args.head_dim <= 128) return run_mma<128>(call, device);
      return run_mma<256>(call, device);
    }
  }
  if (args.head_dim <= 64) return run_lanes<T, 8>(call, device);
  if (args.head_dim <= 128) return run_lanes<T, 16>(call, device);
  run_lanes<T, 32>(call, device);
}

}  // namespace

void attention_forward_split(const AttentionForwardArgs& args, CudaDevice& device) {
  require(args.head_dim >= 1 && args.head_dim <= kMaxWidth, "attention", "a head_dim of 1 to 256");
  SplitCall call(args);
  if (call.sequences.empty()) return;
  auto count = static_cast<int64_t>(call.sequences.size());
  // Lengths are what changes from one step to the next.
  const void* varying = device.graphs().varying(call.sequences.data(), call.sequences.size() * sizeof(SplitSequence));
  if (varying != nullptr) {
    call.params.uploaded = static_cast<const SplitSequence*>(varying);
    dispatch(args.dtype, "attention", [&](auto zero) { run_of_dtype<decltype(zero)>(args, call, device); });
    return;
  }
  bool is_inlined = count <= kInlineSplitSequences;
  DeviceBuffer<SplitSequence> sequences =
      is_inlined ? DeviceBuffer<SplitSequence>() : uploaded(device, call.sequences.data(), count);
  call.params.uploaded = sequences.data();
  if (is_inlined) std::copy(call.sequences.begin(), call.sequences.end(), call.params.inlined);
  dispatch(args.dtype, "attention", [&](auto zero) { run_of_dtype<decltype(zero)>(args, call, device); });
}

}  // namespace weft::cuda
