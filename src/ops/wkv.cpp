#include "ops/wkv.h"

#include <utility>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/slot_gradient.h"
#include "ops/vector_gradient.h"

namespace weft {
namespace {

DType state_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

void check(const WkvInputs& inputs, const Tensor* state, std::span<const WkvSpan> sequences, int64_t head_size) {
  const Tensor& r = *inputs.r;
  WEFT_ASSERT(r.rank() == 2 && head_size > 0 && r.size(1) % head_size == 0 && inputs.k->shape() == r.shape() &&
                  inputs.v->shape() == r.shape() && inputs.w->shape() == r.shape() &&
                  inputs.u->num_elements() == r.size(1),
              "wkv: r {}, k {}, v {}, w {}, u {}, head size {}",
              to_string(r.shape()),
              to_string(inputs.k->shape()),
              to_string(inputs.v->shape()),
              to_string(inputs.w->shape()),
              to_string(inputs.u->shape()),
              head_size);
  WEFT_ASSERT(inputs.k->dtype() == r.dtype() && inputs.v->dtype() == r.dtype() && inputs.u->dtype() == r.dtype() &&
                  inputs.w->dtype() == state_dtype(r.dtype()),
              "wkv: r is {}, w {}",
              dtype_name(r.dtype()),
              dtype_name(inputs.w->dtype()));
  for (const WkvSpan& span : sequences) {
    WEFT_ASSERT(span.begin >= 0 && span.length >= 0 && span.begin + span.length <= r.size(0),
                "wkv: a sequence of {} tokens from {} on of {}",
                span.length,
                span.begin,
                r.size(0));
    if (state == nullptr) continue;
    WEFT_ASSERT(state->rank() == 4 && state->dtype() == state_dtype(r.dtype()) && span.slot >= 0 &&
                    span.slot < state->size(0) && state->size(1) == r.size(1) / head_size &&
                    state->size(2) == head_size && state->size(3) == head_size,
                "wkv: state {} of {}, slot {}",
                to_string(state->shape()),
                dtype_name(state->dtype()),
                span.slot);
  }
}

const std::byte* slot_of(const Tensor& state, int64_t slot) {
  return static_cast<const std::byte*>(state.raw()) + state.bytes() / static_cast<size_t>(state.size(0)) * slot;
}

std::vector<WkvSequence> pack(const Tensor* state, std::span<const WkvSpan> spans) {
  std::vector<WkvSequence> sequences;
  int64_t boundaries = 0;
  for (const WkvSpan& span : spans) {
    sequences.push_back({.begin = span.begin,
                         .length = span.length,
                         .initial_state = state != nullptr ? slot_of(*state, span.slot) : nullptr,
                         .first_boundary = boundaries});
    boundaries += wkv_boundaries(span.length);
  }
  return sequences;
}

WkvForwardArgs make_args(const Tensor& r, int64_t head_size, std::span<const WkvSequence> sequences) {
  return {.r = r.raw(),
          .sequences = sequences,
          .num_heads = r.size(1) / head_size,
          .head_size = head_size,
          .dtype = r.dtype()};
}

Tensor run_forward(Context& context, const WkvInputs& inputs, WkvForwardArgs args) {
  Tensor y = context.empty(inputs.r->shape(), inputs.r->dtype());
  args.k = inputs.k->raw();
  args.v = inputs.v->raw();
  args.w = inputs.w->raw();
  args.u = inputs.u->raw();
  args.y = y.raw();
  require_kernel(context.kernels().wkv.forward, "wkv", context.device.type)(args, context.stream());
  return y;
}

class WkvNode final : public Node {
 public:
  /// An input and where its gradient goes.
  struct Input {
    explicit Input(const Tensor& tensor) : saved(tensor), slot(tensor.grad_slot()) {}
    Saved saved;
    std::shared_ptr<GradSlot> slot;
  };

