// Vectors of the instruction set that a *_loops.cpp file is compiled for, by the compiler's vector extensions; and
// small matrix products with them.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/cpu/loop_math.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace weft::WEFT_ISA {

// Columns of vectors in a tile of a product: a tile's sums must fit the registers (32 with AVX-512, else 16).
#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kTileColumns = 4;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kTileColumns = 2;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kTileColumns = 2;
#endif
inline constexpr int kTileRows = 6;

template <typename R>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
  typedef int32_t Integer __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
  typedef int64_t Integer __attribute__((vector_size(kVectorBytes)));
};
template <typename R>
using Vector = typename Simd<R>::Vector;
template <typename R>
using IntegerVector = typename Simd<R>::Integer;
using Words = uint32_t __attribute__((vector_size(kVectorBytes)));

template <typename R>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(R));

template <typename R>
WEFT_INLINE Vector<R> load_vector(const R* from) {
  return *reinterpret_cast<const typename Simd<R>::Unaligned*>(from);
}
template <typename R>
WEFT_INLINE void store_vector(R* to, Vector<R> value) {
  *reinterpret_cast<typename Simd<R>::Unaligned*>(to) = value;
}

/// As many consecutive elements as there are lanes, in the precision of sums.
template <typename R>
WEFT_INLINE Vector<R> load_elements(const R* from) {
  return load_vector(from);
}
WEFT_INLINE Vector<float> load_elements(const bfloat16* from) {
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
  typedef uint16_t Unaligned __attribute__((vector_size(kVectorBytes / 2), aligned(1), may_alias));
  Halves halves = *reinterpret_cast<const Unaligned*>(from);
  return reinterpret_cast<Vector<float>>(__builtin_convertvector(halves, Words) << 16);
}

template <typename R>
using LaneSequence = std::make_integer_sequence<int, kLanes<R>>;

/// Lanes i and i ^ step change places.
template <int step, typename V, int... lane>
WEFT_INLINE V swap_lanes(V value, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(value, value, (lane ^ step)...);
}

template <typename R, int step = kLanes<R> / 2>
WEFT_INLINE R horizontal_sum(Vector<R> value) {
  if constexpr (step == 0) {
    return value[0];
  } else {
    return horizontal_sum<R, step / 2>(value + swap_lanes<step>(value, LaneSequence<R>{}));
  }
}

/// Σ term(x[i]), where term takes a number or a vector of them. Four vectors of sums hide the latency of additions.
template <typename T, typename Term>
WEFT_INLINE Real<T> sum_of(const T* x, int64_t count, const Term& term) {
  using R = Real<T>;
  constexpr int kChains = 4;
  constexpr int64_t kStep = kLanes<R>;
  Vector<R> sums[kChains] = {};
  int64_t i = 0;
  for (; i + kChains * kStep <= count; i += kChains * kStep) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) sums[chain] += term(load_elements(x + i + chain * kStep));
  }
  for (; i + kStep <= count; i += kStep) sums[0] += term(load_elements(x + i));
  R sum = horizontal_sum<R>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) sum += term(load(x[i]));
  return sum;
}

template <typename R, int step = kLanes<R> / 2>
WEFT_INLINE R horizontal_maximum(Vector<R> value) {
  if constexpr (step == 0) {
    return value[0];
  } else {
    Vector<R> other = swap_lanes<step>(value, LaneSequence<R>{});
    return horizontal_maximum<R, step / 2>(other > value ? other : value);
  }
}

/// Sums of neighbouring lanes: first of `low`, then of `high`.
template <typename V, int... lane>
WEFT_INLINE V add_neighbours(V low, V high, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(low, high, (2 * lane)...) + __builtin_shufflevector(low, high, (2 * lane + 1)...);
}

/// Lane i of the result is the sum of all lanes of vectors[i]; `count` of them, a power of two, contribute lanes' count
/// / lanes each.
template <typename R, int count = kLanes<R>>
WEFT_INLINE Vector<R> sums_of_vectors(const Vector<R>* vectors) {
  if constexpr (count == 1) {
    return *vectors;
  } else {
    return add_neighbours(
        sums_of_vectors<R, count / 2>(vectors), sums_of_vectors<R, count / 2>(vectors + count / 2), LaneSequence<R>{});
  }
}

/// Exchanges the off-diagonal blocks of `step` lanes between two rows of a square.
template <int step, typename V, int... lane>
WEFT_INLINE void exchange_blocks(V& low, V& high, std::integer_sequence<int, lane...>) {
  constexpr int kCount = sizeof...(lane);
  V first = __builtin_shufflevector(low, high, (lane & step ? kCount + lane - step : lane)...);
  high = __builtin_shufflevector(low, high, (lane & step ? kCount + lane : lane + step)...);
  low = first;
}

