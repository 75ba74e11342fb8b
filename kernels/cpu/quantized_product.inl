// The products of quantized_product.h but for what depends on x's type. The including file gives Lanes and the
// operations on them, Input (an element of x), kTileRows and half_lanes (16 f16 widened), and defines add_block.
// Everything here is static: nothing may be shared between instruction sets.

static constexpr int64_t kLanes = 16;
static constexpr int64_t kGroupFeatures = 32;

/// Input features in a block.
template <int kBits>
static constexpr int64_t kBlockFeatures = 32 / kBits;

/// How far ahead of itself a tile asks for its codes; 0: the processor does so itself, and better (measured).
template <int kBits>
static constexpr int64_t kAheadBytes = kBits == 8 ? 512 : 0;

template <int kBits>
static inline void prefetch(const uint32_t* words) {
  if (kAheadBytes < kBits >> 0) __builtin_prefetch(reinterpret_cast<const std::byte*>(words) + kAheadBytes<kBits>);
}

/// Reads the f16 scales of the groups of a panel, one after the other; those of int4 have their minima behind them.
template <int kBits>
struct GroupScales {
  const uint16_t* scales = nullptr;

  /// Of the next group, whose codes follow `words`, moved past a vector of scales where one lies there.
  void advance(int64_t group, const uint32_t*& words) {
    if (kBits == 8 && group % 2 == 1) {
      scales += kLanes;
      return;
    }
    prefetch<kBits>(words);
    scales = reinterpret_cast<const uint16_t*>(words);
    words += kLanes;
  }
  Lanes scale() const { return half_lanes(scales); }
  Lanes minimum() const { return kBits == 4 ? half_lanes(scales + kLanes) : zero_lanes(); }
};

/// The input feature of a block whose codes are the word's `place`-th ones, from the lowest bits.
template <int kBits>
static constexpr int64_t feature_at(int place) {
  constexpr int kHalf = 16 / kBits;
  return place < kHalf ? 2 * place : 2 * (place - kHalf) + 1;
}

/// Adds the products of a block of codes with kRows rows of x, to any chain of sums.
template <int kBits, int kChains, int kRows>
static inline void add_block(const uint32_t* words, const Input* x, int64_t x_stride, Lanes (&sums)[kChains][kRows]);

static inline void store_row(const QuantizedProduct& product, int64_t row, int64_t panel, Lanes sum) {
  int64_t column = panel * kLanes;
  int64_t columns = product.out_features - column < kLanes ? product.out_features - column : kLanes;
  if (product.bias != nullptr) {
    Lanes bias = product.bias_is_f32 ? load_lanes(static_cast<const float*>(product.bias) + column, columns)
                                     : load_lanes(static_cast<const uint16_t*>(product.bias) + column, columns);
    sum = add(sum, bias);
  }
  int64_t offset = row * product.out_features + column;
  if (product.y_is_f32) {
    store_lanes(static_cast<float*>(product.y) + offset, sum, columns);
  } else {
    store_lanes(static_cast<uint16_t*>(product.y) + offset, sum, columns);
  }
}

template <int kBits, int kRows>
static void multiply_tile(const QuantizedProduct& product, int64_t row_begin, int64_t panel) {
  // Several chains of sums hide the latency of additions where there are few rows.
  constexpr int kChains = kRows >= 10 ? 1 : kRows >= 4 ? 2 : 4;
  constexpr int64_t kBlocks = kGroupFeatures / kBlockFeatures<kBits>;
  int64_t stride = product.num_groups * kGroupFeatures;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(product.packed + panel * product.panel_bytes);
  GroupScales<kBits> scales;
  const Input* x = static_cast<const Input*>(product.x) + row_begin * stride;
  const float* x_sums = product.x_sums + row_begin * product.num_groups;
  Lanes totals[kRows] = {};
  for (int64_t group = 0; group < product.num_groups; ++group) {
    scales.advance(group, words);
    Lanes sums[kChains][kRows] = {};
#pragma GCC unroll 8
    for (int64_t block = 0; block < kBlocks; ++block) {
      prefetch<kBits>(words);
      add_block<kBits, kChains, kRows>(words, x + block * kBlockFeatures<kBits>, stride, sums);
      words += kLanes;
    }
    Lanes scale = scales.scale();
    Lanes minimum = scales.minimum();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Lanes sum = sums[0][r];
#pragma GCC unroll 4
      for (int chain = 1; chain < kChains; ++chain) sum = add(sum, sums[chain][r]);
      totals[r] = multiply_add(totals[r], scale, sum);
      if (kBits == 4) totals[r] = multiply_add(totals[r], minimum, broadcast(x_sums[r * product.num_groups + group]));
    }
    x += kGroupFeatures;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) store_row(product, row_begin + r, panel, totals[r]);
}

using TileFunction = void (*)(const QuantizedProduct&, int64_t row_begin, int64_t panel);

/// The tile of `rows` rows, found at compile time among 1 … kRows.
template <int kBits, int kRows>
static TileFunction tile_function(int64_t rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return tile_function<kBits, kRows - 1>(rows);
  }
  return multiply_tile<kBits, kRows>;
}

/// Rows are cut into tiles as equal as can be; the tiles of one panel follow each other, so that it comes from memory
/// once.
static void quantized_product(const QuantizedProduct& product) {
  int64_t tiles = (product.rows + kTileRows - 1) / kTileRows;
  for (int64_t panel = product.panel_begin; panel < product.panel_end; ++panel) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      int64_t begin = product.rows * tile / tiles;
      int64_t rows = product.rows * (tile + 1) / tiles - begin;
      TileFunction multiply = product.is_int4 ? tile_function<4, kTileRows>(rows) : tile_function<8, kTileRows>(rows);
      multiply(product, begin, panel);
    }
  }
}
