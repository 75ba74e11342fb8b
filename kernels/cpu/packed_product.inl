// The products of packed_product.h, for the instruction set that the including file is compiled for. That file gives
// Lanes (16 sums), what 16 words of weights are (Lanes of f32; pairs of bf16), the operations on them, and the tiles
// whose sums fit in registers: kStreamedRows by one panel where memory is the bound, kTileRows by kTilePanels where
// arithmetic is, by the elements' type.
// Everything here is static: nothing may be shared between instruction sets.

/// Keeps one base pointer for three rows, so that a tile needs few address registers; the compiler would otherwise keep
/// a pointer a row and spill them.
static constexpr int kRowsPerBase = 3;

/// How far ahead of itself a tile asks for its panels: one that streams from memory, and on into the next panel, or one
/// whose panels lie in the second-level cache.
template <int kPanels>
static constexpr int64_t kPrefetchBytes = kPanels == 1 ? 8192 : 1024;

/// Input features in a word of a panel.
template <typename Element>
static constexpr int64_t kPerWord = 4 / static_cast<int64_t>(sizeof(Element));

template <typename Element>
using Words = decltype(load_words(static_cast<const Element*>(nullptr)));

template <typename Element>
struct TileInput {
  const Element* x;       // first row of the tile
  int64_t x_stride;       // elements
  const Element* panels;  // first panel of the tile
  int64_t panel_stride;   // elements
};

template <typename Element, int kRows, int kPanels>
static inline __attribute__((always_inline)) void add_word(const Element* const (&bases)[(kRows + 2) / kRowsPerBase],
                                                           int64_t x_stride,
                                                           const Element* panels,
                                                           int64_t panel_stride,
                                                           Lanes (&sums)[kRows][kPanels]) {
  Words<Element> weights[kPanels];
#pragma GCC unroll 16
  for (int p = 0; p < kPanels; ++p) weights[p] = load_words(panels + p * panel_stride);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    Words<Element> x = broadcast_word(bases[r / kRowsPerBase] + (r % kRowsPerBase) * x_stride);
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) sums[r][p] = add_products(sums[r][p], weights[p], x);
  }
}

/// The last input feature of an odd K in bf16; the weight beyond it is zero, but what lies beyond x may be anything.
template <int kRows, int kPanels>
static void add_last_feature(const TileInput<uint16_t>& input, int64_t pair, Lanes (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    uint16_t last_pair[2] = {input.x[r * input.x_stride + 2 * pair], 0};
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) {
      Words<uint16_t> weights = load_words(input.panels + p * input.panel_stride + pair * 2 * kPanelWidth);
      sums[r][p] = add_products(sums[r][p], weights, broadcast_word(last_pair));
    }
  }
}

/// kUnroll independent chains of sums hide the latency of additions when the tile is small.
template <int kUnroll, typename Element, int kRows, int kPanels>
static inline __attribute__((always_inline)) void sum_tile(const TileInput<Element>& input,
                                                           int64_t in_features,
                                                           Lanes (&sums)[kRows][kPanels]) {
  constexpr int kBases = (kRows + 2) / kRowsPerBase;
  constexpr int64_t kFeatures = kPerWord<Element>;
  constexpr int64_t kAhead = kPrefetchBytes<kPanels> / static_cast<int64_t>(sizeof(Element));
  const Element* bases[kBases];
#pragma GCC unroll 16
  for (int b = 0; b < kBases; ++b) bases[b] = input.x + b * kRowsPerBase * input.x_stride;
  const Element* panels = input.panels;
  Lanes chains[kUnroll][kRows][kPanels] = {};
  int64_t num_words = in_features / kFeatures;
  int64_t word = 0;
  for (; word + kUnroll <= num_words; word += kUnroll) {
#pragma GCC unroll 16
    for (int u = 0; u < kUnroll; ++u) {
      const Element* shifted[kBases];
#pragma GCC unroll 16
      for (int b = 0; b < kBases; ++b) shifted[b] = bases[b] + kFeatures * u;
      const Element* weights = panels + u * kFeatures * kPanelWidth;
#pragma GCC unroll 16
      for (int p = 0; p < kPanels; ++p) __builtin_prefetch(weights + p * input.panel_stride + kAhead);
      add_word<Element, kRows, kPanels>(shifted, input.x_stride, weights, input.panel_stride, chains[u]);
    }
    panels += kUnroll * kFeatures * kPanelWidth;
#pragma GCC unroll 16
    for (int b = 0; b < kBases; ++b) {
      bases[b] += kFeatures * kUnroll;
      asm("" : "+r"(bases[b]));
    }
  }
  for (; word < num_words; ++word) {
    add_word<Element, kRows, kPanels>(bases, input.x_stride, panels, input.panel_stride, chains[0]);
    panels += kFeatures * kPanelWidth;
#pragma GCC unroll 16
    for (int b = 0; b < kBases; ++b) bases[b] += kFeatures;
  }
  if constexpr (kFeatures == 2) {
    if (in_features % 2 != 0) add_last_feature(input, word, chains[0]);
  }
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

template <typename Element, int kRows, int kPanels>
static inline void store_tile(const PackedProduct<Element>& product,
                              int64_t row_begin,
                              int64_t panel_begin,
                              const Lanes (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int p = 0; p < kPanels; ++p) {
    int64_t column = (panel_begin + p) * kPanelWidth;
    int64_t columns = product.out_features - column;
    if (columns > kPanelWidth) columns = kPanelWidth;
    Lanes bias = product.bias != nullptr ? load_lanes(product.bias + column, columns) : zero_lanes();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int64_t offset = (row_begin + r) * product.out_features + column;
      Lanes sum = add(sums[r][p], bias);
      if (product.y_is_f32) {
        float* y = static_cast<float*>(product.y) + offset;
        store_lanes(y, product.accumulate ? add(sum, load_lanes(y, columns)) : sum, columns);
      } else {
        uint16_t* y = static_cast<uint16_t*>(product.y) + offset;
        store_lanes(y, product.accumulate ? add(sum, load_lanes(y, columns)) : sum, columns);
      }
    }
  }
}