/// to[i] = value(i), rounded, for i in [begin, end). bf16 is rounded by the processor where it can, which takes what is
/// smaller than normal numbers for zero.
template <typename T, typename Value>
WEFT_INLINE void round_each(T* to, int64_t begin, int64_t end, const Value& value) {
  int64_t i = begin;
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bfloat16>) {
    constexpr int64_t kBlock = 2 * kLanes<float>;
    for (; i + kBlock <= end; i += kBlock) {
      alignas(kVectorBytes) float block[kBlock];
#pragma omp simd
      for (int64_t j = 0; j < kBlock; ++j) block[j] = value(i + j);
      Vector<float> low = load_vector(block);
      Vector<float> high = load_vector(block + kLanes<float>);
      _mm512_storeu_si512(to + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
  }
#endif
#pragma omp simd
  for (int64_t rest = i; rest < end; ++rest) to[rest] = round_to<T>(value(rest));
}

/// Transposes a square of lanes by lanes.
template <typename R, int step = kLanes<R> / 2>
WEFT_INLINE void transpose(Vector<R>* rows) {
  if constexpr (step > 0) {
#pragma GCC unroll 16
    for (int row = 0; row < kLanes<R>; ++row) {
      if ((row & step) == 0) exchange_blocks<step>(rows[row], rows[row + step], LaneSequence<R>{});
    }
    transpose<R, step / 2>(rows);
  }
}

/// 2^x for x ≤ 0 (relative error 1e-7; 0 below the normal range; NaN for NaN). Minimax polynomial on |f| ≤ 1/2.
WEFT_INLINE Vector<float> exp2_of_negative(Vector<float> x) {
#if defined(__AVX512F__)
  Vector<float> n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  constexpr float kRoundToInteger = 12582912.0f;
  x = x < -127.0f ? Vector<float>{} - 127.0f : x;
  Vector<float> shifted = x + kRoundToInteger;
  Vector<float> n = shifted - kRoundToInteger;
#endif
  Vector<float> f = x - n;
  Vector<float> p = f * 1.326459053e-3f + 9.671619019e-3f;
  p = p * f + 5.550735032e-2f;
  p = p * f + 0.2402224046f;
  p = p * f + 0.6931469764f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);
#else
  using Integers = IntegerVector<float>;
  Integers exponent = reinterpret_cast<Integers>(shifted) - __builtin_bit_cast(int32_t, kRoundToInteger);
  return p * reinterpret_cast<Vector<float>>((exponent + 127) << 23);
#endif
}
WEFT_INLINE Vector<double> exp2_of_negative(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = __builtin_exp2(x[lane]);
  return x;
}

/// tanh within 2 ulp or so: (1 − e^−2|x|) / (1 + e^−2|x|), and an odd polynomial where that would cancel.
WEFT_INLINE Vector<float> tanh_of(Vector<float> x) {
  Vector<float> size = x < 0.0f ? -x : x;
  Vector<float> e = exp2_of_negative(size * -2.88539008f);
  Vector<float> large = (1.0f - e) / (1.0f + e);
  Vector<float> square = x * x;
  Vector<float> p = square * kTanhCoefficients[0] + kTanhCoefficients[1];
  for (int i = 2; i < 5; ++i) p = p * square + kTanhCoefficients[i];
  Vector<float> small = x + x * square * p;
  return size < kTanhSwitch ? small : (x < 0.0f ? -large : large);
}
WEFT_INLINE Vector<double> tanh_of(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = __builtin_tanh(x[lane]);
  return x;
}

// How a product is formed. The left factor is read an element at a time and broadcast, the right one a vector at a
// time; an element holds `kDepth` consecutive steps of the sum.

template <typename R>
struct FmaProduct {
  using Sum = R;
  using Element = R;
  using Left = R;
  static constexpr int kDepth = 1;
  static WEFT_INLINE Left left(const Element* a) { return *a; }
  static WEFT_INLINE Vector<R> right(const Element* b) { return load_vector(b); }
  static WEFT_INLINE Vector<R> multiply_add(Left a, Vector<R> b, Vector<R> sum) { return sum + a * b; }
};

