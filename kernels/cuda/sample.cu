// The choice of tokens as a fixed chain of launches, so that it can be part of a graph: changes of logits; the largest
// logit; three histograms (only for top_k and top_p); sums of chunks; the draw.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sample_search.cuh"

namespace weft::cuda {
namespace {

/// Rows that are worked on at a time, which bounds the scratch memory.
constexpr int64_t kMaxRows = 64;
constexpr int64_t kMaxChunks = 128, kMinChunks = 8, kLeastChunk = 1024;
/// Blocks that fill a GPU.
constexpr int64_t kManyBlocks = 1024;
static_assert(kMaxChunks <= kSampleThreads);

/// A block a row.
__global__ void __launch_bounds__(kSampleThreads) change_logits(SampleTask task) {
  let_next_start();
  wait_for_previous();
  int64_t row = blockIdx.x;
  SampleChoice choice = task.choices[row];
  float* logits = task.logits + row * task.width;
  int32_t late_id = task.late_ids != nullptr ? task.late_ids[row] : -1;
  bool has_late_id = false;
  auto penalised = [](float logit, float factor) { return logit > 0 ? logit / factor : logit * factor; };
  for (int i = threadIdx.x; i < choice.num_changes; i += kSampleThreads) {
    LogitChange change = task.changes[choice.first_change + i];
    bool is_late = change.id == late_id;
    has_late_id |= is_late;
    float logit = penalised(logits[change.id], is_late ? change.late_factor : change.factor);
    if (change.ban != LogitBan::none) {
      bool has_share = change.ban == LogitBan::with_share && logit > -INFINITY;
      task.banned[choice.first_change + i] = has_share ? logit : -INFINITY;
      logit = -INFINITY;
    }
    logits[change.id] = logit;
  }
  bool is_found = __syncthreads_or(has_late_id) != 0;
  if (threadIdx.x != 0 || is_found || late_id < 0 || late_id >= task.width) return;
  logits[late_id] = penalised(logits[late_id], choice.late_factor);
}

/// Calls body(column, logit) for the block's chunk of a row; logits are asked for several at a time.
template <typename Body>
__device__ __forceinline__ void for_chunk(const SampleTask& task, const Body& body) {
  constexpr int kAtOnce = 4;
  const float* logits = task.logits + blockIdx.y * task.width;
  int64_t begin = blockIdx.x * task.chunk;
  int64_t end = begin + task.chunk < task.width ? begin + task.chunk : task.width;
  for (int64_t first = begin + threadIdx.x; first < end; first += kAtOnce * kSampleThreads) {
    float values[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      int64_t column = first + k * kSampleThreads;
      values[k] = column < end ? logits[column] : -INFINITY;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      int64_t column = first + k * kSampleThreads;
      if (column < end) body(column, values[k]);
    }
  }
}

/// A chunk of a row a block, as in the next two. Also clears the histograms.
__global__ void __launch_bounds__(kSampleThreads) best_of_chunks(SampleTask task) {
  __shared__ Best of_warps[kSampleThreads / 32];
  let_next_start();
  wait_for_previous();
  int64_t row = blockIdx.y;
  if (has_search(task.choices[row])) {
    constexpr int kCount = kLevels * kBins;
    for (int i = blockIdx.x * kSampleThreads + threadIdx.x; i < kCount; i += gridDim.x * kSampleThreads) {
      task.counts[row * kCount + i] = 0;
      task.sums[row * kCount + i] = 0;
    }
  }
  Best best{0, -1};
  for_chunk(task, [&](int64_t column, float logit) {
    if (!isnan(logit)) best = better(best, {logit, static_cast<int32_t>(column)});
  });
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of_warp(threadIdx.x < kSampleThreads / 32 ? of_warps[threadIdx.x] : Best{0, -1});
  if (threadIdx.x == 0) task.best[row * task.num_chunks + blockIdx.x] = best;
}

/// Sums of 64 bits in halves: shared memory adds 32 bits by one instruction.
struct Histogram {
  uint32_t counts[kBins], lows[kBins], highs[kBins];

