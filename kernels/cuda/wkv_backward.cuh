// Backward of kernels/wkv.h, as on the CPU (kernels/cpu/wkv_backward_loops.cpp): with S the state before a chunk of
// tokens and dS the gradient of the state after it, everything but the pairs of tokens within the chunk is products
// with S and dS. The gradient of a token's ln a is a sum over the paths through its decay, without a difference of
// sums.
//
// A block a sequence and head. It goes back from boundary to boundary: first it computes the states before each chunk
// from the boundary's, then it takes the chunks in reverse.
#pragma once

#include "kernels/cuda/wkv_parts.cuh"

namespace weft::cuda {

inline constexpr int kWkvChunksOfBoundary = static_cast<int>(kWkvBoundaryTokens) / kWkvChunk;
static_assert(kWkvBoundaryTokens % kWkvChunk == 0);

struct WkvBackwardParams {
  WkvParams forward;
  const void* dy = nullptr;
  const float* dfinal_states = nullptr;
  void* dr = nullptr;
  void* dk = nullptr;
  void* dv = nullptr;
  float* dw = nullptr;
  float* du = nullptr;  // [sequences, H · N]
  float* dinitial_states = nullptr;
  float* states = nullptr;  // [blocks, kWkvChunksOfBoundary, width, width]: before each chunk
};

template <int width>
using WkvTokens = float[kWkvChunk][width];
/// Rows lie apart so that the same column of several is in different banks.
template <int width>
using WkvMatrix = float[width][width + 4];

template <int width>
struct alignas(16) WkvBackwardShared {
  WkvTokens<width> r, k, v, dy;
  WkvTokens<width> rate, decay;        // exp(w), exp(−exp(w)); 0 and 1 for tokens that fill up the chunk
  WkvTokens<width> r_before, k_after;  // times the decays of the chunk's tokens before, after
  WkvTokens<width> dr, dk;             // dy · Sᵀ, v · dSᵀ
  WkvMatrix<width> state, dstate;
  float scores[kWkvChunk][kWkvChunk];   // [i, j ≤ i]: the weight of v_j in y_i
  float dscores[kWkvChunk][kWkvChunk];  // dy_i · v_j
  float u[width], du[width];
  float total[width];  // the product of all decays
  float dots[width];   // Σ_m S · dS
};

__device__ __forceinline__ float dot4(const float4& a, const float4& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}
__device__ __forceinline__ const float4& float4_at(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

/// From [N, N], null for zeros; padded with zeros.
template <int width>
__device__ __forceinline__ void load_matrix(const float* from, int size, WkvMatrix<width>& to) {
  for (int i = static_cast<int>(threadIdx.x); i < width * width; i += 4 * width) {
    int n = i / width, m = i % width;
    to[n][m] = from != nullptr && n < size && m < size ? from[n * size + m] : 0.0f;
  }
}
template <int width>
__device__ __forceinline__ void store_matrix(const WkvMatrix<width>& from, int size, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < width * width; i += 4 * width) {
    int n = i / width, m = i % width;
    if (n < size && m < size) to[n * size + m] = from[n][m];
  }
}

/// What the states need of a chunk, or all of it.
template <typename T, int width>
__device__ __forceinline__ void load_chunk(
    const WkvBackwardParams& p, const WkvHead& head, int64_t first, bool is_whole, WkvBackwardShared<width>& s) {
  const WkvParams& forward = p.forward;
  int channel = wkv_channel<width>();
#pragma unroll
  for (int e = 0; e < kWkvLoads; ++e) {
    int token = wkv_load_token<width>(e);
    bool exists = first + token < head.length && channel < forward.head_size;
    int64_t at = exists ? head.at(forward, first + token) + channel : 0;
    auto load = [&](const void* from) { return exists ? to_float(static_cast<const T*>(from)[at]) : 0.0f; };
    s.k[token][channel] = load(forward.k);
    s.v[token][channel] = load(forward.v);
    s.r[token][channel] = is_whole ? load(forward.r) : 0.0f;
    if (is_whole) s.dy[token][channel] = load(p.dy);
    float rate = exists ? wkv_rate(forward.w[at]) : 0.0f;
    s.rate[token][channel] = rate;
    s.decay[token][channel] = expf(-rate);
  }
}

/// Fills r_before and total; and k_after.
template <int width>
__device__ __forceinline__ void multiply_decays(WkvBackwardShared<width>& s) {
  int n = static_cast<int>(threadIdx.x) % width, quarter = static_cast<int>(threadIdx.x) / width;
  float product = 1;
  if (quarter == 0) {
#pragma unroll
    for (int i = 0; i < kWkvChunk; ++i) {
      s.r_before[i][n] = s.r[i][n] * product;
      product *= s.decay[i][n];
    }
    s.total[n] = product;
  } else if (quarter == 1) {
#pragma unroll
    for (int i = kWkvChunk - 1; i >= 0; --i) {
      s.k_after[i][n] = s.k[i][n] * product;
      product *= s.decay[i][n];
    }
  }
}

/// matrix[n, m] = total[n] · matrix[n, m] + Σ_i rows[i, n] · columns[i, m].
template <int width>
__device__ __forceinline__ void advance_matrix(const float (&total)[width],
                                               const WkvTokens<width>& rows,
                                               const WkvTokens<width>& columns,
                                               WkvMatrix<width>& matrix) {
  constexpr int kTiles = width / 4;
  for (int tile = static_cast<int>(threadIdx.x); tile < kTiles * kTiles; tile += 4 * width) {
    int n = tile / kTiles * 4, m = tile % kTiles * 4;
    float sums[4][4];
#pragma unroll
    for (int x = 0; x < 4; ++x) {
#pragma unroll
      for (int y = 0; y < 4; ++y) sums[x][y] = total[n + x] * matrix[n + x][m + y];
    }
#pragma unroll
    for (int i = 0; i < kWkvChunk; ++i) {
      float4 row = float4_at(&rows[i][n]), column = float4_at(&columns[i][m]);
      const float left[4] = {row.x, row.y, row.z, row.w}, right[4] = {column.x, column.y, column.z, column.w};
#pragma unroll
      for (int x = 0; x < 4; ++x) {
#pragma unroll
        for (int y = 0; y < 4; ++y) sums[x][y] += left[x] * right[y];
      }
    }
#pragma unroll
    for (int x = 0; x < 4; ++x)
      *reinterpret_cast<float4*>(&matrix[n + x][m]) = make_float4(sums[x][0], sums[x][1], sums[x][2], sums[x][3]);
  }
}

/// Scores and their gradients. width / 4 neighbouring threads have a token j and four channels each.
template <int width>
__device__ __forceinline__ void multiply_pairs(WkvBackwardShared<width>& s) {
  constexpr int kLanes = width / 4;
  int lane = static_cast<int>(threadIdx.x) % kLanes, j = static_cast<int>(threadIdx.x) / kLanes, n = lane * 4;
  float4 key = float4_at(&s.k[j][n]), value = float4_at(&s.v[j][n]), u = float4_at(&s.u[n]);
  float4 decayed = make_float4(key.x * u.x, key.y * u.y, key.z * u.z, key.w * u.w);
  // All lanes of a warp take part in the sums, from the first of its tokens on.
  for (int i = static_cast<int>(threadIdx.x) / 32 * 32 / kLanes; i < kWkvChunk; ++i) {
    float score = dot4(float4_at(&s.r[i][n]), decayed);
    float dscore = dot4(float4_at(&s.dy[i][n]), value);
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      score += __shfl_xor_sync(0xffffffffu, score, distance);
      dscore += __shfl_xor_sync(0xffffffffu, dscore, distance);
    }
    if (i < j) continue;
    if (lane == 0) {
      s.scores[i][j] = score;
      s.dscores[i][j] = dscore;
    }
    float4 decay = float4_at(&s.decay[i][n]);
    decayed =
        i == j ? key : make_float4(decayed.x * decay.x, decayed.y * decay.y, decayed.z * decay.z, decayed.w * decay.w);
  }
}