#if defined(__AVX512BF16__)
/// Pairs of bf16, summed in f32 by vdpbf16ps.
struct Bf16Product {
  using Sum = float;
  using Element = bfloat16;
  using Left = __m512bh;
  static constexpr int kDepth = 2;
  static WEFT_INLINE Left left(const Element* a) {
    int32_t pair;
    __builtin_memcpy(&pair, a, sizeof(pair));
    return reinterpret_cast<Left>(_mm512_set1_epi32(pair));
  }
  static WEFT_INLINE __m512bh right(const Element* b) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(b)); }
  static WEFT_INLINE Vector<float> multiply_add(Left a, __m512bh b, Vector<float> sum) {
    return _mm512_dpbf16_ps(sum, a, b);
  }
};
#endif

/// c[r, column] = Σ_step a[r, step]·b[step, column] for `rows` rows and `columns` vectors, plus the old c[r, column]
/// when `accumulate`, times scale[r] when given. Strides are in elements.
template <typename Product>
struct ProductArgs {
  const typename Product::Element* a = nullptr;
  int64_t a_row = 0, a_step = 0;
  const typename Product::Element* b = nullptr;
  int64_t b_step = 0;
  int64_t steps = 0;
  typename Product::Sum* c = nullptr;
  int64_t c_row = 0;
  bool accumulate = false;
  const typename Product::Sum* scale = nullptr;
};

template <typename Product, int rows, int columns>
WEFT_INLINE void multiply_tile(const ProductArgs<Product>& args) {
  using R = typename Product::Sum;
  constexpr int kVectorElements = kLanes<R> * Product::kDepth;
  Vector<R> sums[rows][columns];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int column = 0; column < columns; ++column) {
      sums[r][column] = Vector<R>{};
      if (args.accumulate) sums[r][column] = load_vector(args.c + r * args.c_row + column * kLanes<R>);
      if (args.scale != nullptr) sums[r][column] *= args.scale[r];
    }
  }
  const typename Product::Element* a = args.a;
  const typename Product::Element* b = args.b;
  for (int64_t step = 0; step < args.steps; ++step, a += args.a_step, b += args.b_step) {
    decltype(Product::right(b)) right[columns];
#pragma GCC unroll 4
    for (int column = 0; column < columns; ++column) right[column] = Product::right(b + column * kVectorElements);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      typename Product::Left left = Product::left(a + r * args.a_row);
#pragma GCC unroll 4
      for (int column = 0; column < columns; ++column) {
        sums[r][column] = Product::multiply_add(left, right[column], sums[r][column]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int column = 0; column < columns; ++column) {
      store_vector(args.c + r * args.c_row + column * kLanes<R>, sums[r][column]);
    }
  }
}

/// `rows` rows by `width` columns, a multiple of the lanes.
template <typename Product, int rows>
void multiply_rows(ProductArgs<Product> args, int64_t width) {
  using R = typename Product::Sum;
  constexpr int kVectorElements = kLanes<R> * Product::kDepth;
  int64_t vectors = width / kLanes<R>;
  for (; vectors >= kTileColumns; vectors -= kTileColumns) {
    multiply_tile<Product, rows, kTileColumns>(args);
    args.b += kTileColumns * kVectorElements;
    args.c += kTileColumns * kLanes<R>;
  }
  if constexpr (kTileColumns > 2) {
    for (; vectors >= 2; vectors -= 2) {
      multiply_tile<Product, rows, 2>(args);
      args.b += 2 * kVectorElements;
      args.c += 2 * kLanes<R>;
    }
  }
  for (; vectors > 0; --vectors) {
    multiply_tile<Product, rows, 1>(args);
    args.b += kVectorElements;
    args.c += kLanes<R>;
  }
}

/// The same for any number of rows, without scales.
template <typename Product>
void multiply_any_rows(ProductArgs<Product> args, int64_t rows, int64_t width) {
  for (; rows >= kTileRows; rows -= kTileRows) {
    multiply_rows<Product, kTileRows>(args, width);
    args.a += kTileRows * args.a_row;
    args.c += kTileRows * args.c_row;
  }
  for (; rows > 0; --rows) {
    multiply_rows<Product, 1>(args, width);
    args.a += args.a_row;
    args.c += args.c_row;
  }
}

/// Cuts memory into arrays, each aligned to 64 bytes. With a null start it only counts.
struct ScratchCutter {
  uintptr_t start = 0;
  int64_t used = 0;

  template <typename T>
  WEFT_INLINE T* cut(int64_t count) {
    T* array = reinterpret_cast<T*>(start + static_cast<uintptr_t>(used));
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return array;
  }
};

}  // namespace weft::WEFT_ISA
