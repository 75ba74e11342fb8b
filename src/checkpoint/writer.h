// One interface for writing a checkpoint of any format, tensor by tensor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "core/dtype.h"

namespace weft {

/// Nothing stands under the final name before finish(). All methods throw Error(bad_input), "disk full" included.
class CheckpointWriter {
 public:
  virtual ~CheckpointWriter() = default;
  /// Elements [first, first + count) of a tensor, row-major, converted from `dtype`. A tensor's elements come in order.
  virtual void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) = 0;
  /// After all elements of all tensors.
  virtual void finish() = 0;
};

}  // namespace weft
