// One interface for writing a checkpoint of any format, tensor by tensor.
#pragma once

#include <cstdint>
#include <functional>
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
  /// Elements [first, first + count) of a tensor, row-major, converted from `dtype`. A tensor's elements come in order,
  /// tensors in any.
  virtual void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) = 0;
  /// After all elements of all tensors. Returns when they are on the disk.
  virtual void finish() = 0;
};

/// Writes model.safetensors (or its shards and index) into a folder that exists: under their final names, so give it a
/// folder that is renamed when it is finished.
std::unique_ptr<CheckpointWriter> make_safetensors_writer(const std::string& folder,
                                                          const std::vector<OutputTensor>& tensors);

/// `format` as CheckpointReader::format() says it: "safetensors" (as model.safetensors), "keras_hdf5" (as
/// model.weights.h5) or "tensorflow" (as model.ckpt) in a folder that exists.
std::unique_ptr<CheckpointWriter> make_checkpoint_writer(std::string_view format,
                                                         const std::string& folder,
                                                         const std::vector<OutputTensor>& tensors);

/// Calls take(at, piece, size) for elements [at, at + size) of `values`, converted, in order; memory is bounded.
void for_each_converted(const void* values,
                        DType dtype,
                        int64_t count,
                        DType to,
                        const std::function<void(int64_t at, const void* piece, int64_t size)>& take);

}  // namespace weft