/// dr, dk and dots: the products with the states.
template <int width>
__device__ __forceinline__ void multiply_states(WkvBackwardShared<width>& s) {
  int n = static_cast<int>(threadIdx.x) % width, quarter = static_cast<int>(threadIdx.x) / width;
  float dr[4] = {}, dk[4] = {}, dots = 0;
#pragma unroll 4
  for (int m = 0; m < width; m += 4) {
    float4 state = float4_at(&s.state[n][m]), dstate = float4_at(&s.dstate[n][m]);
    if (quarter == 0) dots += dot4(state, dstate);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dr[i] += dot4(state, float4_at(&s.dy[quarter * 4 + i][m]));
      dk[i] += dot4(dstate, float4_at(&s.v[quarter * 4 + i][m]));
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    s.dr[quarter * 4 + i][n] = dr[i];
    s.dk[quarter * 4 + i][n] = dk[i];
  }
  if (quarter == 0) s.dots[n] = dots;
}

/// dv = scoresᵀ · dy + (k · decays after) · dS.
template <typename T, int width>
__device__ __forceinline__ void value_gradients(const WkvBackwardParams& p,
                                                const WkvHead& head,
                                                int64_t first,
                                                const WkvBackwardShared<width>& s) {
  int m = static_cast<int>(threadIdx.x) % width, row = static_cast<int>(threadIdx.x) / width * 4;
  float sums[4] = {};
#pragma unroll 4
  for (int n = 0; n < width; n += 4) {
    float4 column = make_float4(s.dstate[n][m], s.dstate[n + 1][m], s.dstate[n + 2][m], s.dstate[n + 3][m]);
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] += dot4(column, float4_at(&s.k_after[row + j][n]));
  }
  for (int i = row; i < kWkvChunk; ++i) {
    float dy = s.dy[i][m];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i >= row + j) sums[j] += s.scores[i][row + j] * dy;
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (first + row + j >= head.length || m >= p.forward.head_size) continue;
    static_cast<T*>(p.dv)[head.at(p.forward, first + row + j) + m] = from_float<T>(sums[j]);
  }
}

