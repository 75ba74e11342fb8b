#include <immintrin.h>

#include "kernels/cpu/quantized_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_avx512.inl"

#include "kernels/cpu/quantized_avx512.inl"

using Input = float;
constexpr int kTileRows = 8;

inline void store_lanes(uint16_t* values, Lanes lanes, int64_t count) {
  _mm256_mask_storeu_epi16(values, first_lanes(count), _mm512_cvtepi32_epi16(round_to_bf16(lanes)));
}

inline void store_pairs(uint16_t* pairs, Lanes first, Lanes second) {
  __m512i upper = _mm512_slli_epi32(round_to_bf16(second), 16);
  _mm512_storeu_si512(pairs, _mm512_or_si512(round_to_bf16(first), upper));
}

#include "kernels/cpu/quantized_product.inl"

#include "kernels/cpu/quantized_decode.inl"
#include "kernels/cpu/quantized_widen.inl"

}  // namespace

void quantized_product_avx512(const QuantizedProduct& product) {
  quantized_product(product);
}

void widen_panel_avx512(const QuantizedPanel& source) {
  widen_panel(source);
}

}  // namespace weft
