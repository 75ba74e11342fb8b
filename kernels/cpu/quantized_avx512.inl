// What quantized products of AVX-512 share, with or without its bf16 instructions.

static inline Lanes multiply_add(Lanes sums, Lanes a, Lanes b) {
  return _mm512_fmadd_ps(a, b, sums);
}

static inline Lanes broadcast(float value) {
  return _mm512_set1_ps(value);
}

static inline Lanes half_lanes(const uint16_t* values) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
}

using Words = __m512i;

static inline Words load_words(const uint32_t* words) {
  return _mm512_loadu_si512(words);
}

template <int kBits>
static inline Lanes decode(Words words, int place) {
  if constexpr (kBits == 4) {
    // The permutation looks at the lowest 4 bits of an index only.
    const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * place), values);
  } else {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 24 - 8 * place), 24));
  }
}