/// One channel of all tokens of a chunk.
struct WkvChannel {
  float r[kWkvChunk], k[kWkvChunk], decay[kWkvChunk];
  float dr[kWkvChunk], dk[kWkvChunk];
  float dlog[kWkvChunk];  // of ln a

  /// From what dr and dk with the states are: the paths that begin or end there.
  __device__ __forceinline__ void add_states(float through_all) {
    float product = 1;
#pragma unroll
    for (int i = kWkvChunk - 1; i >= 0; --i) {
      dk[i] *= product;
      product *= decay[i];
    }
    float sum = through_all * product;
#pragma unroll
    for (int i = 0; i < kWkvChunk; ++i) {
      dlog[i] = sum;
      sum += k[i] * dk[i];
    }
    product = 1;
#pragma unroll
    for (int i = 0; i < kWkvChunk; ++i) {
      dr[i] *= product;
      product *= decay[i];
    }
    sum = 0;
#pragma unroll
    for (int i = kWkvChunk - 1; i >= 0; --i) {
      dlog[i] += sum;
      sum += r[i] * dr[i];
    }
  }

  /// The paths from token j to the tokens behind it.
  __device__ __forceinline__ void add_pairs(int j, const float (&dscores)[kWkvChunk][kWkvChunk]) {
    float between[kWkvChunk];
    float product = 1;
#pragma unroll
    for (int i = 1; i < kWkvChunk; ++i) {
      if (i <= j) continue;
      between[i] = product;
      product *= decay[i];
    }
    float sum = 0;
#pragma unroll
    for (int i = kWkvChunk - 1; i > 0; --i) {
      if (i <= j) continue;
      float weight = dscores[i][j] * between[i];
      dlog[i] += k[j] * sum;
      sum += weight * r[i];
      dr[i] += weight * k[j];
    }
    dk[j] += sum;
  }

  /// Gives du.
  __device__ __forceinline__ float add_own(float u, const float (&dscores)[kWkvChunk][kWkvChunk]) {
    float du = 0;
#pragma unroll
    for (int i = 0; i < kWkvChunk; ++i) {
      float weight = dscores[i][i];
      du += weight * r[i] * k[i];
      dr[i] += weight * u * k[i];
      dk[i] += weight * u * r[i];
    }
    return du;
  }
};

/// dr, dk and dw of a chunk, and what it adds to du; by the first `width` threads.
template <typename T, int width>
__device__ __forceinline__ void channel_gradients(const WkvBackwardParams& p,
                                                  const WkvHead& head,
                                                  int64_t first,
                                                  WkvBackwardShared<width>& s) {
  int n = static_cast<int>(threadIdx.x);
  if (n >= p.forward.head_size) return;
  WkvChannel g;
#pragma unroll
  for (int i = 0; i < kWkvChunk; ++i) {
    g.r[i] = s.r[i][n];
    g.k[i] = s.k[i][n];
    g.decay[i] = s.decay[i][n];
    g.dr[i] = s.dr[i][n];
    g.dk[i] = s.dk[i][n];
  }
  g.add_states(s.dots[n]);
#pragma unroll
  for (int j = 0; j < kWkvChunk - 1; ++j) g.add_pairs(j, s.dscores);
  s.du[n] += g.add_own(s.u[n], s.dscores);
#pragma unroll
  for (int i = 0; i < kWkvChunk; ++i) {
    if (first + i >= head.length) break;
    int64_t at = head.at(p.forward, first + i) + n;
    static_cast<T*>(p.dr)[at] = from_float<T>(g.dr[i]);
    static_cast<T*>(p.dk)[at] = from_float<T>(g.dk[i]);
    p.dw[at] = -s.rate[i][n] * g.dlog[i];
  }
}

