// Keras 3 .weights.h5 files: a tensor a dataset, named by its path ("layers/dense/vars/0").
#pragma once

#include <memory>
#include <string>

#include "checkpoint/reader.h"

namespace weft {

/// `file_path` is the HDF5 file, `path` what the user gave. The top group that Keras 2 calls
/// _layer_checkpoint_dependencies is listed as "layers".
std::unique_ptr<CheckpointReader> open_keras_hdf5(const std::string& path, const std::string& file_path);

}  // namespace weft
