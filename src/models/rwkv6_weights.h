// How RWKV-6's weights are called in its authors' checkpoints and in bert4keras3's files.
#pragma once

#include "models/family.h"
#include "models/weight_map.h"

namespace weft {

/// The map of a format; `mix_rank` is that of the low-rank layers of mixes. Throws Error(bad_input) for a format that
/// the family does not exist in.
WeightMap rwkv6_weights(ModelFormat format, int64_t mix_rank);

}  // namespace weft
