// Backward of attention (Dao, "FlashAttention-2", 2023, algorithm 2) in two passes, for dk and dv and for dq: weights
// are computed from log_sum_exp twice, but every sum stays in one block and has one order.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cuda/attention_backward.cuh"

namespace weft::cuda {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr int kRowThreads = 16;
constexpr int kThreads = 256;

/// statistics[head, token] = (log_sum_exp in units of log2, sum of dout·out), 16 threads a row.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads) row_statistics(const T* __restrict__ out,
                                                           const T* __restrict__ dout,
                                                           const float* __restrict__ log_sum_exp,
                                                           float2* __restrict__ statistics,
                                                           int64_t tokens,
                                                           int num_heads,
                                                           int head_dim) {
  int64_t row = blockIdx.x * static_cast<int64_t>(kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  int lane = threadIdx.x % kRowThreads;
  bool is_row = row < tokens * num_heads;
  float sum = 0;
  if (is_row) {
    for (int d = lane * kPack; d < head_dim; d += kRowThreads * kPack) {
      auto a = *reinterpret_cast<const Pack<T, kPack>*>(out + row * head_dim + d);
      auto b = *reinterpret_cast<const Pack<T, kPack>*>(dout + row * head_dim + d);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum += to_float(a.values[i]) * to_float(b.values[i]);
    }
  }
#pragma unroll
  for (int distance = kRowThreads / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (is_row && lane == 0)
    statistics[row % num_heads * tokens + row / num_heads] = make_float2(log_sum_exp[row] * kLog2E, sum);
}

template <typename T>
void launch_row_statistics(const AttentionBackwardArgs& args,
                           const BackwardParams& params,
                           float2* statistics,
                           CudaDevice& device) {
  int64_t rows = params.tokens * params.num_heads;
  if (rows == 0) return;
  auto blocks = static_cast<unsigned>(ceil_div(rows, kThreads / kRowThreads));
  auto launch = [&](auto kernel) {
    kernel<<<blocks, kThreads, 0, device.stream()>>>(static_cast<const T*>(args.out),
                                                     static_cast<const T*>(args.dout),
                                                     static_cast<const float*>(args.log_sum_exp),
                                                     statistics,
                                                     params.tokens,
                                                     params.num_heads,
                                                     params.head_dim);
  };
  if (params.is_aligned) {
    launch(row_statistics<T, kPackSize<T>>);
  } else {
    launch(row_statistics<T, 1>);
  }
  check_launch("attention_backward: row_statistics");
}

/// Sequences and tiles as the device wants them, built on the host.
class Plan {
 public:
  Plan(const AttentionBackwardArgs& args, BackwardTileSizes sizes) : args_(args) {
    int64_t key_begin = 0;
    for (const AttentionSequence& sequence : args.sequences) {
      add_sequence(sequence, key_begin);
      add_key_tiles(sequence, sizes.keys);
      add_query_tiles(sequence, sizes.queries);
      key_begin += sequence.key_count;
      tokens_ = std::max(tokens_, sequence.query_begin + sequence.query_count);
    }
    put_dearest_first(key_tiles_);
    put_dearest_first(query_tiles_);
  }

  int64_t tokens() const { return tokens_; }

  /// Everything in one copy; says in `params` and the tiles where it lies. The buffer may be freed after the launches.
  DeviceBuffer<std::byte> upload(CudaDevice& device,
                                 BackwardParams& params,
                                 BackwardTiles& keys,
                                 BackwardTiles& queries) const {
    std::vector<std::byte> bytes;
    size_t key_tiles = append(bytes, key_tiles_);
    size_t query_tiles = append(bytes, query_tiles_);
    size_t sequences = append(bytes, sequences_);
    size_t visible_keys = append(bytes, visible_keys_);
    DeviceBuffer<std::byte> buffer = uploaded(device, bytes.data(), static_cast<int64_t>(bytes.size()));
    keys = {reinterpret_cast<const BackwardTile*>(buffer.data() + key_tiles), static_cast<int64_t>(key_tiles_.size())};
    queries = {reinterpret_cast<const BackwardTile*>(buffer.data() + query_tiles),
               static_cast<int64_t>(query_tiles_.size())};
    params.sequences = reinterpret_cast<const BackwardSequence*>(buffer.data() + sequences);
    params.visible_keys = reinterpret_cast<const int32_t*>(buffer.data() + visible_keys);
    return buffer;
  }

 private:
  void add_sequence(const AttentionSequence& sequence, int64_t key_begin) {
    require(sequence.query_begin + sequence.query_count < kMaxTokens && key_begin + sequence.key_count < kMaxTokens,
            "attention_backward",
            "fewer than 2^30 tokens");
    BackwardSequence& added = sequences_.emplace_back();
    added.query_begin = static_cast<int>(sequence.query_begin);
    added.key_begin = static_cast<int>(key_begin);
    added.query_count = static_cast<int>(sequence.query_count);
    added.key_count = static_cast<int>(sequence.key_count);
    added.bias_origin = static_cast<int>(sequence.bias_origin);
    if (sequence.visible_keys == nullptr) return;
    added.visible_begin = static_cast<int>(visible_keys_.size());
    visible_keys_.insert(visible_keys_.end(), sequence.visible_keys, sequence.visible_keys + sequence.query_count);
  }

  int64_t seen_begin(const AttentionSequence& sequence, int64_t query) const {
    if (sequence.visible_keys != nullptr || args_.mask.window <= 0) return 0;
    int64_t position = sequence.key_count - sequence.query_count + query;
    return std::max<int64_t>(0, position - args_.mask.window + 1);
  }

  int64_t seen_end(const AttentionSequence& sequence, int64_t query) const {
    if (sequence.visible_keys != nullptr) return sequence.visible_keys[query];
    if (!args_.mask.causal) return sequence.key_count;
    return std::max<int64_t>(0, sequence.key_count - sequence.query_count + query + 1);
  }

  /// The first query for which `holds`, which then holds for all behind it.
  template <typename Condition>
  static int64_t first_query(const AttentionSequence& sequence, const Condition& holds) {
    int64_t low = 0, high = sequence.query_count;
    while (low < high) {
      int64_t middle = low + (high - low) / 2;
      if (holds(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  void add_key_tiles(const AttentionSequence& sequence, int size) {
    for (int64_t key = 0; key < sequence.key_count; key += size) {
      int64_t begin = first_query(sequence, [&](int64_t query) { return seen_end(sequence, query) > key; });
      int64_t end = first_query(sequence, [&](int64_t query) { return seen_begin(sequence, query) >= key + size; });
      add_tile(key_tiles_, key, begin, end);
    }
  }

  void add_query_tiles(const AttentionSequence& sequence, int size) {
    for (int64_t query = 0; query < sequence.query_count; query += size) {
      int64_t last = std::min(query + size, sequence.query_count) - 1;
      add_tile(query_tiles_, query, seen_begin(sequence, query), seen_end(sequence, last));
    }
  }

  void add_tile(std::vector<BackwardTile>& tiles, int64_t begin, int64_t other_begin, int64_t other_end) const {
    tiles.push_back({static_cast<int>(sequences_.size()) - 1,
                     static_cast<int>(begin),
                     static_cast<int>(other_begin),
                     static_cast<int>(std::max(other_begin, other_end))});
  }

  /// So that the blocks end together.
  static void put_dearest_first(std::vector<BackwardTile>& tiles) {
    std::stable_sort(tiles.begin(), tiles.end(), [](const BackwardTile& a, const BackwardTile& b) {
      return a.other_end - a.other_begin > b.other_end - b.other_begin;
    });
  }

  template <typename T>
  static size_t append(std::vector<std::byte>& bytes, const std::vector<T>& values) {
    size_t begin = (bytes.size() + 15) / 16 * 16;
    bytes.resize(begin + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes.data() + begin, values.data(), values.size() * sizeof(T));
    return begin;
  }

  const AttentionBackwardArgs& args_;
  int64_t tokens_ = 0;
  std::vector<BackwardSequence> sequences_;
  std::vector<BackwardTile> key_tiles_, query_tiles_;
  std::vector<int32_t> visible_keys_;
};

BackwardParams params_of(const AttentionBackwardArgs& args, int64_t tokens) {
  BackwardParams params;
  params.q = args.q;
  params.k = args.k;
  params.v = args.v;
  params.dout = args.dout;
  params.dq = args.dq;
  params.dk = args.dk;
  params.dv = args.dv;
  params.bias = static_cast<const float*>(args.bias.values);
  params.dbias = static_cast<float*>(args.dbias);
  params.bias_stride = args.bias.stride;
  params.tokens = tokens;
  params.num_heads = static_cast<int>(args.num_heads);
  params.num_kv_heads = static_cast<int>(args.num_kv_heads);
  params.head_dim = static_cast<int>(args.head_dim);
  params.window = static_cast<int>(std::min(args.mask.window, kMaxTokens));
  params.scale = args.mask.scale;
  params.soft_cap = args.mask.soft_cap;
  params.causal = args.mask.causal;
  params.is_aligned = args.head_dim * static_cast<int64_t>(dtype_bytes(args.dtype)) % 16 == 0;
  for (const void* array : {args.q, args.k, args.v, args.out, args.dout})
    params.is_aligned = params.is_aligned && is_aligned(array);
  for (const void* array : {args.dq, args.dk, args.dv}) params.is_aligned = params.is_aligned && is_aligned(array);
  return params;
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& args, CudaDevice& device) {
  require(args.head_dim >= 1 && args.head_dim <= kMaxHeadDim, "attention_backward", "a head_dim of 1 to 256");
  require(args.num_kv_heads > 0 && args.num_heads % args.num_kv_heads == 0,
          "attention_backward",
          "heads in multiples of kv heads");
  dispatch(args.dtype, "attention_backward", [&](auto zero) {
    using T = decltype(zero);
    constexpr bool kIsPlain = sizeof(T) == 4;
    Plan plan(args, kIsPlain ? backward_plain_tile_sizes() : backward_mma_tile_sizes(args.head_dim));
    BackwardParams params = params_of(args, plan.tokens());
    BackwardTiles keys, queries;
    DeviceBuffer<std::byte> uploaded_plan = plan.upload(device, params, keys, queries);
    if (keys.count == 0 && queries.count == 0) return;
    DeviceBuffer<float2> statistics(device, std::max<int64_t>(params.tokens * params.num_heads, 1));
    params.statistics = statistics.data();
    launch_row_statistics<T>(args, params, statistics.data(), device);
    if constexpr (kIsPlain) {
      launch_backward_plain(params, keys, queries, device);
    } else {
      launch_backward_mma(params, keys, queries, device);
    }
  });
}

}  // namespace weft::cuda
