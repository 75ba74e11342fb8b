// 16 lanes of f32 in a register of AVX-512, with or without its bf16 instructions.

using Lanes = __m512;

static inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}

static inline Lanes zero_lanes() {
  return _mm512_setzero_ps();
}
static inline Lanes add(Lanes a, Lanes b) {
  return _mm512_add_ps(a, b);
}

static inline Lanes load_lanes(const float* values, int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), values);
}

static inline Lanes load_lanes(const uint16_t* values, int64_t count) {
  __m256i halves = _mm256_maskz_loadu_epi16(first_lanes(count), values);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

static inline void store_lanes(float* values, Lanes lanes, int64_t count) {
  _mm512_mask_storeu_ps(values, first_lanes(count), lanes);
}

/// The rounded bf16 in the lower half of each word: to nearest, ties to even; NaN stays NaN.
static inline __m512i round_to_bf16(Lanes lanes) {
  __m512i words = _mm512_castps_si512(lanes);
  __m512i upper = _mm512_srli_epi32(words, 16);
  __m512i bias = _mm512_add_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(words, bias), 16);
  __mmask16 is_nan = _mm512_cmp_ps_mask(lanes, lanes, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, is_nan, upper, _mm512_set1_epi32(0x40));
}
