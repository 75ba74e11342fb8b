#include "ops/norm.h"

#include "autograd/tape.h"
#include "core/error.h"

namespace weft {
namespace {

class RmsNormNode final : public Node {
 public:
  struct Slots {
    std::shared_ptr<GradSlot> x, residual, sum, normed;
  };

  RmsNormNode(Tensor input, Tensor weight, const RmsNormOptions& options, Slots slots)
      : input_(std::move(input)), weight_(std::move(weight)), options_(options), slots_(std::move(slots)) {}
  std::string_view name() const override { return "rms_norm"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(slots_.normed);
    Tensor dsum = slots_.sum ? take_grad(slots_.sum) : Tensor();
    if (!dy) {
      pass_on(context, std::move(dsum));
      return;
    }
    Tensor dinput = context.empty(input_.shape(), input_.dtype());
    RmsNormBackwardArgs args{.input = input_.raw(),
                             .weight = weight_.raw(),
                             .dy = dy.raw(),
                             .dsum = dsum ? dsum.raw() : nullptr,
                             .dinput = dinput.raw(),
                             .rows = input_.size(0),
                             .width = input_.size(1),
                             .eps = options_.eps,
                             .weight_offset = options_.weight_offset,
                             .dtype = input_.dtype()};
    if (weight_.wants_grad()) {
      GradTarget target =
          grad_target(context, *weight_.grad_slot(), weight_.shape(), parameter_grad_dtype(weight_.dtype()));
      args.dweight = target.tensor.raw();
      args.accumulate_weight = target.accumulate;
    }
    require_kernel(context.kernels().rms_norm.backward, "rms_norm backward", context.device.type)(args,
                                                                                                  context.stream());
    pass_on(context, std::move(dinput));
  }

 private:
  // The sum's gradient is that of both its terms. The slots must not share memory: later contributions are added in
  // place.
  void pass_on(Context& context, Tensor grad) {
    if (!grad) return;
    if (slots_.x && slots_.residual) {
      add_grad(context, slots_.residual, copy_of(context, grad, grad.dtype()));
      add_grad(context, slots_.x, std::move(grad));
    } else {
      add_grad(context, slots_.x ? slots_.x : slots_.residual, std::move(grad));
    }
  }

  Tensor input_;
  Tensor weight_;
  RmsNormOptions options_;
  Slots slots_;
};

RmsNormForwardArgs forward_args(const Tensor& x,
                                const Tensor* residual,
                                Tensor* sum,
                                const Tensor& weight,
                                Tensor& normed,
                                const RmsNormOptions& options) {
  return {.x = x.raw(),
          .residual = residual != nullptr ? residual->raw() : nullptr,
          .weight = weight.raw(),
          .sum = sum != nullptr ? sum->raw() : nullptr,
          .y = normed.raw(),
          .rows = x.size(0),
          .width = x.size(1),
          .eps = options.eps,
          .weight_offset = options.weight_offset,
          .round_before_weight = options.round_before_weight,
          .dtype = x.dtype()};
}

Tensor run_forward(Context& context,
                   const Tensor& x,
                   const Tensor* residual,
                   Tensor* sum,
                   const Tensor& weight,
                   const RmsNormOptions& options) {
  Tensor normed = context.empty(x.shape(), x.dtype());
  auto kernel = require_kernel(context.kernels().rms_norm.forward, "rms_norm", context.device.type);
  kernel(forward_args(x, residual, sum, weight, normed, options), context.stream());
  return normed;
}

/// `input` is what is normed: x + residual, or x.
void record(Context& context,
            const Tensor& input,
            const Tensor& weight,
            const RmsNormOptions& options,
            RmsNormNode::Slots slots,
            Tensor& normed) {
  slots.normed = attach_slot(normed);
  Tensor kept = input.detach();
  offer_recipe(context, normed, [kept, weight = weight.detach(), options](Context& again) {
    return run_forward(again, kept, nullptr, nullptr, weight, options);
  });
  context.tape->record(std::make_unique<RmsNormNode>(std::move(kept), weight, options, std::move(slots)));
}

void check_norm(const Tensor& x, const Tensor& weight) {
  WEFT_ASSERT(x.rank() == 2 && weight.num_elements() == x.size(1) && x.dtype() == weight.dtype(),
              "rms_norm: x {}, weight {}",
              to_string(x.shape()),
              to_string(weight.shape()));
}

}  // namespace

Tensor rms_norm(Context& context, const Tensor& x, const Tensor& weight, const RmsNormOptions& options) {
  check_norm(x, weight);
  Tensor normed = run_forward(context, x, nullptr, nullptr, weight, options);
  if (is_recording(context, {&x, &weight})) {
    record(context, x, weight, options, {.x = x.grad_slot(), .residual = {}, .sum = {}, .normed = {}}, normed);
  }
  return normed;
}

ResidualNorm pass_rms_norm(Context& context, const Tensor& x, const Tensor& weight, const RmsNormOptions& options) {
  check_norm(x, weight);
  ResidualNorm result{.sum = x.detach(), .normed = run_forward(context, x, nullptr, nullptr, weight, options)};
  if (is_recording(context, {&x, &weight})) {
    auto sum = attach_slot(result.sum);
    record(context,
           x,
           weight,
           options,
           {.x = x.grad_slot(), .residual = {}, .sum = std::move(sum), .normed = {}},
           result.normed);
  }
  return result;
}

ResidualNorm add_rms_norm(
    Context& context, const Tensor& x, const Tensor& residual, const Tensor& weight, const RmsNormOptions& options) {
  check_norm(x, weight);
  WEFT_ASSERT(residual.shape() == x.shape() && residual.dtype() == x.dtype());
  ResidualNorm result{.sum = context.empty(x.shape(), x.dtype()), .normed = {}};
  result.normed = run_forward(context, x, &residual, &result.sum, weight, options);
  if (is_recording(context, {&x, &residual, &weight})) {
    auto sum = attach_slot(result.sum);
    record(context,
           result.sum,
           weight,
           options,
           {.x = x.grad_slot(), .residual = residual.grad_slot(), .sum = std::move(sum), .normed = {}},
           result.normed);
  }
  return result;
}

ResidualNorm add_normed_rms_norm(Context& context,
                                 const Tensor& x,
                                 const Tensor& inner_weight,
                                 const Tensor& residual,
                                 const Tensor& weight,
                                 const RmsNormOptions& options) {
  auto kernel = context.kernels().rms_norm.forward_twice;
  if (kernel == nullptr || is_recording(context, {&x, &inner_weight, &residual, &weight})) {
    return add_rms_norm(context, rms_norm(context, x, inner_weight, options), residual, weight, options);
  }
  check_norm(x, weight);
  check_norm(x, inner_weight);
  WEFT_ASSERT(residual.shape() == x.shape() && residual.dtype() == x.dtype());
  ResidualNorm result{.sum = context.empty(x.shape(), x.dtype()), .normed = context.empty(x.shape(), x.dtype())};
  kernel({.outer = forward_args(x, &residual, &result.sum, weight, result.normed, options),
          .inner_weight = inner_weight.raw()},
         context.stream());
  return result;
}

}  // namespace weft
