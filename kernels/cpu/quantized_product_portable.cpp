#include "kernels/cpu/quantized_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_generic.inl"

using Input = float;
constexpr int kTileRows = 2;

inline Lanes multiply_add(Lanes sums, Lanes a, Lanes b) {
  return sums + a * b;
}

inline Lanes broadcast(float value) {
  return value - Lanes{};
}

/// f16 widened: its exponent, of another bias, by a product; NaN stays NaN.
inline Lanes half_lanes(const uint16_t* values) {
  HalfLanes halves;
  __builtin_memcpy(&halves, values, sizeof halves);
  WordLanes words = __builtin_convertvector(halves, WordLanes);
  WordLanes is_nan = (WordLanes)((words & 0x7fffu) > 0x7c00u);
  Lanes size = (Lanes)((words & 0x7fffu) << 13) * 0x1p112f;
  return (Lanes)((WordLanes)size | (words & 0x8000u) << 16 | (is_nan & 0x7fc00000u));
}

using Words = WordLanes;

inline Words load_words(const uint32_t* words) {
  Words lanes;
  __builtin_memcpy(&lanes, words, sizeof lanes);
  return lanes;
}

typedef int32_t IntegerLanes __attribute__((vector_size(64)));

template <int kBits>
inline Lanes decode(Words words, int place) {
  if constexpr (kBits == 4) {
    return __builtin_convertvector((IntegerLanes)((words >> (4 * place)) & 15u), Lanes);
  } else {
    return __builtin_convertvector((IntegerLanes)(words << (24 - 8 * place)) >> 24, Lanes);
  }
}

inline void store_pairs(uint16_t* pairs, Lanes first, Lanes second) {
  uint16_t halves[2][16];
  store_lanes(halves[0], first, 16);
  store_lanes(halves[1], second, 16);
  for (int i = 0; i < 16; ++i) {
    pairs[2 * i] = halves[0][i];
    pairs[2 * i + 1] = halves[1][i];
  }
}

#include "kernels/cpu/quantized_product.inl"

#include "kernels/cpu/quantized_decode.inl"
#include "kernels/cpu/quantized_widen.inl"

}  // namespace

void quantized_product_portable(const QuantizedProduct& product) {
  quantized_product(product);
}

void widen_panel_portable(const QuantizedPanel& source) {
  widen_panel(source);
}

}  // namespace weft