  __device__ __forceinline__ void clear() {
    for (int bin = threadIdx.x; bin < kBins; bin += kSampleThreads) counts[bin] = lows[bin] = highs[bin] = 0;
  }
  __device__ __forceinline__ void add_sum(uint32_t bin, Sum weight) {
    auto low = static_cast<uint32_t>(weight);
    uint32_t before = atomicAdd(&lows[bin], low);
    auto high = static_cast<uint32_t>(weight >> 32) + (before + low < low ? 1u : 0u);
    if (high != 0) atomicAdd(&highs[bin], high);
  }
  __device__ __forceinline__ void add_to(uint32_t* all_counts, Sum* all_sums) const {
    for (int bin = threadIdx.x; bin < kBins; bin += kSampleThreads) {
      Sum sum = Sum{highs[bin]} << 32 | lows[bin];
      if (counts[bin] != 0) atomicAdd(all_counts + bin, counts[bin]);
      if (sum != 0) atomicAdd(all_sums + bin, sum);
    }
  }
};

template <int kLevel>
__global__ void __launch_bounds__(kSampleThreads) add_to_histogram(SampleTask task) {
  __shared__ Histogram histogram;
  __shared__ SearchScratch scratch;
  let_next_start();
  histogram.clear();
  wait_for_previous();
  int64_t row = blockIdx.y;
  SampleChoice choice = task.choices[row];
  Best best = best_of_row(task, row);
  if (!has_search(choice) || !is_usable(best)) return;
  CutSearch search = start_of_search();
  if constexpr (kLevel > 0) {
    search = search_level(task, choice, best.value, row, kLevel - 1, scratch);
    if (blockIdx.x == 0 && threadIdx.x == 0) task.searches[row * kLevels + kLevel - 1] = search;
    if (search.is_open == 0) return;
  }
  __syncthreads();
  constexpr int kBitsBelow = kWeightBits - (kLevel + 1) * kLevelBits;
  for_chunk(task, [&](int64_t, float logit) {
    uint32_t bits = weight_bits(logit, best.value, choice.scale);
    if (bits == 0 || bits >> (kBitsBelow + kLevelBits) != search.prefix) return;
    uint32_t bin = bits >> kBitsBelow & (kBins - 1);
    if (choice.top_k > 0) atomicAdd(&histogram.counts[bin], 1u);
    if (choice.top_p < 1) histogram.add_sum(bin, whole_weight(bits, task.unit));
  });
  __syncthreads();
  int64_t first = (row * kLevels + kLevel) * kBins;
  histogram.add_to(task.counts + first, task.sums + first);
}

__global__ void __launch_bounds__(kSampleThreads) sum_chunks(SampleTask task) {
  __shared__ SearchScratch scratch;
  __shared__ Sum shared_sums[33];
  __shared__ uint32_t shared_counts[33];
  let_next_start();
  wait_for_previous();
  int64_t row = blockIdx.y;
  SampleChoice choice = task.choices[row];
  Best best = best_of_row(task, row);
  if (choice.is_greedy != 0 || !is_usable(best)) return;
  CutSearch search = start_of_search();
  if (has_search(choice)) search = search_level(task, choice, best.value, row, kLevels - 1, scratch);
  Cut cut = cut_of(choice, search, task.unit);
  Sum sum = 0;
  uint32_t equals = 0;
  for_chunk(task, [&](int64_t, float logit) {
    uint32_t bits = weight_bits(logit, best.value, choice.scale);
    if (bits > cut.bits) sum += whole_weight(bits, task.unit);
    if (bits == cut.bits) ++equals;
  });
  sum = block_sum(sum, shared_sums);
  equals = block_sum(equals, shared_counts);
  if (threadIdx.x != 0) return;
  task.chunk_sums[row * task.num_chunks + blockIdx.x] = sum;
  task.chunk_equals[row * task.num_chunks + blockIdx.x] = equals;
  if (blockIdx.x == 0) task.cuts[row] = cut;
}

/// A piece of a row, one a thread and in the order of ids, within the kept weights.
struct Piece {
  Sum before, kept, total;  // kept weights: of the pieces before, of this one, of all
  uint32_t equals_left;     // of what is as likely as the cut, how many are still to be kept
};

__device__ __forceinline__ Piece
piece_of(Sum sum, uint32_t equals, uint32_t num_equal, Sum weight_of_cut, Sum* scratch) {
  Sum equals_before = block_prefix(equals, scratch).before;
  Piece piece;
  piece.equals_left = equals_before < num_equal ? num_equal - static_cast<uint32_t>(equals_before) : 0;
  piece.kept = sum + (equals < piece.equals_left ? equals : piece.equals_left) * weight_of_cut;
  Prefix prefix = block_prefix(piece.kept, scratch);
  piece.before = prefix.before;
  piece.total = prefix.total;
  return piece;
}

/// What lies before the token, in the chunk that has it.
struct Place {
  Sum target;
  uint32_t equals_left;
  int32_t chunk;
};

/// The chunk that has the token, the same in all threads.
__device__ __forceinline__ Place
find_chunk(const SampleTask& task, const SampleChoice& choice, Cut cut, Sum* scratch, Place* shared) {
  int64_t record = blockIdx.x * static_cast<int64_t>(task.num_chunks) + threadIdx.x;
  bool has_record = static_cast<int>(threadIdx.x) < task.num_chunks;
  Sum sum = has_record ? task.chunk_sums[record] : 0;
  uint32_t equals = has_record ? task.chunk_equals[record] : 0;
  Piece piece = piece_of(sum, equals, cut.num_equal, whole_weight(cut.bits, task.unit), scratch);
  auto target = static_cast<Sum>(sample_uniform(choice) * static_cast<double>(piece.total));
  if (target >= piece.total) target = piece.total - 1;
  if (piece.before <= target && target - piece.before < piece.kept) {
    *shared = {target - piece.before, piece.equals_left, static_cast<int32_t>(threadIdx.x)};
  }
  __syncthreads();
  return *shared;
}

/// Within its chunk: a run of columns a thread. The thread that has the token writes it.
__device__ __forceinline__ void find_token(
    const SampleTask& task, const SampleChoice& choice, float best, Cut cut, const Place& place, Sum* scratch) {
  int64_t run = (task.chunk + kSampleThreads - 1) / kSampleThreads;
  int64_t end = min((place.chunk + 1) * task.chunk, task.width);
  int64_t first = place.chunk * task.chunk + threadIdx.x * run;
  end = min(first + run, end);
  const float* logits = task.logits + blockIdx.x * task.width;
  Sum sum = 0;
  uint32_t equals = 0;
  for (int64_t column = first; column < end; ++column) {
    uint32_t bits = weight_bits(logits[column], best, choice.scale);
    if (bits > cut.bits) sum += whole_weight(bits, task.unit);
    if (bits == cut.bits) ++equals;
  }
  Piece piece = piece_of(sum, equals, place.equals_left, whole_weight(cut.bits, task.unit), scratch);
  if (place.target < piece.before || place.target - piece.before >= piece.kept) return;
  Sum target = place.target - piece.before;
  uint32_t equals_left = piece.equals_left;
  for (int64_t column = first; column < end; ++column) {
    uint32_t bits = weight_bits(logits[column], best, choice.scale);
    if (bits < cut.bits || (bits == cut.bits && equals_left == 0)) continue;
    if (bits == cut.bits) --equals_left;
    Sum weight = whole_weight(bits, task.unit);
    if (target < weight) {
      task.ids[blockIdx.x] = static_cast<int32_t>(column);
      return;
    }
    target -= weight;
  }
}

/// A block a row.
__global__ void __launch_bounds__(kSampleThreads) draw_tokens(SampleTask task) {
  __shared__ Sum scratch[kSampleThreads / 32];
  __shared__ Place place;
  let_next_start();
  wait_for_previous();
  int64_t row = blockIdx.x;
  SampleChoice choice = task.choices[row];
  Best best = best_of_row(task, row);
  if (choice.is_greedy != 0 || !is_usable(best)) {
    if (threadIdx.x == 0) task.ids[row] = is_usable(best) ? best.column : -1;
    return;
  }
  Cut cut = task.cuts[row];
  Place found = find_chunk(task, choice, cut, scratch, &place);
  find_token(task, choice, best.value, cut, found, scratch);
}

/// A small host array on the device, as long as this lives: where a graph finds it, or uploaded.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(CudaDevice& device, const T* values, int64_t count)
      : place_(place_in_graph(device, values, count)),
        upload_(place_ == nullptr && count > 0 ? uploaded(device, values, count) : DeviceBuffer<T>()) {}
  const T* data() const { return place_ != nullptr ? place_ : upload_.data(); }

