// A chunk of tokens of one head: what the forward and the backward pass of kernels/wkv.h share.
//
// With a the decays, rows of the state before the chunk reach token i times Π a of the chunk's tokens before i, token
// j's key reaches the state after the chunk times Π a of the tokens after j, and token i times Π a of those between.
// All three are products of numbers in [0, 1]: they underflow only where nothing is left.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/cpu/wkv_work.h"

namespace weft::WEFT_ISA {

inline constexpr int kChunk = 16;
inline constexpr int kRowsAtOnce = 4;  // of a product's left factor

/// Above this, exp(−exp(w)) is 0 in double already, and exp(w) stays finite.
inline constexpr double kLargestLogRate = 7;

/// Products of decays below this are taken for 0: arithmetic on subnormal numbers is slow.
template <typename R>
inline constexpr R kSmallestDecay = R(1e-30);
template <>
inline constexpr double kSmallestDecay<double> = 1e-290;

/// Where a sequence's head lies in the packed rows.
struct WkvPlace {
  int64_t head_size = 0, width = 0;  // width: head_size rounded up to whole vectors
  int64_t row = 0;                   // elements from one token to the next
  int64_t column = 0;                // of the head's first channel
  int64_t begin = 0;                 // the sequence's first token

  WEFT_INLINE WkvPlace(const WkvForwardArgs& args, const WkvWork& work)
      : head_size(args.head_size),
        width(round_up(args.head_size, 16)),
        row(args.num_heads * args.head_size),
        column(work.head * args.head_size),
        begin(work.sequence->begin) {}

  /// Offset of a token of the sequence.
  WEFT_INLINE int64_t at(int64_t token) const { return (begin + token) * row + column; }
};

/// Converts one row, with zeros behind it.
template <typename T>
WEFT_INLINE void load_row(const T* from, Real<T>* to, int64_t count, int64_t width) {
#pragma omp simd
  for (int64_t n = 0; n < count; ++n) to[n] = load(from[n]);
  for (int64_t n = count; n < width; ++n) to[n] = 0;
}

/// `count` tokens from `token` on; the rest of the chunk is zeros.
template <typename T>
WEFT_INLINE void load_tokens(const WkvPlace& place, const void* base, int64_t token, int64_t count, Real<T>* to) {
  const T* from = static_cast<const T*>(base);
  for (int64_t i = 0; i < count; ++i) {
    load_row(from + place.at(token + i), to + i * place.width, place.head_size, place.width);
  }
  for (int64_t at = count * place.width; at < kChunk * place.width; ++at) to[at] = 0;
}

/// Starts to load rows [begin, end), at most a chunk: they lie too far apart for the processor to look ahead by itself.
/// Called between the steps of the chunk before, one array at a time.
template <typename T>
WEFT_INLINE void prefetch_tokens(const WkvPlace& place, const void* base, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  const T* from = static_cast<const T*>(base);
  for (int64_t i = begin; i < smaller(end, begin + kChunk); ++i) {
    const T* row = from + place.at(i);
    for (int64_t n = 0; n < place.head_size; n += kLine) __builtin_prefetch(row + n, 0, 2);
  }
}

template <typename T>
WEFT_INLINE void store_tokens(const WkvPlace& place, const Real<T>* from, int64_t token, int64_t count, void* base) {
  T* to = static_cast<T*>(base);
  for (int64_t i = 0; i < count; ++i) {
    const Real<T>* row = from + i * place.width;
    T* stored = to + place.at(token + i);
#pragma omp simd
    for (int64_t n = 0; n < place.head_size; ++n) stored[n] = round_to<T>(row[n]);
  }
}

/// exp(w) of one token's channels.
template <typename R>
WEFT_INLINE void load_rates(const R* w, R* rate, int64_t count) {
  constexpr R kLargest = static_cast<R>(kLargestLogRate);
#pragma omp simd
  for (int64_t n = 0; n < count; ++n) rate[n] = exponential(w[n] > kLargest ? kLargest : w[n]);
}

template <typename R>
WEFT_INLINE void rates_to_decays(const R* rate, R* decay, int64_t count) {
#pragma omp simd
  for (int64_t n = 0; n < count; ++n) decay[n] = exponential(-rate[n]);
}

/// All [kChunk, width].
template <typename R>
struct WkvChunk {
  R* r = nullptr;
  R* k = nullptr;
  R* v = nullptr;
  R* rate = nullptr;      // exp(w), 0 for tokens that fill up the chunk
  R* decay = nullptr;     // exp(−rate)
  R* r_before = nullptr;  // r times the decays of the chunk's tokens before
  R* k_after = nullptr;   // k times those of the tokens after
  R* total = nullptr;     // [width]: the product of all decays

