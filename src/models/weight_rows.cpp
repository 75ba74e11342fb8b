#include "models/weight_rows.h"

namespace weft {

void add_pair(std::vector<WeightRow>& rows,
              const std::string& ours,
              const std::string& theirs,
              const Spelling& spelling,
              RowPart part) {
  rows.push_back({ours + ".weight", theirs + spelling.weight, spelling.transform, part});
  rows.push_back({ours + ".bias", theirs + spelling.bias, WeightTransform::none, part});
}

std::vector<std::string> tensorflow_training_tensors() {
  return {"*adam_m",
          "*adam_v",
          "*_slot_*",
          "global_step",
          "*/Adam*",
          "*beta1_power*",
          "*beta2_power*",
          "*Momentum*",
          "_CHECKPOINTABLE*"};
}

}  // namespace weft
