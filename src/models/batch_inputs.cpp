#include "models/batch_inputs.h"

#include "core/error.h"
#include "ops/collective.h"
#include "ops/elementwise.h"

namespace weft {

void check_token_ids(std::span<const int32_t> ids, int64_t vocab_size) {
  for (int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    fail_input(
        "token id {} is outside the model's vocabulary of {}; is this the model's own tokenizer?", id, vocab_size);
  }
}

Tensor add_embedding_offset(Context& context, const Tensor& x, const Batch& batch) {
  if (batch.embedding_size != nullptr) {
    for (float value : to_floats(x)) batch.embedding_size->squares += static_cast<double>(value) * value;
    batch.embedding_size->rows += x.size(0);
  }
  const Tensor& offset = batch.embedding_offset;
  if (!offset) return x;
  return add(context, x, context.sequence_parallel ? split_tokens_to_tp(context, offset) : offset);
}

}  // namespace weft
