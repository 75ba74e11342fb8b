// The recurrence of RWKV-6 (kernels/wkv.h): of packed sequences at once (training, prefill) or from states that stay
// (generation).
#pragma once

#include <cstdint>
#include <span>

#include "autograd/context.h"

namespace weft {

/// A sequence's place in the packed rows, and where it has a state also that one's row.
struct WkvSpan {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t slot = 0;
};

struct WkvInputs {
  const Tensor* r = nullptr;      // [tokens, heads · head_size]
  const Tensor* k = nullptr;      // likewise
  const Tensor* v = nullptr;      // likewise
  const Tensor* w = nullptr;      // likewise in f32 (f64): the state decays by exp(−exp(w))
  const Tensor* u = nullptr;      // [heads · head_size]: what the token's own key counts
  const Tensor* state = nullptr;  // [slots, heads, head_size (key), head_size (value)] f32 (f64); null: zeros
};

/// [tokens, heads · head_size]. Each sequence starts from its slot of the state; several may start from the same one.
Tensor wkv(Context& context, const WkvInputs& inputs, std::span<const WkvSpan> sequences, int64_t head_size);

/// The same from `state`, which is left as it is after the last token of each sequence (slots must differ);
/// inputs.state is not read. Has no backward.
Tensor cached_wkv(
    Context& context, const WkvInputs& inputs, Tensor& state, std::span<const WkvSpan> sequences, int64_t head_size);

}  // namespace weft
