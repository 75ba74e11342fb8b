#include "core/shape.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"

namespace weft {

Shape::Shape(std::initializer_list<int64_t> dims) : Shape(dims.begin(), dims.end()) {}

Shape::Shape(const int64_t* begin, const int64_t* end) : rank_(static_cast<int>(end - begin)) {
  WEFT_ASSERT(rank_ <= kMaxRank, "a shape of {} dimensions", rank_);
  std::copy(begin, end, dims_.begin());
}

int64_t Shape::num_elements() const {
  int64_t count = 1;
  for (int64_t dim : *this) count *= dim;
  return count;
}

bool Shape::operator==(const Shape& other) const {
  return std::equal(begin(), end(), other.begin(), other.end());
}

std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

}  // namespace weft
