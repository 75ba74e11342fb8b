#include "data/mixture.h"

#include <algorithm>
#include <cmath>

namespace weft {

// A tree of sources: each inner node gives its left half a fixed share of its rows, evenly spread.
struct Mixture::Split {
  int64_t middle = 0;
  uint64_t left_share = 0;  // in 2⁻³²

  /// Of `num_rows` rows. In steps of 0 or 1.
  int64_t left_count(int64_t num_rows) const {
    return static_cast<int64_t>((static_cast<unsigned __int128>(num_rows) * left_share + (1U << 31)) >> 32);
  }
};

Mixture::Mixture(std::span<const double> weights) {
  double sum = 0;
  sums_.push_back(0);
  for (const double weight : weights) sums_.push_back(sum += weight);
}

Mixture::Split Mixture::split(int64_t first, int64_t last) const {
  const int64_t middle = (first + last) / 2;
  const auto sum = [&](int64_t place) { return sums_[static_cast<size_t>(place)]; };
  const double share = (sum(middle) - sum(first)) / (sum(last) - sum(first));
  const auto left_share = static_cast<uint64_t>(std::llround(share * 0x1p32));
  // Everybody gets a row in the end, however small the weight.
  return {middle, std::clamp<uint64_t>(left_share, 1, UINT32_MAX)};
}

Mixture::Place Mixture::place(int64_t row) const {
  int64_t first = 0;
  auto last = static_cast<int64_t>(sums_.size()) - 1;
  while (last - first > 1) {
    const Split node = split(first, last);
    const int64_t before = node.left_count(row);
    if (node.left_count(row + 1) > before) {
      row = before;
      last = node.middle;
    } else {
      row -= before;
      first = node.middle;
    }
  }
  return {first, row};
}

int64_t Mixture::count(int64_t source, int64_t num_rows) const {
  int64_t first = 0;
  auto last = static_cast<int64_t>(sums_.size()) - 1;
  while (last - first > 1) {
    const Split node = split(first, last);
    const int64_t left = node.left_count(num_rows);
    const bool is_left = source < node.middle;
    num_rows = is_left ? left : num_rows - left;
    (is_left ? last : first) = node.middle;
  }
  return num_rows;
}

}  // namespace weft
