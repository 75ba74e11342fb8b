#include "checkpoint/storage_type.h"

#include <algorithm>

namespace weft {

std::optional<int64_t> checked_num_elements(std::span<const int64_t> dims) {
  if (std::any_of(dims.begin(), dims.end(), [](int64_t dim) { return dim < 0; })) return std::nullopt;
  int64_t count = 1;
  for (int64_t dim : dims) {
    if (__builtin_mul_overflow(count, dim, &count)) return std::nullopt;
  }
  return count;
}

std::optional<int64_t> stored_bytes(std::span<const int64_t> dims, const StorageType& type) {
  std::optional<int64_t> count = checked_num_elements(dims);
  int64_t row = dims.empty() ? 1 : dims.back();
  int64_t bytes = 0;
  if (!count || row % type.block_elements != 0) return std::nullopt;
  if (__builtin_mul_overflow(*count / type.block_elements, type.block_bytes, &bytes)) return std::nullopt;
  return bytes;
}

}  // namespace weft
