#include "optimizer/element_map.h"

#include <algorithm>

namespace weft {
namespace {

/// Elements below one index of `dim`.
int64_t inner_elements(const Shape& shape, int dim) {
  int64_t count = 1;
  for (int inner = dim + 1; inner < shape.rank(); ++inner) count *= shape[inner];
  return count;
}

}  // namespace

ElementMap element_map(const Shape& full_shape, const ShardRange& range, int64_t first) {
  int64_t inner = inner_elements(full_shape, range.dim);
  ElementMap map{.first = first, .offset = range.begin * inner};
  if (range.dim == 0) {
    map.local_width = map.full_width = std::max<int64_t>(1, (range.end - range.begin) * inner);
  } else {
    map.local_width = std::max<int64_t>(1, (range.end - range.begin) * inner);
    map.full_width = full_shape[range.dim] * inner;
  }
  return map;
}

int64_t slice_elements(const Shape& full_shape, const ShardRange& range) {
  int64_t dim_size = full_shape[range.dim];
  return dim_size == 0 ? 0 : full_shape.num_elements() / dim_size * (range.end - range.begin);
}

}  // namespace weft
