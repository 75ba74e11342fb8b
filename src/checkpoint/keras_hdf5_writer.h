// Keras 3 .weights.h5 files: contiguous datasets in nested groups (the format that keras_hdf5.h reads).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/writer.h"

namespace weft {

/// Tensors' names are paths such as "layers/dense/vars/0"; those of any other form Keras would not find. bf16 is
/// written as Keras stores it: two opaque bytes and an attribute. `layer_names` gives groups ("layers/dense/vars")
/// their attribute `name`, which Keras writes from 3.6 on.
std::unique_ptr<CheckpointWriter> make_keras_hdf5_writer(const std::string& path,
                                                         const std::vector<OutputTensor>& tensors,
                                                         const std::map<std::string, std::string>& layer_names = {});

}  // namespace weft
