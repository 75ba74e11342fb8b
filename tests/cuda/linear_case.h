// What a test of products with weights is about.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation.h"

namespace weft {

struct LinearCase {
  int64_t rows = 1, in_features = 64;
  std::vector<int64_t> out_features = {64};
  bool with_bias = false;
  Activation activation = Activation::identity;
  int64_t offset = 0;  // elements in front of arrays, to misalign them

  std::string name() const {
    return "rows " + std::to_string(rows) + ", K " + std::to_string(in_features) + ", N " +
           std::to_string(out_features[0]) + (with_bias ? ", bias" : "") + ", activation " +
           std::to_string(static_cast<int>(activation)) + ", offset " + std::to_string(offset);
  }
};

}  // namespace weft
