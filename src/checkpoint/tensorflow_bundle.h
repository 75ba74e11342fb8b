// TensorFlow V2 checkpoints: PREFIX.index, a table from variable names to places, and PREFIX.data-SSSSS-of-NNNNN, the
// values back to back (tensorflow/core/util/tensor_bundle).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "checkpoint/writer.h"

namespace weft {

/// Opens PREFIX.index; `path` is for messages. Partitioned variables (cut along one dimension) are read as one tensor.
/// Strings and other types that Weft has no dtype for are listed, and refused when they are read. Checksums of the
/// index are verified here, those of tensors by verify_checksums: a slice alone cannot be.
std::unique_ptr<CheckpointReader> open_tensorflow_bundle(const std::string& path, const std::string& index_path);

/// Writes PREFIX.data-00000-of-00001 as values come and PREFIX.index at the end, as TensorFlow writes them.
std::unique_ptr<CheckpointWriter> make_tensorflow_writer(const std::string& prefix, std::vector<OutputTensor> tensors);

}  // namespace weft
