#include "ops/low_rank.h"

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/linear.h"

namespace weft {
namespace {

Tensor transposed(Context& context, const Tensor& x) {
  Tensor y = context.empty({x.size(1), x.size(0)}, x.dtype());
  auto kernel = require_kernel(context.kernels().elementwise.transpose, "transpose", context.device.type);
  kernel({.x = x.raw(), .y = y.raw(), .rows = x.size(0), .columns = x.size(1), .dtype = x.dtype()}, context.stream());
  return y;
}

/// x · weightᵀ
Tensor product(Context& context, const Tensor& x, const Tensor& weight) {
  Tensor y = context.empty({x.size(0), weight.size(0)}, x.dtype());
  LinearWeight one{.weight = weight.raw(), .y = y.raw(), .out_features = weight.size(0)};
  require_kernel(context.kernels().linear.forward, "add_low_rank", context.device.type)({.x = x.raw(),
                                                                                         .weights = {&one, 1},
                                                                                         .rows = x.size(0),
                                                                                         .in_features = x.size(1),
                                                                                         .dtype = x.dtype(),
                                                                                         .y_dtype = x.dtype()},
                                                                                        context.stream());
  return y;
}

/// y = dy · weight, or y += that.
void multiply(const Context& context, const Tensor& dy, const Tensor& weight, Tensor& y, bool accumulate) {
  auto kernel = require_kernel(context.kernels().linear.backward_input, "add_low_rank", context.device.type);
  kernel({.dy = dy.raw(),
          .weight = weight.raw(),
          .dx = y.raw(),
          .rows = dy.size(0),
          .out_features = weight.size(0),
          .in_features = weight.size(1),
          .dtype = y.dtype(),
          .accumulate = accumulate},
         context.stream());
}

void multiply_by(const Context& context, Tensor& x, double factor) {
  if (factor == 1.0) return;
  auto kernel = require_kernel(context.kernels().elementwise.axpby, "add_low_rank", context.device.type);
  kernel(
      {.x = x.raw(), .y = x.raw(), .count = x.num_elements(), .a = factor, .x_dtype = x.dtype(), .y_dtype = x.dtype()},
      context.stream());
}

/// dw += dyᵀ·x in the weight's slot, if it has one.
void add_factor_grad(Context& context, const Tensor& weight, const Tensor& dy, const Tensor& x) {
  if (!weight.wants_grad()) return;
  GradTarget target = grad_target(context, *weight.grad_slot(), weight.shape(), parameter_grad_dtype(weight.dtype()));
  auto kernel = require_kernel(context.kernels().linear.backward_weight, "add_low_rank backward", context.device.type);
  kernel({.dy = dy.raw(),
          .x = x.raw(),
          .dw = target.tensor.raw(),
          .rows = dy.size(0),
          .out_features = weight.size(0),
          .in_features = weight.size(1),
          .dtype = weight.dtype(),
          .accumulate_weight = target.accumulate},
         context.stream());
}

class LowRankNode final : public Node {
 public:
  struct Slots {
    std::shared_ptr<GradSlot> y, x, output;
  };

  LowRankNode(Slots slots, const Tensor& x, Tensor scaled_inner, const LowRankFactors& factors, const DropoutMask& mask)
      : slots_(std::move(slots)),
        x_(x),
        scaled_inner_(std::move(scaled_inner)),
        a_(*factors.a),
        b_(*factors.b),
        scale_(factors.scale),
        mask_(mask) {}
  std::string_view name() const override { return "add_low_rank"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(slots_.output);
    if (!dy) return;
    add_factor_grad(context, b_, dy, scaled_inner_);
    Tensor dinner = context.empty(scaled_inner_.shape(), scaled_inner_.dtype());
    multiply(context, dy, b_, dinner, false);
    multiply_by(context, dinner, scale_);
    add_grad(context, slots_.y, std::move(dy));
    if (a_.wants_grad()) {
      Tensor x = x_.get(context);
      add_factor_grad(context, a_, dinner, mask_.is_empty() ? x : mask_.apply(context, x));
    }
    if (slots_.x != nullptr) add_input_grad(context, dinner);
  }

 private:
  void add_input_grad(Context& context, const Tensor& dinner) const {
    if (mask_.is_empty()) return add_product_grad(context, *slots_.x, dinner, a_);
    Tensor dropped = context.empty({dinner.size(0), a_.size(1)}, a_.dtype());
    multiply(context, dinner, a_, dropped, false);
    add_grad(context, slots_.x, mask_.apply(context, dropped));
  }

  Slots slots_;
  Saved x_;
  Tensor scaled_inner_;
  Tensor a_;
  Tensor b_;
  double scale_;
  DropoutMask mask_;
};

}  // namespace

Tensor add_low_rank(Context& context, const Tensor& y, const Tensor& x, const LowRankFactors& factors) {
  const Tensor& a = *factors.a;
  const Tensor& b = *factors.b;
  WEFT_ASSERT(a.size(1) == x.size(1) && b.size(1) == a.size(0) && b.size(0) == y.size(1) && x.size(0) == y.size(0) &&
                  a.dtype() == x.dtype() && b.dtype() == x.dtype() && y.dtype() == x.dtype(),
              "add_low_rank: x {}, a {}, b {}, y {}",
              to_string(x.shape()),
              to_string(a.shape()),
              to_string(b.shape()),
              to_string(y.shape()));
  DropoutMask mask(context, factors.dropout, factors.site);
  Tensor scaled_inner = product(context, mask.is_empty() ? x : mask.apply(context, x), a);
  multiply_by(context, scaled_inner, factors.scale);
  Tensor sum = y.detach();
  multiply(context, scaled_inner, transposed(context, b), sum, true);
  if (is_recording(context, {&y, &x, &a, &b})) {
    LowRankNode::Slots slots{.y = y.grad_slot(), .x = x.grad_slot(), .output = attach_slot(sum)};
    context.tape->record(std::make_unique<LowRankNode>(std::move(slots), x, std::move(scaled_inner), factors, mask));
  }
  return sum;
}

void add_low_rank_product(const Context& context, Tensor& weight, const Tensor& a, const Tensor& b, double scale) {
  WEFT_ASSERT(weight.layout() == Layout::row_major && b.size(0) == weight.size(0) && a.size(1) == weight.size(1));
  Tensor scaled = context.empty(b.shape(), b.dtype());
  scaled.copy_from(b);
  multiply_by(context, scaled, scale);
  multiply(context, scaled, a, weight, true);
}

}  // namespace weft
