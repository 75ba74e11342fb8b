// 16 lanes in the compiler's own vectors, whatever the instruction set: bf16 pairs are widened to f32.

typedef float Lanes __attribute__((vector_size(64)));
typedef uint32_t WordLanes __attribute__((vector_size(64)));
typedef uint16_t HalfLanes __attribute__((vector_size(32)));

struct Pairs {
  Lanes first;
  Lanes second;
};

static inline Lanes zero_lanes() {
  return Lanes{};
}
static inline Lanes add(Lanes a, Lanes b) {
  return a + b;
}

static inline Pairs widen_pairs(WordLanes words) {
  return {.first = (Lanes)(words << 16), .second = (Lanes)(words & 0xffff0000u)};
}

static inline Pairs load_words(const uint16_t* pairs) {
  WordLanes words;
  __builtin_memcpy(&words, pairs, sizeof words);
  return widen_pairs(words);
}

static inline Pairs broadcast_word(const uint16_t* pair) {
  uint32_t word;
  __builtin_memcpy(&word, pair, sizeof word);
  float first = __builtin_bit_cast(float, word << 16);
  float second = __builtin_bit_cast(float, word & 0xffff0000u);
  return {.first = first - Lanes{}, .second = second - Lanes{}};
}

static inline Lanes add_products(Lanes sums, const Pairs& weights, const Pairs& x) {
  return sums + weights.first * x.first + weights.second * x.second;
}

static inline Lanes load_words(const float* words) {
  Lanes lanes;
  __builtin_memcpy(&lanes, words, sizeof lanes);
  return lanes;
}

static inline Lanes broadcast_word(const float* word) {
  return *word - Lanes{};
}

static inline Lanes add_products(Lanes sums, Lanes weights, Lanes x) {
  return sums + weights * x;
}

static inline Lanes load_lanes(const float* values, int64_t count) {
  Lanes lanes = {};
  __builtin_memcpy(&lanes, values, count * sizeof(float));
  return lanes;
}

static inline Lanes load_lanes(const uint16_t* values, int64_t count) {
  HalfLanes halves = {};
  __builtin_memcpy(&halves, values, count * sizeof(uint16_t));
  return (Lanes)(__builtin_convertvector(halves, WordLanes) << 16);
}

static inline void store_lanes(float* values, Lanes lanes, int64_t count) {
  __builtin_memcpy(values, &lanes, count * sizeof(float));
}

/// Rounds to nearest, ties to even; NaN stays NaN.
static inline void store_lanes(uint16_t* values, Lanes lanes, int64_t count) {
  WordLanes words = (WordLanes)lanes;
  WordLanes rounded = (words + 0x7fffu + ((words >> 16) & 1u)) >> 16;
  WordLanes quiet = (words >> 16) | 0x40u;
  WordLanes is_nan = (WordLanes)((words & 0x7fffffffu) > 0x7f800000u);
  HalfLanes halves = __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), HalfLanes);
  __builtin_memcpy(values, &halves, count * sizeof(uint16_t));
}
