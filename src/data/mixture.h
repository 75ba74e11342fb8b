// Which source a row comes from: shares by weight, exact in any prefix up to a row or so, and found without looking at
// the rows before.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace weft {

class Mixture {
 public:
  /// At least one weight, all positive and finite.
  explicit Mixture(std::span<const double> weights);

  struct Place {
    int64_t source = 0;
    int64_t index = 0;  // among the source's rows
  };
  Place place(int64_t row) const;
  /// How many of the first `num_rows` rows are of the source.
  int64_t count(int64_t source, int64_t num_rows) const;

 private:
  struct Split;
  Split split(int64_t first, int64_t last) const;

  std::vector<double> sums_;  // of the weights before
};

}  // namespace weft
