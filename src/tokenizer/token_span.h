// Where in the text a token comes from.
#pragma once

#include <cstddef>

namespace weft {

/// A half-open range, in bytes of the original text unless said otherwise.
struct TokenSpan {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const TokenSpan&) const = default;
};

}  // namespace weft