/// The states before the chunks of tokens [begin, end), from the boundary's, into `states`.
template <typename T, int width>
__device__ __forceinline__ void compute_states(const WkvBackwardParams& p,
                                               const WkvHead& head,
                                               int64_t begin,
                                               int64_t end,
                                               float* states,
                                               WkvBackwardShared<width>& s) {
  load_matrix<width>(head.boundary(p.forward, begin / kWkvBoundaryTokens), p.forward.head_size, s.state);
  __syncthreads();
  for (int64_t first = begin; first < end; first += kWkvChunk, states += width * width) {
    store_matrix<width>(s.state, width, states);
    if (first + kWkvChunk >= end) break;
    load_chunk<T, width>(p, head, first, false, s);
    __syncthreads();
    multiply_decays<width>(s);
    __syncthreads();
    advance_matrix<width>(s.total, s.k_after, s.v, s.state);
    __syncthreads();
  }
  __syncthreads();
}

/// The chunk from token `first` on: its gradients, and dstate becomes that of the state before it.
template <typename T, int width>
__device__ __forceinline__ void backward_chunk(
    const WkvBackwardParams& p, const WkvHead& head, int64_t first, const float* state, WkvBackwardShared<width>& s) {
  load_matrix<width>(state, width, s.state);
  load_chunk<T, width>(p, head, first, true, s);
  __syncthreads();
  multiply_decays<width>(s);
  multiply_pairs<width>(s);
  multiply_states<width>(s);
  __syncthreads();
  value_gradients<T, width>(p, head, first, s);
  channel_gradients<T, width>(p, head, first, s);
  __syncthreads();
  advance_matrix<width>(s.total, s.r_before, s.dy, s.dstate);
  __syncthreads();
}

/// 4 · width threads; blocks take sequences' heads in turns.
template <typename T, int width>
__global__ void __launch_bounds__(4 * width, width <= 64 ? 2 : 1)
    wkv_backward_kernel(const __grid_constant__ WkvBackwardParams p) {
  extern __shared__ float4 wkv_shared_memory[];
  auto& s = *reinterpret_cast<WkvBackwardShared<width>*>(wkv_shared_memory);
  const WkvParams& forward = p.forward;
  int thread = static_cast<int>(threadIdx.x), size = forward.head_size;
  float* states = p.states + int64_t{blockIdx.x} * kWkvChunksOfBoundary * width * width;
  int64_t tasks = int64_t{forward.num_sequences} * forward.num_heads;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    WkvHead head(forward, task / forward.num_heads, task % forward.num_heads);
    if (thread < width) {
      s.u[thread] = wkv_bonus<T>(forward, head, thread);
      s.du[thread] = 0;
    }
    const float* final_state =
        p.dfinal_states == nullptr ? nullptr : p.dfinal_states + head.state_at(forward, head.index);
    load_matrix<width>(final_state, size, s.dstate);
    __syncthreads();
    int64_t boundaries = (head.length + kWkvBoundaryTokens - 1) / kWkvBoundaryTokens;
    for (int64_t boundary = boundaries - 1; boundary >= 0; --boundary) {
      int64_t begin = boundary * kWkvBoundaryTokens, end = min(head.length, begin + kWkvBoundaryTokens);
      compute_states<T, width>(p, head, begin, end, states, s);
      for (int64_t chunk = (end - begin - 1) / kWkvChunk; chunk >= 0; --chunk)
        backward_chunk<T, width>(p, head, begin + chunk * kWkvChunk, states + chunk * width * width, s);
    }
    if (p.dinitial_states != nullptr)
      store_matrix<width>(s.dstate, size, p.dinitial_states + head.state_at(forward, head.index));
    if (thread < size) p.du[(head.index * forward.num_heads + head.head) * size + thread] = s.du[thread];
    __syncthreads();
  }
}

}  // namespace weft::cuda
