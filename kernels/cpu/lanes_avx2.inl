// 16 lanes of f32 in two registers of AVX2.

struct Lanes {
  __m256 low;
  __m256 high;
};

static inline Lanes zero_lanes() {
  return {.low = _mm256_setzero_ps(), .high = _mm256_setzero_ps()};
}
static inline Lanes add(Lanes a, Lanes b) {
  return {.low = _mm256_add_ps(a.low, b.low), .high = _mm256_add_ps(a.high, b.high)};
}

static inline Lanes multiply_add(Lanes sums, Lanes a, Lanes b) {
  return {.low = _mm256_fmadd_ps(a.low, b.low, sums.low), .high = _mm256_fmadd_ps(a.high, b.high, sums.high)};
}

static inline Lanes load_lanes(const float* values, int64_t count) {
  Lanes lanes = zero_lanes();
  __builtin_memcpy(&lanes, values, static_cast<size_t>(count) * sizeof(float));
  return lanes;
}

static inline __m256 widen_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

static inline Lanes load_lanes(const uint16_t* values, int64_t count) {
  __m128i halves[2] = {};
  __builtin_memcpy(halves, values, static_cast<size_t>(count) * sizeof(uint16_t));
  return {.low = widen_bf16(halves[0]), .high = widen_bf16(halves[1])};
}

static inline void store_lanes(float* values, Lanes lanes, int64_t count) {
  __builtin_memcpy(values, &lanes, static_cast<size_t>(count) * sizeof(float));
}

/// The rounded bf16 in the lower half of each word: to nearest, ties to even; NaN stays NaN.
static inline __m256i round_to_bf16(__m256 values) {
  __m256i words = _mm256_castps_si256(values);
  __m256i upper = _mm256_srli_epi32(words, 16);
  __m256i bias = _mm256_add_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(words, bias), 16);
  __m256i quiet_nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, quiet_nan, is_nan);
}

static inline void store_lanes(uint16_t* values, Lanes lanes, int64_t count) {
  __m256i interleaved = _mm256_packus_epi32(round_to_bf16(lanes.low), round_to_bf16(lanes.high));
  __m256i halves = _mm256_permute4x64_epi64(interleaved, 0b11011000);
  __builtin_memcpy(values, &halves, static_cast<size_t>(count) * sizeof(uint16_t));
}