  WEFT_INLINE void cut(ScratchCutter& cutter, int64_t width) {
    R** matrices[] = {&r, &k, &v, &rate, &decay, &r_before, &k_after};
    for (R** matrix : matrices) *matrix = cutter.cut<R>(kChunk * width);
    total = cutter.cut<R>(width);
  }
};

template <typename T>
WEFT_INLINE void load_chunk(
    const WkvForwardArgs& args, const WkvPlace& place, int64_t token, int64_t count, WkvChunk<Real<T>>& chunk) {
  using R = Real<T>;
  load_tokens<T>(place, args.r, token, count, chunk.r);
  load_tokens<T>(place, args.k, token, count, chunk.k);
  load_tokens<T>(place, args.v, token, count, chunk.v);
  const R* w = static_cast<const R*>(args.w);
  for (int64_t i = 0; i < kChunk; ++i) {
    R* rate = chunk.rate + i * place.width;
    int64_t channels = i < count ? place.head_size : 0;
    load_rates(w + place.at(token + (i < count ? i : 0)), rate, channels);
    for (int64_t n = channels; n < place.width; ++n) rate[n] = 0;
  }
  rates_to_decays(chunk.rate, chunk.decay, kChunk * place.width);
}

template <typename R>
WEFT_INLINE Vector<R> without_tiny(Vector<R> decay) {
  return decay < kSmallestDecay<R> ? Vector<R>{} : decay;
}

/// Fills r_before, k_after and total.
template <typename R>
WEFT_INLINE void multiply_decays(WkvChunk<R>& chunk, int64_t width) {
  for (int64_t n = 0; n < width; n += kLanes<R>) {
    Vector<R> product = Vector<R>{} + R(1);
    for (int64_t at = n; at < kChunk * width; at += width) {
      store_vector(chunk.r_before + at, load_vector(chunk.r + at) * product);
      product = without_tiny<R>(product * load_vector(chunk.decay + at));
    }
    store_vector(chunk.total + n, product);
    product = Vector<R>{} + R(1);
    for (int64_t at = (kChunk - 1) * width + n; at >= 0; at -= width) {
      store_vector(chunk.k_after + at, load_vector(chunk.k + at) * product);
      product = without_tiny<R>(product * load_vector(chunk.decay + at));
    }
  }
}

/// A product with a multiple of kRowsAtOnce rows.
template <typename R>
WEFT_INLINE void multiply_matrix(ProductArgs<FmaProduct<R>> args, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; row += kRowsAtOnce) {
    multiply_rows<FmaProduct<R>, kRowsAtOnce>(args, width);
    args.a += kRowsAtOnce * args.a_row;
    args.c += kRowsAtOnce * args.c_row;
    if (args.scale != nullptr) args.scale += kRowsAtOnce;
  }
}

// Tokens whose pairs with all later tokens are summed together.
template <typename R>
inline constexpr int kPairBlock = kLanes<R> < 4 ? kLanes<R> : 4;
template <typename R>
inline constexpr int kPairVectors = kChunk* kChunk / kPairBlock<R>;

/// Of one block of tokens j and `columns` vectors of channels.
template <typename R, int columns>
struct PairBlock {
  static constexpr int kBlock = kPairBlock<R>;
  Vector<R> decayed[kBlock][columns];  // k_j times the decays between j and i
  Vector<R> products[kBlock];

