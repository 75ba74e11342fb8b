// Backward of attention in f32 without tensor cores: tiles of 32 x 32 in shared memory.
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_dropout.cuh"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 32;                // owned, and of a tile of the others
constexpr int kWeightPitch = kRows + 4;  // floats from one of the others to the next
constexpr int kDiagonals = 2 * kRows - 1;

template <int kDimensions, bool owns_keys, bool drops>
struct PlainForm {
  static constexpr int kDim = kDimensions;
  static constexpr bool kOwnsKeys = owns_keys;
  static constexpr bool kDrops = drops;
  // An odd number of 16-byte cells, so that eight rows' cells of one column lie in different banks.
  static constexpr int kPitch = kDim + 4;
  static constexpr int kTileFloats = kRows * kPitch;
  static constexpr int kWeightFloats = kRows * kWeightPitch;
  static constexpr int kSharedBytes = (4 * kTileFloats + 2 * kWeightFloats) * static_cast<int>(sizeof(float));

  // Sums: threads side by side take 4 dims each, and the dims 4·kAcross further; kSumRows rows.
  static constexpr int kAcross = kDim / 4 < 32 ? kDim / 4 : 32;
  static constexpr int kDimSteps = kDim / 4 / kAcross;
  static constexpr int kSumRows = kRows / (kThreads / kAcross);
};

/// A block's sums are dscores·B1 and weights·B2 (see attention_backward.cuh).
template <typename Form>
class PlainBlock {
  static constexpr bool kOwnsKeys = Form::kOwnsKeys;
  using Sums = float[Form::kSumRows][Form::kDimSteps][4];

 public:
  __device__ PlainBlock(const BackwardParams& params, const BackwardTile& tile, int head, float* shared)
      : params_(params), sequence_(params.sequences[tile.sequence]), tile_(tile), head_(head), shared_(shared) {
    queries_per_key_ = params.num_heads / params.num_kv_heads;
    sum_row_ = threadIdx.x / Form::kAcross * Form::kSumRows;
    sum_dim_ = threadIdx.x % Form::kAcross * 4;
  }

  __device__ void run() {
    Sums sums = {}, value_sums = {};  // dk or dq; and dv
    load_own();
    int first_head = kOwnsKeys ? head_ * queries_per_key_ : head_;
    int num_heads = kOwnsKeys ? queries_per_key_ : 1;
    for (int query_head = first_head; query_head < first_head + num_heads; ++query_head) {
      for (int other = tile_.other_begin; other < tile_.other_end; other += kRows) {
        __syncthreads();
        load_others(other, query_head);
        __syncthreads();
        weigh(other, query_head);
        __syncthreads();
        add(sums, dscores(), tile(2));
        if constexpr (kOwnsKeys) add(value_sums, weights(), tile(3));
        if (!kOwnsKeys && params_.dbias != nullptr) add_diagonals(other);
      }
    }
    store(kOwnsKeys ? params_.dk : params_.dq, sums, params_.score_factor);
    if constexpr (kOwnsKeys) store(params_.dv, value_sums, 1);
  }

 private:
  /// The owner's pair of matrices, then the others'.
  __device__ float* tile(int which) const { return shared_ + which * Form::kTileFloats; }
  /// [others, owned]: for the sums. Where queries are owned, `weights` holds the gradients of biases.
  __device__ float* weights() const { return shared_ + 4 * Form::kTileFloats; }
  __device__ float* dscores() const { return weights() + Form::kWeightFloats; }

  __device__ void load_own() const { load_pair(0, kOwnsKeys, tile_.begin, head_); }
  __device__ void load_others(int other, int query_head) const {
    load_pair(2, !kOwnsKeys, other, kOwnsKeys ? query_head : head_ / queries_per_key_);
  }
  __device__ void load_pair(int which, bool is_keys, int first, int head) const {
    int64_t begin = is_keys ? sequence_.key_begin : sequence_.query_begin;
    int count = is_keys ? sequence_.key_count : sequence_.query_count;
    int heads = is_keys ? params_.num_kv_heads : params_.num_heads;
    int64_t stride = static_cast<int64_t>(heads) * params_.head_dim;
    int64_t at = (begin + first) * stride + head * params_.head_dim;
    load(tile(which), static_cast<const float*>(is_keys ? params_.k : params_.q) + at, stride, count - first);
    load(tile(which + 1), static_cast<const float*>(is_keys ? params_.v : params_.dout) + at, stride, count - first);
  }

