// Rows of weight maps by how a format spells a layer's weight and bias.
#pragma once

#include <string>
#include <vector>

#include "models/weight_map.h"

namespace weft {

/// What follows a layer's name in a format.
struct Spelling {
  std::string weight, bias;
  WeightTransform transform = WeightTransform::none;  // of the weight
};

inline const Spelling kTensorflowDense = {"/kernel", "/bias", WeightTransform::transpose};
inline const Spelling kTensorflowNorm = {"/gamma", "/beta"};
inline const Spelling kTorch = {".weight", ".bias"};
inline const Spelling kTorchConv1d = {".weight", ".bias", WeightTransform::transpose};  // theirs [in, out]
inline const Spelling kKerasDense = {"/vars/0", "/vars/1", WeightTransform::transpose};
inline const Spelling kKerasNorm = {"/vars/1", "/vars/0"};     // bert4keras3's: beta before gamma
inline const Spelling kKerasOwnNorm = {"/vars/0", "/vars/1"};  // Keras' own: gamma before beta

/// OURS.weight and OURS.bias; `part` where theirs hold those of several layers.
void add_pair(std::vector<WeightRow>& rows,
              const std::string& ours,
              const std::string& theirs,
              const Spelling& spelling,
              RowPart part = {});

/// What TensorFlow checkpoints hold besides the model: slots of optimizers, counters.
std::vector<std::string> tensorflow_training_tensors();

}  // namespace weft
