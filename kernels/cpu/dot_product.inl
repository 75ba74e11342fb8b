// The products of dot_product.h, for the instruction set that the including file is compiled for. That file gives
// kVectorBytes and kMaxDotRows, the rows of x whose sums with four rows of the weight fit in registers.

typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
static constexpr int64_t kVectorFloats = kVectorBytes / sizeof(float);
static constexpr int kWeightRows = 4;
/// Short rows are asked for four ahead, as a whole; of long ones, which would not stay in the first-level cache until
/// they are used, what follows soon.
static constexpr int64_t kMaxPrefetchedDepth = 1024;
static constexpr int64_t kPrefetchFloats = 512;

static inline FloatVector load_floats(const float* values) {
  FloatVector vector;
  __builtin_memcpy(&vector, values, sizeof vector);
  return vector;
}

/// The last `count` values, filled up with zeros.
static inline FloatVector load_some_floats(const float* values, int64_t count) {
  FloatVector vector = {};
  __builtin_memcpy(&vector, values, static_cast<unsigned long>(count) * sizeof(float));
  return vector;
}

/// Halves are added until one number is left.
typedef float FourFloats __attribute__((vector_size(16)));
typedef float EightFloats __attribute__((vector_size(32)));
typedef float SixteenFloats __attribute__((vector_size(64)));

static inline float sum_of(const FourFloats& v) {
  return (v[0] + v[2]) + (v[1] + v[3]);
}

[[maybe_unused]] static inline float sum_of(const EightFloats& v) {
  return sum_of(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
}

[[maybe_unused]] static inline float sum_of(const SixteenFloats& v) {
  return sum_of(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}

template <int kRows, int kWeights>
static inline __attribute__((always_inline)) void add_dot_products(const FloatVector (&x)[kRows],
                                                                   const FloatVector (&weights)[kWeights],
                                                                   FloatVector (&sums)[kRows][kWeights]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int w = 0; w < kWeights; ++w) sums[r][w] += x[r] * weights[w];
  }
}

/// Rows [row, row + kRows) of y, out features [n, n + kWeights).
template <int kRows, int kWeights>
static void dot_tile(const DotProduct& product, int64_t row, int64_t n) {
  int64_t depth = product.in_features;
  int64_t prefetch_distance = depth <= kMaxPrefetchedDepth ? kWeights * depth : kPrefetchFloats;
  const float* x_begin = product.x + row * depth;
  const float* weight_begin = product.weight + n * depth;
  FloatVector sums[kRows][kWeights] = {};
  FloatVector x[kRows];
  FloatVector weights[kWeights];
  int64_t k = 0;
  for (; k + kVectorFloats <= depth; k += kVectorFloats) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) x[r] = load_floats(x_begin + r * depth + k);
#pragma GCC unroll 16
    for (int w = 0; w < kWeights; ++w) {
      const float* weight = weight_begin + w * depth + k;
      weights[w] = load_floats(weight);
      __builtin_prefetch(weight + prefetch_distance);
    }
    add_dot_products(x, weights, sums);
  }
  if (k < depth) {
    for (int r = 0; r < kRows; ++r) x[r] = load_some_floats(x_begin + r * depth + k, depth - k);
    for (int w = 0; w < kWeights; ++w) weights[w] = load_some_floats(weight_begin + w * depth + k, depth - k);
    add_dot_products(x, weights, sums);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int w = 0; w < kWeights; ++w) {
      float bias = product.bias != nullptr ? product.bias[n + w] : 0.0f;
      product.y[(row + r) * product.out_features + n + w] = sum_of(sums[r][w]) + bias;
    }
  }
}

using DotTileFunction = void (*)(const DotProduct&, int64_t row, int64_t n);

template <int kWeights, int kRows = kMaxDotRows>
static DotTileFunction dot_tile_function(int64_t rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return dot_tile_function<kWeights, kRows - 1>(rows);
  }
  return dot_tile<kRows, kWeights>;
}

template <int kWeights>
static void dot_rows(const DotProduct& product, int64_t n) {
  for (int64_t row = 0; row < product.rows; row += kMaxDotRows) {
    dot_tile_function<kWeights>(product.rows - row)(product, row, n);
  }
}

static void dot_product(const DotProduct& product) {
  int64_t n = product.begin;
  for (; n + kWeightRows <= product.end; n += kWeightRows) dot_rows<kWeightRows>(product, n);
  for (; n < product.end; ++n) dot_rows<1>(product, n);
}
