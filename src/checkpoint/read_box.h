// Boxes (slices along every dimension) of a tensor in a file, read straight into place.
#pragma once

#include <cstdint>
#include <span>

#include "checkpoint/file.h"
#include "checkpoint/storage_type.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace weft {

/// A row-major tensor at `offset` of a file. The whole of it lies inside the file.
struct StoredArray {
  const File& file;
  int64_t offset;
  const StorageType& type;
  const Shape& shape;
};

/// Reads the box [begin, end) into `into`, contiguous row-major, as `dtype` (a float). One read for each contiguous
/// run: no byte outside the box is read, except the rest of a quantised block that the box cuts. Returns the bytes
/// read.
int64_t read_box(
    const StoredArray& array, std::span<const int64_t> begin, std::span<const int64_t> end, void* into, DType dtype);

}  // namespace weft