  WEFT_INLINE void multiply(const R* r) {
#pragma GCC unroll 4
    for (int j = 0; j < kBlock; ++j) {
      products[j] = load_vector(r) * decayed[j][0];
#pragma GCC unroll 4
      for (int c = 1; c < columns; ++c) products[j] += load_vector(r + c * kLanes<R>) * decayed[j][c];
    }
  }
  WEFT_INLINE void decay(const R* a) {
#pragma GCC unroll 4
    for (int c = 0; c < columns; ++c) {
      Vector<R> factor = load_vector(a + c * kLanes<R>);
#pragma GCC unroll 4
      for (int j = 0; j < kBlock; ++j) decayed[j][c] *= factor;
    }
  }
};

/// Adds r_i·k_j·(decays between), and r_i·u·k_i for j = i, of channels [first, first + columns vectors) to `sums`:
/// [i, block of j], each vector with lanes / kPairBlock lanes of every j of the block.
template <typename R, int columns>
void add_pair_sums(const WkvChunk<R>& chunk, const R* u, int64_t width, int64_t first, Vector<R>* sums) {
  constexpr int kBlock = kPairBlock<R>;
  constexpr int kBlocks = kChunk / kBlock;
  for (int block = 0; block < kBlocks; ++block) {
    PairBlock<R, columns> pairs = {};
    int64_t at = block * kBlock * width + first;
    Vector<R>* sum = sums + block * kBlock * kBlocks + block;
#pragma GCC unroll 4
    for (int own = 0; own < kBlock; ++own, at += width, sum += kBlocks) {
      pairs.multiply(chunk.r + at);
      pairs.decay(chunk.decay + at);
#pragma GCC unroll 4
      for (int c = 0; c < columns; ++c) {
        int64_t shift = c * kLanes<R>;
        Vector<R> key = load_vector(chunk.k + at + shift);
        pairs.products[own] += load_vector(chunk.r + at + shift) * load_vector(u + first + shift) * key;
        pairs.decayed[own][c] = key;
      }
      *sum += sums_of_vectors<R, kBlock>(pairs.products);
    }
    for (int i = (block + 1) * kBlock; i < kChunk; ++i, at += width, sum += kBlocks) {
      pairs.multiply(chunk.r + at);
      pairs.decay(chunk.decay + at);
      *sum += sums_of_vectors<R, kBlock>(pairs.products);
    }
  }
}

/// scores[i, j]: the weight of v_j in y_i, zero above the diagonal.
template <typename R>
WEFT_INLINE void pair_scores(const WkvChunk<R>& chunk, const R* u, int64_t width, Vector<R>* sums, R* scores) {
  for (int i = 0; i < kPairVectors<R>; ++i) sums[i] = Vector<R>{};
  constexpr int64_t kStep = kTileColumns * kLanes<R>;
  int64_t first = 0;
  for (; first + kStep <= width; first += kStep) add_pair_sums<R, kTileColumns>(chunk, u, width, first, sums);
  for (; first < width; first += kLanes<R>) add_pair_sums<R, 1>(chunk, u, width, first, sums);
  constexpr int kJoined = kLanes<R> / kPairBlock<R>;
  for (int i = 0; i < kPairVectors<R> / kJoined; ++i) {
    store_vector(scores + i * kLanes<R>, sums_of_vectors<R, kJoined>(sums + i * kJoined));
  }
}

/// Copies the head's part of states [H, N, N], null for zeros, to [width, width].
template <typename R>
WEFT_INLINE void load_state(const R* states, R* to, const WkvPlace& place, int64_t head) {
  int64_t size = place.head_size;
  for (int64_t at = 0; at < place.width * place.width; ++at) to[at] = 0;
  if (states == nullptr) return;
  for (int64_t n = 0; n < size; ++n) {
    __builtin_memcpy(to + n * place.width, states + (head * size + n) * size, static_cast<size_t>(size) * sizeof(R));
  }
}
template <typename R>
WEFT_INLINE void store_state(const R* from, R* states, const WkvPlace& place, int64_t head) {
  int64_t size = place.head_size;
  for (int64_t n = 0; n < size; ++n) {
    __builtin_memcpy(states + (head * size + n) * size, from + n * place.width, static_cast<size_t>(size) * sizeof(R));
  }
}

/// Where the head's state lies in [*, H, N, N].
WEFT_INLINE int64_t state_at(const WkvForwardArgs& args, int64_t index, int64_t head) {
  return (index * args.num_heads + head) * args.head_size * args.head_size;
}

}  // namespace weft::WEFT_ISA
