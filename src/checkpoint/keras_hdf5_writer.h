// Keras 3 .weights.h5 files: contiguous datasets in nested groups (the format that keras_hdf5.h reads).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/writer.h"

namespace weft {

/// Names are paths such as "layers/dense/vars/0". f32, bf16 (as Keras stores it: two opaque bytes and an attribute) and
/// f64 are written.
std::unique_ptr<CheckpointWriter> make_keras_hdf5_writer(const std::string& path,
                                                         const std::vector<OutputTensor>& tensors);

}  // namespace weft