  /// kRows rows, zeros behind `count` of them and head_dim.
  __device__ void load(float* to, const float* from, int64_t stride, int count) const {
    constexpr int kCells = Form::kDim / 4;
    for (int i = threadIdx.x; i < kRows * kCells; i += kThreads) {
      int row = i / kCells, dim = i % kCells * 4;
      int room = row < count ? params_.head_dim - dim : 0;
      const float* cell = from + row * stride + dim;
      float4 values = make_float4(0, 0, 0, 0);
      if (room >= 4 && params_.is_aligned) {
        values = *reinterpret_cast<const float4*>(cell);
      } else {
        if (room > 0) values.x = cell[0];
        if (room > 1) values.y = cell[1];
        if (room > 2) values.z = cell[2];
        if (room > 3) values.w = cell[3];
      }
      *reinterpret_cast<float4*>(to + row * Form::kPitch + dim) = values;
    }
  }

  __device__ static float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
  }
  __device__ float4 cell(int which, int row, int dim) const {
    return *reinterpret_cast<const float4*>(tile(which) + row * Form::kPitch + dim);
  }

  /// Weights and gradients of scores of two owned rows and two others a thread.
  __device__ void weigh(int other, int query_head) const {
    int own = threadIdx.x / 16 * 2, across = threadIdx.x % 16;
    float products[2][2] = {}, dweights[2][2] = {};
#pragma unroll 4
    for (int dim = 0; dim < Form::kDim; dim += 4) {
      float4 first[2] = {cell(0, own, dim), cell(0, own + 1, dim)};
      float4 second[2] = {cell(1, own, dim), cell(1, own + 1, dim)};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float4 other_first = cell(2, across + 16 * j, dim), other_second = cell(3, across + 16 * j, dim);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          products[i][j] = dot(first[i], other_first, products[i][j]);
          dweights[i][j] = dot(second[i], other_second, dweights[i][j]);
        }
      }
    }
    uint32_t kept = 0;
    if constexpr (Form::kDrops) kept = draw(other, query_head);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float counts = 1;
        if constexpr (Form::kDrops) counts = is_kept(kept, 2 * j + i) ? params_.dropout.kept_scale() : 0;
        differentiate(own + i, across + 16 * j, other, query_head, products[i][j], dweights[i][j], counts);
      }
    }
  }

  /// Which of the thread's weights count: bit 2·j + i is that of row i of its own and j of the others.
  __device__ uint32_t draw(int other, int query_head) const {
    int thread = static_cast<int>(threadIdx.x), across = thread % 16;
    auto kept_of = [&](int query, int key) {
      uint64_t first = params_.dropout.first_index(sequence_.query_begin + query, query_head);
      return draw_kept<1>(params_.dropout, [&](int) { return first + static_cast<uint64_t>(key); });
    };
    if constexpr (kOwnsKeys) {
      int query = other + across + thread / 16 % 2 * 16, key = tile_.begin + first_drawn_key(thread / 16 * 2);
      return kept_of_two_lanes<16>(kept_of(query, key));
    } else {
      int place = across % 4, query = tile_.begin + thread / 16 * 2 + place % 2;
      return kept_of_four_lanes<1>(kept_of(query, other + first_drawn_key(across) + place / 2 * 16));
    }
  }

  /// `counts`: how many times the weight does, after dropout.
  __device__ void differentiate(
      int own, int across, int other, int query_head, float product, float dweight, float counts) const {
    int query = kOwnsKeys ? other + across : tile_.begin + own;
    int key = kOwnsKeys ? tile_.begin + own : other + across;
    SeenKeys seen = seen_keys(params_, sequence_, query);
    bool is_visible = key >= seen.begin && key < seen.end;
    const float* bias = bias_row(params_, sequence_, query_head, params_.bias);
    PairGradient gradient;
    if (is_visible) {
      float2 statistics = params_.statistics[query_head * params_.tokens + sequence_.query_begin + query];
      if (bias != nullptr) bias += key - query;
      gradient = pair_gradient(params_, product, Form::kDrops ? dweight * counts : dweight, statistics, bias, true);
      if (Form::kDrops) gradient.weight *= counts;
    }
    weights()[across * kWeightPitch + own] = kOwnsKeys ? gradient.weight : gradient.dbias;
    dscores()[across * kWeightPitch + own] = gradient.dscore;
  }

  /// sums += factorᵀ · others.
  __device__ void add(Sums& sums, const float* factor, const float* others) const {
#pragma unroll 4
    for (int other = 0; other < kRows; ++other) {
      auto weights_of_rows =
          *reinterpret_cast<const Pack<float, Form::kSumRows>*>(factor + other * kWeightPitch + sum_row_);
#pragma unroll
      for (int step = 0; step < Form::kDimSteps; ++step) {
        float4 values =
            *reinterpret_cast<const float4*>(others + other * Form::kPitch + step * 4 * Form::kAcross + sum_dim_);
#pragma unroll
        for (int row = 0; row < Form::kSumRows; ++row) {
          float weight = weights_of_rows.values[row];
          sums[row][step][0] = fmaf(weight, values.x, sums[row][step][0]);
          sums[row][step][1] = fmaf(weight, values.y, sums[row][step][1]);
          sums[row][step][2] = fmaf(weight, values.z, sums[row][step][2]);
          sums[row][step][3] = fmaf(weight, values.w, sums[row][step][3]);
        }
      }
    }
  }

  /// dbias takes the sums over the tile's diagonals. Blocks add in any order, so its last bits vary.
  __device__ void add_diagonals(int other) const {
    if (threadIdx.x >= kDiagonals) return;
    int diagonal = static_cast<int>(threadIdx.x) - (kRows - 1);  // key less query, within the tile
    float sum = 0;
    for (int own = max(0, -diagonal); own < min(kRows, kRows - diagonal); ++own)
      sum += weights()[(own + diagonal) * kWeightPitch + own];
    // A diagonal that no pair lies on may be outside of the biases.
    if (sum == 0) return;
    atomicAdd(bias_row(params_, sequence_, head_, params_.dbias) + (other - tile_.begin + diagonal), sum);
  }

  __device__ void store(void* array, const Sums& sums, float factor) const {
    int64_t begin = kOwnsKeys ? sequence_.key_begin : sequence_.query_begin;
    int count = kOwnsKeys ? sequence_.key_count : sequence_.query_count;
    int heads = kOwnsKeys ? params_.num_kv_heads : params_.num_heads;
#pragma unroll
    for (int i = 0; i < Form::kSumRows; ++i) {
      int row = tile_.begin + sum_row_ + i;
      if (row >= count) continue;
      float* to = static_cast<float*>(array) + ((begin + row) * heads + head_) * params_.head_dim;
#pragma unroll
      for (int step = 0; step < Form::kDimSteps; ++step) {
#pragma unroll
        for (int d = 0; d < 4; ++d) {
          int dim = step * 4 * Form::kAcross + sum_dim_ + d;
          if (dim < params_.head_dim) to[dim] = sums[i][step][d] * factor;
        }
      }
    }
  }

  const BackwardParams& params_;
  BackwardSequence sequence_;
  BackwardTile tile_;
  int head_;  // a kv head where keys are owned, else a query head
  float* shared_;
  int queries_per_key_, sum_row_, sum_dim_;
};

