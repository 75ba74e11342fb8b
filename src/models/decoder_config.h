// The settings that decoder configs of all families spell alike, read once for each format.
#pragma once

#include "models/family.h"
#include "models/model_config.h"

namespace weft {

/// Sizes, rotary positions, end ids, tied embedding (as the config says, `tied_by_default` when it does not).
DecoderConfig read_common(const ModelSource& source, bool tied_by_default);

/// A GGUF key of this architecture: "llama." + name.
std::string gguf_key(const ModelSource& source, std::string_view name);

/// {i}-rows under the names that Hugging Face uses, which are ours.
WeightMap huggingface_weights();
/// llama.cpp's names. `permuted` for architectures whose converter reorders the rows of q and k; norms hold 1 + w with
/// `norm_plus_one`.
WeightMap gguf_weights(bool permuted, bool norm_plus_one);

}  // namespace weft