/// Asks for the tile's lines of y while its sums are computed: they are written in one go, and may lie in memory.
template <int kRows, int kPanels, typename Element>
static inline __attribute__((always_inline)) void prefetch_tile(const PackedProduct<Element>& product,
                                                                int64_t row_begin,
                                                                int64_t panel_begin) {
  constexpr int64_t kCacheLine = 64;
  int64_t y_bytes = product.y_is_f32 ? 4 : 2;
  int64_t stride = product.out_features * y_bytes;
  const char* y = static_cast<const char*>(product.y) + row_begin * stride + panel_begin * kPanelWidth * y_bytes;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int64_t i = 0; i < kPanels * kPanelWidth * y_bytes; i += kCacheLine) __builtin_prefetch(y + r * stride + i, 1);
  }
}

template <typename Element, int kRows, int kPanels>
static void multiply_tile(const PackedProduct<Element>& product, int64_t row_begin, int64_t panel_begin) {
  constexpr int64_t kFeatures = kPerWord<Element>;
  int64_t panel_stride = (product.in_features + kFeatures - 1) / kFeatures * kFeatures * kPanelWidth;
  TileInput<Element> input = {.x = product.x + row_begin * product.x_stride,
                              .x_stride = product.x_stride,
                              .panels = product.packed + (panel_begin - product.packed_begin) * panel_stride,
                              .panel_stride = panel_stride};
  constexpr int kUnroll = kRows * kPanels >= 12 ? 1 : kRows * kPanels >= 6 ? 2 : 4;
  if constexpr (kUnroll == 1) prefetch_tile<kRows, kPanels>(product, row_begin, panel_begin);
  Lanes sums[kRows][kPanels];
  sum_tile<kUnroll>(input, product.in_features, sums);
  store_tile(product, row_begin, panel_begin, sums);
}

template <typename Element>
using TileFunction = void (*)(const PackedProduct<Element>&, int64_t row_begin, int64_t panel_begin);

/// The tile of `rows` rows by kPanels panels, found at compile time among 1 … kRows.
template <typename Element, int kRows, int kPanels>
static TileFunction<Element> tile_function(int64_t rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return tile_function<Element, kRows - 1, kPanels>(rows);
  }
  return multiply_tile<Element, kRows, kPanels>;
}

/// Multiplies groups of kPanels panels as long as they are whole, and returns the panel after them. Rows are cut into
/// tiles of kMaxRows, the fastest, the last two alike; the tiles of one group follow each other, so that its weights
/// come from memory once.
template <int kMaxRows, int kPanels, typename Element>
static int64_t multiply_panel_groups(const PackedProduct<Element>& product, int64_t panel) {
  for (; panel + kPanels <= product.panel_end; panel += kPanels) {
    int64_t tile_rows = kMaxRows;
    for (int64_t row = 0; row < product.rows; row += tile_rows) {
      int64_t rest = product.rows - row;
      tile_rows = rest >= 2 * kMaxRows ? kMaxRows : rest > kMaxRows ? (rest + 1) / 2 : rest;
      tile_function<Element, kMaxRows, kPanels>(tile_rows)(product, row, panel);
    }
  }
  return panel;
}

template <typename Element>
static void packed_product(const PackedProduct<Element>& product) {
  int64_t panel = product.panel_begin;
  if (product.rows > kStreamedRows<Element>) {
    panel = multiply_panel_groups<kTileRows<Element>, kTilePanels<Element>>(product, panel);
  }
  multiply_panel_groups<kStreamedRows<Element>, 1>(product, panel);
}
