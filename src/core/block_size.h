// The sizes of blocks that allocators keep for reuse.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

namespace weft {

/// `bytes` rounded up to a multiple of `alignment`, and above 4 KB to an eighth of a power of two, so that slightly
/// different sizes share blocks and at most an eighth is wasted.
inline size_t cached_block_size(size_t bytes, size_t alignment) {
  size_t size = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  if (size < 4096) return size;
  size_t step = std::bit_floor(size) / 8;
  return (size + step - 1) / step * step;
}

}  // namespace weft
