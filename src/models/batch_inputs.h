// What every model does with a batch's tokens before its first block.
#pragma once

#include <cstdint>
#include <span>

#include "models/model.h"

namespace weft {

/// Throws Error(bad_input) for an id outside [0, vocab_size).
void check_token_ids(std::span<const int32_t> ids, int64_t vocab_size);

/// x, this rank's rows of the embedded tokens, plus batch.embedding_offset where that is defined; x is measured for
/// batch.embedding_size.
Tensor add_embedding_offset(Context& context, const Tensor& x, const Batch& batch);

}  // namespace weft
