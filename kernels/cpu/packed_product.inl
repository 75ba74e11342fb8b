// The products of packed_product.h, for the instruction set that the including file is compiled for. That file gives
// Lanes (16 sums), Pairs (16 pairs of bf16), the operations on them, and the tiles whose sums fit in registers:
// kStreamedRows by one panel where memory is the bound, kTileRows by kTilePanels where arithmetic is.
// Everything here is static: nothing may be shared between instruction sets.

/// Keeps one base pointer for three rows, so that a tile needs few address registers; the compiler would otherwise keep
/// a pointer a row and spill them.
static constexpr int kRowsPerBase = 3;

/// How far ahead of itself a tile that streams asks for its panel, and on into the next one: 8 KB.
static constexpr int64_t kPrefetchElements = 4096;

struct TileInput {
  const uint16_t* x;       // first row of the tile
  int64_t x_stride;        // elements
  const uint16_t* panels;  // first panel of the tile
  int64_t panel_stride;    // elements
};

template <int kRows, int kPanels>
static inline __attribute__((always_inline)) void add_pair(const uint16_t* const (&bases)[(kRows + 2) / kRowsPerBase],
                                                           int64_t x_stride,
                                                           const uint16_t* panels,
                                                           int64_t panel_stride,
                                                           Lanes (&sums)[kRows][kPanels]) {
  Pairs weights[kPanels];
#pragma GCC unroll 16
  for (int p = 0; p < kPanels; ++p) weights[p] = load_pairs(panels + p * panel_stride);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    Pairs x = broadcast_pair(bases[r / kRowsPerBase] + (r % kRowsPerBase) * x_stride);
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) sums[r][p] = add_products(sums[r][p], weights[p], x);
  }
}

/// The last input feature of an odd K; the weight beyond it is zero, but what lies beyond x may be anything.
template <int kRows, int kPanels>
static void add_last_feature(const TileInput& input, int64_t pair, Lanes (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    uint16_t last_pair[2] = {input.x[r * input.x_stride + 2 * pair], 0};
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) {
      Pairs weights = load_pairs(input.panels + p * input.panel_stride + pair * 2 * kPanelWidth);
      sums[r][p] = add_products(sums[r][p], weights, broadcast_pair(last_pair));
    }
  }
}

/// kUnroll independent chains of sums hide the latency of additions when the tile is small.
template <int kRows, int kPanels, int kUnroll>
static inline __attribute__((always_inline)) void sum_tile(const TileInput& input,
                                                           int64_t in_features,
                                                           Lanes (&sums)[kRows][kPanels]) {
  constexpr int kBases = (kRows + 2) / kRowsPerBase;
  const uint16_t* bases[kBases];
#pragma GCC unroll 16
  for (int b = 0; b < kBases; ++b) bases[b] = input.x + b * kRowsPerBase * input.x_stride;
  const uint16_t* panels = input.panels;
  Lanes chains[kUnroll][kRows][kPanels] = {};
  int64_t pair = 0;
  for (; pair + kUnroll <= in_features / 2; pair += kUnroll) {
#pragma GCC unroll 16
    for (int u = 0; u < kUnroll; ++u) {
      const uint16_t* shifted[kBases];
#pragma GCC unroll 16
      for (int b = 0; b < kBases; ++b) shifted[b] = bases[b] + 2 * u;
      if (kPanels == 1) __builtin_prefetch(panels + u * 2 * kPanelWidth + kPrefetchElements);
      add_pair<kRows, kPanels>(shifted, input.x_stride, panels + u * 2 * kPanelWidth, input.panel_stride, chains[u]);
    }
    panels += kUnroll * 2 * kPanelWidth;
#pragma GCC unroll 16
    for (int b = 0; b < kBases; ++b) {
      bases[b] += 2 * kUnroll;
      asm("" : "+r"(bases[b]));
    }
  }
  for (; pair < in_features / 2; ++pair) {
    add_pair<kRows, kPanels>(bases, input.x_stride, panels, input.panel_stride, chains[0]);
    panels += 2 * kPanelWidth;
#pragma GCC unroll 16
    for (int b = 0; b < kBases; ++b) bases[b] += 2;
  }
  if (in_features % 2 != 0) add_last_feature(input, pair, chains[0]);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] = chains[0][r][p];
#pragma GCC unroll 16
      for (int u = 1; u < kUnroll; ++u) sums[r][p] = add(sums[r][p], chains[u][r][p]);
    }
  }
}

template <int kRows, int kPanels>
static inline void store_tile(const PackedProduct& product,
                              int64_t row_begin,
                              int64_t panel_begin,
                              const Lanes (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int p = 0; p < kPanels; ++p) {
    int64_t column = (panel_begin + p) * kPanelWidth;
    int64_t columns = product.out_features - column;
    if (columns > kPanelWidth) columns = kPanelWidth;
    Lanes bias = product.bias != nullptr ? load_bf16(product.bias + column, columns) : zero_lanes();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int64_t offset = (row_begin + r) * product.out_features + column;
      Lanes sum = add(sums[r][p], bias);
      if (product.y_is_f32) {
        float* y = static_cast<float*>(product.y) + offset;
        store_f32(y, product.accumulate ? add(sum, load_f32(y, columns)) : sum, columns);
      } else {
        uint16_t* y = static_cast<uint16_t*>(product.y) + offset;
        store_bf16(y, product.accumulate ? add(sum, load_bf16(y, columns)) : sum, columns);
      }
    }
  }
}

template <int kRows, int kPanels>
static void multiply_tile(const PackedProduct& product, int64_t row_begin, int64_t panel_begin) {
  int64_t panel_stride = (product.in_features + 1) / 2 * 2 * kPanelWidth;
  TileInput input = {.x = product.x + row_begin * product.x_stride,
                     .x_stride = product.x_stride,
                     .panels = product.packed + (panel_begin - product.packed_begin) * panel_stride,
                     .panel_stride = panel_stride};
  constexpr int kUnroll = kRows * kPanels >= 12 ? 1 : kRows * kPanels >= 6 ? 2 : 4;
  Lanes sums[kRows][kPanels];
  sum_tile<kRows, kPanels, kUnroll>(input, product.in_features, sums);
  store_tile<kRows, kPanels>(product, row_begin, panel_begin, sums);
}

using TileFunction = void (*)(const PackedProduct&, int64_t row_begin, int64_t panel_begin);

/// The tile of `rows` rows by kPanels panels, found at compile time among 1 … kRows.
template <int kRows, int kPanels>
static TileFunction tile_function(int64_t rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return tile_function<kRows - 1, kPanels>(rows);
  }
  return multiply_tile<kRows, kPanels>;
}

/// Multiplies groups of kPanels panels as long as they are whole, and returns the panel after them. Rows are cut into
/// tiles as equal as can be; the tiles of one group follow each other, so that its weights come from memory once.
template <int kMaxRows, int kPanels>
static int64_t multiply_panel_groups(const PackedProduct& product, int64_t panel) {
  int64_t tiles = (product.rows + kMaxRows - 1) / kMaxRows;
  for (; panel + kPanels <= product.panel_end; panel += kPanels) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      int64_t begin = product.rows * tile / tiles;
      int64_t end = product.rows * (tile + 1) / tiles;
      tile_function<kMaxRows, kPanels>(end - begin)(product, begin, panel);
    }
  }
  return panel;
}

static void packed_product(const PackedProduct& product) {
  int64_t panel = product.panel_begin;
  if (product.rows > kStreamedRows) panel = multiply_panel_groups<kTileRows, kTilePanels>(product, panel);
  multiply_panel_groups<kStreamedRows, 1>(product, panel);
}
