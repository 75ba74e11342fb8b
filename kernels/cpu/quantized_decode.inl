// Products with x in f32, for quantized_product.inl. The including file gives Words (16 words of codes), load_words and
// decode<kBits>(words, place), the codes at a place as Lanes of f32.

template <int kBits, int kChains, int kRows>
static inline __attribute__((always_inline)) void add_block(const uint32_t* words,
                                                            const float* x,
                                                            int64_t x_stride,
                                                            Lanes (&sums)[kChains][kRows]) {
  Words codes = load_words(words);
#pragma GCC unroll 8
  for (int place = 0; place < 32 / kBits; ++place) {
    Lanes weights = decode<kBits>(codes, place);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Lanes& sum = sums[place % kChains][r];
      sum = multiply_add(sum, weights, broadcast(x[r * x_stride + feature_at<kBits>(place)]));
    }
  }
}