template <typename Form>
__global__ void __launch_bounds__(kThreads)
    backward_plain(const __grid_constant__ BackwardParams params, const BackwardTile* tiles, int heads) {
  extern __shared__ float4 shared_cells[];
  PlainBlock<Form>(
      params, tiles[blockIdx.x / heads], static_cast<int>(blockIdx.x % heads), reinterpret_cast<float*>(shared_cells))
      .run();
}

template <typename Form>
void launch_pass(const BackwardParams& params, BackwardTiles tiles, CudaDevice& device) {
  if (tiles.count == 0) return;
  require(Form::kSharedBytes <= device.max_shared_bytes(), "attention_backward", "a GPU with more shared memory");
  auto kernel = backward_plain<Form>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Form::kSharedBytes),
        "shared memory of attention_backward");
  auto blocks = static_cast<unsigned>(tiles.count * tiles.heads);
  kernel<<<blocks, kThreads, Form::kSharedBytes, device.stream()>>>(params, tiles.tiles, tiles.heads);
  check_launch(Form::kOwnsKeys ? "attention_backward: keys" : "attention_backward: queries");
}

template <int kDim, bool drops>
void launch_passes(const BackwardParams& params, BackwardTiles keys, BackwardTiles queries, CudaDevice& device) {
  launch_pass<PlainForm<kDim, true, drops>>(params, keys, device);
  launch_pass<PlainForm<kDim, false, drops>>(params, queries, device);
}

template <bool drops>
void launch_by_dim(const BackwardParams& params, BackwardTiles keys, BackwardTiles queries, CudaDevice& device) {
  if (params.head_dim <= 64) return launch_passes<64, drops>(params, keys, queries, device);
  if (params.head_dim <= 128) return launch_passes<128, drops>(params, keys, queries, device);
  launch_passes<256, drops>(params, keys, queries, device);
}

}  // namespace

BackwardTileSizes backward_plain_tile_sizes() {
  return {.keys = kRows, .queries = kRows};
}

void launch_backward_plain(const BackwardParams& params,
                           BackwardTiles keys,
                           BackwardTiles queries,
                           CudaDevice& device) {
  if (params.dropout.drops()) return launch_by_dim<true>(params, keys, queries, device);
  launch_by_dim<false>(params, keys, queries, device);
}

}  // namespace weft::cuda
