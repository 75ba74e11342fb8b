#include "ops/token_shift.h"

#include <utility>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/slot_gradient.h"

namespace weft {
namespace {

std::vector<TokenShiftSequence> pack(const Tensor& x, std::span<const WkvSpan> spans, const Tensor* last) {
  WEFT_ASSERT(x.rank() == 2 &&
                  (last == nullptr || (last->rank() == 2 && last->size(1) == x.size(1) && last->dtype() == x.dtype())),
              "token_shift: x {}, last {}",
              to_string(x.shape()),
              last != nullptr ? to_string(last->shape()) : "none");
  size_t row_bytes = static_cast<size_t>(x.size(1)) * dtype_bytes(x.dtype());
  std::vector<TokenShiftSequence> sequences;
  for (const WkvSpan& span : spans) {
    WEFT_ASSERT(span.begin >= 0 && span.length >= 0 && span.begin + span.length <= x.size(0) &&
                    (last == nullptr || (span.slot >= 0 && span.slot < last->size(0))),
                "token_shift: {} rows from {} on, slot {}",
                span.length,
                span.begin,
                span.slot);
    TokenShiftSequence sequence{.begin = span.begin, .length = span.length};
    if (last != nullptr) sequence.before = static_cast<const std::byte*>(last->raw()) + row_bytes * span.slot;
    sequences.push_back(sequence);
  }
  return sequences;
}

Tensor run_forward(Context& context, const Tensor& x, std::span<const TokenShiftSequence> sequences) {
  Tensor y = context.empty(x.shape(), x.dtype());
  require_kernel(context.kernels().token_shift.forward, "token_shift", context.device.type)(
      {.x = x.raw(), .y = y.raw(), .sequences = sequences, .width = x.size(1), .dtype = x.dtype()}, context.stream());
  return y;
}

class TokenShiftNode final : public Node {
 public:
  TokenShiftNode(const Tensor& x,
                 std::vector<TokenShiftSequence> sequences,
                 SlotGradient last,
                 std::shared_ptr<GradSlot> y)
      : shape_(x.shape()),
        x_(x.grad_slot()),
        sequences_(std::move(sequences)),
        last_(std::move(last)),
        y_(std::move(y)) {}
  std::string_view name() const override { return "token_shift"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(y_);
    if (!dy) return;
    Tensor dx = context.empty(shape_, dy.dtype());
    Tensor dlast = last_.rows(context);
    require_kernel(context.kernels().token_shift.backward, "token_shift backward", context.device.type)(
        {.dy = dy.raw(),
         .dx = dx.raw(),
         .dbefore = dlast ? dlast.raw() : nullptr,
         .sequences = sequences_,
         .width = shape_[1],
         .dtype = dy.dtype()},
        context.stream());
    last_.hand_over(context, dlast);
    add_grad(context, x_, std::move(dx));
  }

 private:
  Shape shape_;
  std::shared_ptr<GradSlot> x_;
  std::vector<TokenShiftSequence> sequences_;
  SlotGradient last_;
  std::shared_ptr<GradSlot> y_;
};

}  // namespace

Tensor token_shift(Context& context, const Tensor& x, std::span<const WkvSpan> sequences, const Tensor* last) {
  std::vector<TokenShiftSequence> packed = pack(x, sequences, last);
  Tensor y = run_forward(context, x, packed);
  if (is_recording(context, {&x, last})) {
    auto slot = attach_slot(y);
    context.tape->record(
        std::make_unique<TokenShiftNode>(x, std::move(packed), SlotGradient(last, sequences), std::move(slot)));
  }
  return y;
}

Tensor cached_token_shift(Context& context, const Tensor& x, std::span<const WkvSpan> sequences, Tensor& last) {
  std::vector<TokenShiftSequence> packed = pack(x, sequences, &last);
  for (TokenShiftSequence& sequence : packed) sequence.last = const_cast<void*>(sequence.before);
  return run_forward(context, x, packed);
}

}  // namespace weft