 private:
  static const T* place_in_graph(CudaDevice& device, const T* values, int64_t count) {
    if (count == 0) return nullptr;
    return static_cast<const T*>(device.graphs().varying(values, static_cast<size_t>(count) * sizeof(T)));
  }

  const T* place_;
  DeviceBuffer<T> upload_;
};

/// Weights are whole numbers of 1/unit; the sum of all fits into 62 bits.
float unit_for(int64_t width) {
  int bits = std::bit_width(static_cast<uint64_t>(width - 1));
  return std::ldexp(1.0f, std::min(50, 62 - bits));
}

struct Launches {
  bool has_changes = false, has_search = false, has_draw = false;
};

Launches launches_for(const SampleArgs& args) {
  Launches launches;
  for (int64_t row = 0; row < args.rows; ++row) {
    const SampleChoice& choice = args.choices[row];
    launches.has_changes |= choice.num_changes > 0 || (args.late_ids != nullptr && choice.late_factor != 1);
    if (choice.is_greedy != 0) continue;
    launches.has_search |= choice.top_k > 0 || choice.top_p < 1;
    launches.has_draw = true;
  }
  return launches;
}

void launch_all(const SampleTask& task, const Launches& launches, int64_t num_rows, CudaDevice& device) {
  auto rows = static_cast<unsigned>(num_rows);
  dim3 grid(static_cast<unsigned>(task.num_chunks), rows);
  if (launches.has_changes) launch(change_logits, rows, kSampleThreads, 0, device, task);
  launch(best_of_chunks, grid, kSampleThreads, 0, device, task);
  if (launches.has_search) {
    launch(add_to_histogram<0>, grid, kSampleThreads, 0, device, task);
    launch(add_to_histogram<1>, grid, kSampleThreads, 0, device, task);
    launch(add_to_histogram<2>, grid, kSampleThreads, 0, device, task);
  }
  if (launches.has_draw) launch(sum_chunks, grid, kSampleThreads, 0, device, task);
  launch(draw_tokens, rows, kSampleThreads, 0, device, task);
  check_launch("sample");
}

void sample(const SampleArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.width == 0) return;
  CudaDevice& device = device_of(stream);
  DeviceArray<SampleChoice> choices(device, args.choices, args.rows);
  DeviceArray<LogitChange> changes(device, args.changes, args.num_changes);
  int64_t at_once = std::min(args.rows, kMaxRows);
  int64_t max_chunks = std::clamp(kManyBlocks / at_once, kMinChunks, kMaxChunks);
  int64_t chunk = ceil_div(std::max(ceil_div(args.width, max_chunks), kLeastChunk), kSampleThreads) * kSampleThreads;
  int64_t num_chunks = ceil_div(args.width, chunk);
  DeviceBuffer<Best> best(device, at_once * num_chunks);
  DeviceBuffer<float> banned(device, std::max<int64_t>(args.num_changes, 1));
  DeviceBuffer<uint32_t> counts(device, at_once * kLevels * kBins);
  DeviceBuffer<Sum> sums(device, at_once * kLevels * kBins);
  DeviceBuffer<CutSearch> searches(device, at_once * kLevels);
  DeviceBuffer<Cut> cuts(device, at_once);
  DeviceBuffer<Sum> chunk_sums(device, at_once * num_chunks);
  DeviceBuffer<uint32_t> chunk_equals(device, at_once * num_chunks);
  Launches launches = launches_for(args);
  for (int64_t row = 0; row < args.rows; row += at_once) {
    SampleTask task{.logits = args.logits + row * args.width,
                    .ids = args.ids + row,
                    .late_ids = args.late_ids == nullptr ? nullptr : args.late_ids + row,
                    .choices = choices.data() + row,
                    .changes = changes.data(),
                    .best = best.data(),
                    .banned = banned.data(),
                    .counts = counts.data(),
                    .sums = sums.data(),
                    .searches = searches.data(),
                    .cuts = cuts.data(),
                    .chunk_sums = chunk_sums.data(),
                    .chunk_equals = chunk_equals.data(),
                    .width = args.width,
                    .chunk = chunk,
                    .num_chunks = static_cast<int32_t>(num_chunks),
                    .unit = unit_for(args.width)};
    launch_all(task, launches, std::min(at_once, args.rows - row), device);
  }
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

SamplingKernels cuda_sampling_kernels() {
  return {.sample = std::getenv("WEFT_SAMPLE_ON_HOST") != nullptr ? nullptr : cuda::sample};
}

}  // namespace weft
