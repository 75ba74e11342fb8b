// How a family's weights are called in a checkpoint format: rows of data, read in both directions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nn/parameter.h"

namespace weft {

/// How their tensor becomes ours. Ours is [out, in] for matrices; H is the parameter's number of heads, d = out / H (in
/// / H for heads_out).
enum class WeightTransform : uint8_t {
  none,
  transpose,        // theirs [in, out]
  heads_in,         // theirs [H, in, d]: an einsum projection into heads
  heads_out,        // theirs [H, d, out]: an einsum projection out of heads
  rotary_permuted,  // theirs has each head's rows ordered (0, d/2, 1, d/2 + 1, …): rotation of neighbours
  minus_one,        // theirs holds 1 + w
  heads_middle,     // theirs [in, H, d]
  head_vectors,     // theirs [H, d], ours [H·d]
  flat_vector,      // theirs [1, 1, n], ours [n]
  stacked,          // theirs [S, in, out]: ours is number part.begin of S = part.total
};

/// Rows of a table that is cut to a part of its vocabulary: each is a weighted mean of rows of theirs.
struct RowSelection {
  struct Row {
    std::vector<int64_t> ids;
    std::vector<double> weights;  // empty: equal
  };
  std::vector<Row> rows;
  int64_t source_rows = 0;
};

/// Where our rows lie in a tensor of theirs that holds those of several parameters (after the transform).
struct RowPart {
  int64_t begin = 0;
  int64_t total = 0;  // 0: it is ours alone
};

/// Names with placeholders: {i} is the layer; {#2i+1} is Keras' numbering ("" for 0, else "_n"), L in it is the number
/// of layers.
struct WeightRow {
  std::string ours;
  std::string theirs;
  WeightTransform transform = WeightTransform::none;
  RowPart part = {};
  std::shared_ptr<const RowSelection> selection = nullptr;
};

/// Parameters that a format has no place for: it takes all their elements for this value.
struct ImpliedWeight {
  std::string ours;  // as in WeightRow
  float value = 0;
};

struct WeightMap {
  std::vector<WeightRow> rows;
  /// Tensors that may be in the file and are not needed; * stands for anything.
  std::vector<std::string> ignored = {};
  std::vector<ImpliedWeight> implied = {};
};

/// Where one parameter lies in a checkpoint.
struct WeightSource {
  std::string theirs;
  WeightTransform transform = WeightTransform::none;
  RowPart part = {};
  std::shared_ptr<const RowSelection> selection = nullptr;
};

/// The row of a parameter, names filled in. Throws Error(bad_input) when the format has no place for it.
WeightSource find_source(const WeightMap& map, const Parameter& parameter, int64_t num_layers);

/// Rows of `map` for parameters that have the names of another format instead of ours: `names` says which.
void rename_parameters(WeightMap& map, const WeightMap& names);

/// The name that `names` gives a parameter; its own where it gives none.
std::string renamed(const WeightMap& names, const Parameter& parameter, int64_t num_layers);

/// The value that the format takes a parameter's elements for, if it does.
std::optional<float> implied_value(const WeightMap& map, const Parameter& parameter);

bool is_ignored(const WeightMap& map, std::string_view name);

}  // namespace weft
