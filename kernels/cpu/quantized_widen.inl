// Widened panels, with what quantized_product.inl and quantized_decode.inl want of the including file, and store_pairs:
// Lanes of two neighbouring input features rounded to pairs of bf16.

template <int kBits>
static void widen_panel(const QuantizedPanel& source) {
  constexpr int64_t kFeatures = kBlockFeatures<kBits>;
  constexpr int kHalf = 16 / kBits;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(source.panel);
  GroupScales<kBits> scales;
  Lanes scale = zero_lanes(), minimum = zero_lanes();
  for (int64_t begin = 0; begin < source.in_features; begin += kFeatures) {
    if (begin % kGroupFeatures == 0) {
      scales.advance(begin / kGroupFeatures, words);
      scale = scales.scale();
      minimum = scales.minimum();
    }
    Words codes = load_words(words);
    words += kLanes;
    int64_t features = source.in_features - begin;
#pragma GCC unroll 4
    for (int pair = 0; pair < kHalf; ++pair) {
      if (2 * pair >= features) break;
      Lanes first = multiply_add(minimum, scale, decode<kBits>(codes, pair));
      Lanes second = multiply_add(minimum, scale, decode<kBits>(codes, pair + kHalf));
      int64_t feature = begin + 2 * pair;
      if (!source.widens_to_f32) {
        store_pairs(static_cast<uint16_t*>(source.widened) + feature * kLanes, first, second);
        continue;
      }
      float* widened = static_cast<float*>(source.widened) + feature * kLanes;
      store_lanes(widened, first, kLanes);
      if (2 * pair + 1 < features) store_lanes(widened + kLanes, second, kLanes);
    }
  }
}

static void widen_panel(const QuantizedPanel& source) {
  source.is_int4 ? widen_panel<4>(source) : widen_panel<8>(source);
}