  WkvNode(const WkvInputs& inputs,
          std::span<const WkvSpan> spans,
          int64_t head_size,
          Tensor boundary_states,
          std::shared_ptr<GradSlot> y)
      : r_(*inputs.r),
        k_(*inputs.k),
        v_(*inputs.v),
        w_(*inputs.w),
        u_(*inputs.u),
        initial_(inputs.state, spans),
        spans_(spans.begin(), spans.end()),
        head_size_(head_size),
        boundary_states_(std::move(boundary_states)),
        y_(std::move(y)) {}
  std::string_view name() const override { return "wkv"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(y_);
    if (!dy) return;
    Tensor r = r_.saved.get(context), k = k_.saved.get(context), v = v_.saved.get(context), w = w_.saved.get(context);
    std::vector<WkvSequence> sequences = pack(nullptr, spans_);
    WkvForwardArgs forward = make_args(r, head_size_, sequences);
    forward.k = k.raw();
    forward.v = v.raw();
    forward.w = w.raw();
    forward.u = u_.raw();
    forward.boundary_states = boundary_states_.raw();
    Tensor dr = context.empty(r.shape(), r.dtype()), dk = context.empty(r.shape(), r.dtype()),
           dv = context.empty(r.shape(), r.dtype()), dw = context.empty(w.shape(), w.dtype());
    VectorGradient du(context, u_);
    Tensor dinitial = initial_.rows(context);
    require_kernel(context.kernels().wkv.backward, "wkv backward", context.device.type)(
        {.forward = forward,
         .dy = dy.raw(),
         .dr = dr.raw(),
         .dk = dk.raw(),
         .dv = dv.raw(),
         .dw = dw.raw(),
         .du = du.raw(),
         .dinitial_states = dinitial ? dinitial.raw() : nullptr},
        context.stream());
    du.hand_over(context, u_);
    initial_.hand_over(context, dinitial);
    add_grad(context, r_.slot, std::move(dr));
    add_grad(context, k_.slot, std::move(dk));
    add_grad(context, v_.slot, std::move(dv));
    add_grad(context, w_.slot, std::move(dw));
  }

 private:
  Input r_, k_, v_, w_;
  Tensor u_;
  SlotGradient initial_;
  std::vector<WkvSpan> spans_;
  int64_t head_size_;
  Tensor boundary_states_;
  std::shared_ptr<GradSlot> y_;
};

}  // namespace

Tensor wkv(Context& context, const WkvInputs& inputs, std::span<const WkvSpan> sequences, int64_t head_size) {
  check(inputs, inputs.state, sequences, head_size);
  std::vector<WkvSequence> packed = pack(inputs.state, sequences);
  WkvForwardArgs args = make_args(*inputs.r, head_size, packed);
  bool records = is_recording(context, {inputs.r, inputs.k, inputs.v, inputs.w, inputs.u, inputs.state});
  if (!records && !context.training) return run_forward(context, inputs, args);
  // A checkpointed block's first run, which records nothing, has to give the bits of its second: short sequences, too,
  // go by chunks.
  int64_t boundaries = 1;  // at least, so that there is memory
  for (const WkvSequence& sequence : packed) boundaries += wkv_boundaries(sequence.length);
  Tensor boundary_states =
      context.empty({boundaries, args.num_heads, head_size, head_size}, state_dtype(inputs.r->dtype()));
  args.boundary_states = boundary_states.raw();
  Tensor y = run_forward(context, inputs, args);
  if (!records) return y;
  auto slot = attach_slot(y);
  context.tape->record(
      std::make_unique<WkvNode>(inputs, sequences, head_size, std::move(boundary_states), std::move(slot)));
  return y;
}

Tensor cached_wkv(
    Context& context, const WkvInputs& inputs, Tensor& state, std::span<const WkvSpan> sequences, int64_t head_size) {
  check(inputs, &state, sequences, head_size);
  std::vector<WkvSequence> packed = pack(&state, sequences);
  for (WkvSequence& sequence : packed) sequence.final_state = const_cast<void*>(sequence.initial_state);
  return run_forward(context, inputs, make_args(*inputs.r, head_size, packed));
}

}  // namespace weft
