#include "ops/elementwise.h"

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/vector_gradient.h"

namespace weft {
namespace {

void axpby(Context& context, const Tensor& x, const Tensor* y_in, Tensor& y, double a, double b) {
  auto kernel = require_kernel(context.kernels_for(x).elementwise.axpby, "axpby", context.device.type);
  kernel({.x = x.raw(),
          .y_in = y_in != nullptr ? y_in->raw() : nullptr,
          .y = y.raw(),
          .count = x.num_elements(),
          .a = a,
          .b = b,
          .x_dtype = x.dtype(),
          .y_dtype = y.dtype()},
         context.stream_for(x));
}

/// a·dy for each of up to two inputs.
class AxpbyNode final : public Node {
 public:
  AxpbyNode(std::shared_ptr<GradSlot> x, std::shared_ptr<GradSlot> y, std::shared_ptr<GradSlot> output, double factor)
      : x_(std::move(x)), y_(std::move(y)), output_(std::move(output)), factor_(factor) {}
  std::string_view name() const override { return "axpby"; }

  void backward(Context& context) override {
    Tensor grad = take_grad(output_);
    if (!grad) return;
    for (const auto& slot : {x_, y_}) {
      if (slot == nullptr) continue;
      Tensor dx = context.empty_like(grad, grad.dtype());
      axpby(context, grad, nullptr, dx, factor_, 0);
      add_grad(context, slot, std::move(dx));
    }
  }

 private:
  std::shared_ptr<GradSlot> x_;
  std::shared_ptr<GradSlot> y_;
  std::shared_ptr<GradSlot> output_;
  double factor_;
};

class ColumnScaleNode final : public Node {
 public:
  ColumnScaleNode(const Tensor& x, Tensor factors, std::shared_ptr<GradSlot> output)
      : x_(x.detach()), factors_(std::move(factors)), x_slot_(x.grad_slot()), output_(std::move(output)) {}
  std::string_view name() const override { return "column_scale"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    Tensor dx = x_slot_ != nullptr ? context.empty(x_.shape(), x_.dtype()) : Tensor{};
    VectorGradient dfactors(context, factors_);
    auto kernel = require_kernel(
        context.kernels().elementwise.column_scale_backward, "column_scale backward", context.device.type);
    kernel({.x = x_.raw(),
            .factors = factors_.raw(),
            .dy = dy.raw(),
            .dx = dx ? dx.raw() : nullptr,
            .dfactors = dfactors.raw(),
            .rows = x_.size(0),
            .width = x_.size(1),
            .dtype = x_.dtype()},
           context.stream());
    dfactors.hand_over(context, factors_);
    if (dx) add_grad(context, x_slot_, std::move(dx));
  }

 private:
  Tensor x_;
  Tensor factors_;
  std::shared_ptr<GradSlot> x_slot_;
  std::shared_ptr<GradSlot> output_;
};

class SoftCapNode final : public Node {
 public:
  SoftCapNode(std::shared_ptr<GradSlot> input, Tensor y, float cap)
      : input_(std::move(input)), y_(std::move(y)), cap_(cap) {}
  std::string_view name() const override { return "soft_cap"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(y_.grad_slot());
    if (!dy) return;
    Tensor dx = context.empty(y_.shape(), y_.dtype());
    auto kernel =
        require_kernel(context.kernels().elementwise.soft_cap_backward, "soft_cap backward", context.device.type);
    kernel(
        {.y = y_.raw(), .dy = dy.raw(), .dx = dx.raw(), .count = y_.num_elements(), .cap = cap_, .dtype = y_.dtype()},
        context.stream());
    add_grad(context, input_, std::move(dx));
  }

 private:
  std::shared_ptr<GradSlot> input_;
  Tensor y_;
  float cap_;
};

class SoftmaxNode final : public Node {
 public:
  SoftmaxNode(std::shared_ptr<GradSlot> input, Tensor y) : input_(std::move(input)), y_(std::move(y)) {}
  std::string_view name() const override { return "softmax"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(y_.grad_slot());
    if (!dy) return;
    Tensor dx = context.empty(y_.shape(), y_.dtype());
    auto kernel =
        require_kernel(context.kernels().elementwise.softmax_backward, "softmax backward", context.device.type);
    kernel(
        {.y = y_.raw(), .dy = dy.raw(), .dx = dx.raw(), .rows = y_.size(0), .width = y_.size(1), .dtype = y_.dtype()},
        context.stream());
    add_grad(context, input_, std::move(dx));
  }

 private:
  std::shared_ptr<GradSlot> input_;
  Tensor y_;
};

class DropoutNode final : public Node {
 public:
  DropoutNode(std::shared_ptr<GradSlot> input, std::shared_ptr<GradSlot> output, const DropoutMask& mask)
      : input_(std::move(input)), output_(std::move(output)), mask_(mask) {}
  std::string_view name() const override { return "dropout"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (dy) add_grad(context, input_, mask_.apply(context, dy));
  }

 private:
  std::shared_ptr<GradSlot> input_;
  std::shared_ptr<GradSlot> output_;
  DropoutMask mask_;
};

}  // namespace

DropoutMask::DropoutMask(const Context& context, float probability, const DropoutSite& site)
    : probability_(context.training ? probability : 0),
      site_(site),
      row_begin_(context.first_token + site.row_begin),
      key_(context.random) {
  key_.site = site.site;
}

Tensor DropoutMask::apply(Context& context, const Tensor& x) const {
  Tensor y = context.empty(x.shape(), x.dtype());
  auto kernel = require_kernel(context.kernels().elementwise.dropout, "dropout", context.device.type);
  kernel({.x = x.raw(),
          .y = y.raw(),
          .rows = x.size(0),
          .width = x.size(1),
          .global_width = site_.global_width,
          .row_begin = row_begin_,
          .column_begin = site_.column_begin,
          .probability = probability_,
          .key = key_,
          .dtype = x.dtype()},
         context.stream());
  return y;
}

Tensor add(Context& context, const Tensor& x, const Tensor& y) {
  WEFT_ASSERT(x.shape() == y.shape() && x.dtype() == y.dtype());
  Tensor sum = context.empty_like(x, x.dtype());
  axpby(context, x, &y, sum, 1, 1);
  if (is_recording(context, {&x, &y})) {
    auto output = attach_slot(sum);
    context.tape->record(std::make_unique<AxpbyNode>(x.grad_slot(), y.grad_slot(), std::move(output), 1));
  }
  return sum;
}

Tensor scale(Context& context, const Tensor& x, double factor) {
  Tensor y = context.empty_like(x, x.dtype());
  axpby(context, x, nullptr, y, factor, 0);
  if (is_recording(context, {&x})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<AxpbyNode>(x.grad_slot(), nullptr, std::move(output), factor));
  }
  return y;
}

Tensor widen(Context& context, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = copy_of(context, x, dtype);
  if (is_recording(context, {&x})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<AxpbyNode>(x.grad_slot(), nullptr, std::move(output), 1));
  }
  return y;
}

Tensor scale_gradient(Context& context, const Tensor& x, double factor) {
  if (!is_recording(context, {&x})) return x;
  Tensor y = x.detach();
  auto output = attach_slot(y);
  context.tape->record(std::make_unique<AxpbyNode>(x.grad_slot(), nullptr, std::move(output), factor));
  return y;
}

Tensor scale_columns(Context& context, const Tensor& x, const Tensor& factors) {
  WEFT_ASSERT(x.rank() == 2 && factors.num_elements() == x.size(1) && x.dtype() == factors.dtype());
  Tensor y = context.empty(x.shape(), x.dtype());
  auto kernel = require_kernel(context.kernels().elementwise.column_scale, "column_scale", context.device.type);
  kernel(
      {.x = x.raw(), .factors = factors.raw(), .y = y.raw(), .rows = x.size(0), .width = x.size(1), .dtype = x.dtype()},
      context.stream());
  if (is_recording(context, {&x, &factors})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<ColumnScaleNode>(x, factors, std::move(output)));
  }
  return y;
}

Tensor soft_cap(Context& context, const Tensor& x, float cap) {
  Tensor y = context.empty(x.shape(), x.dtype());
  auto kernel = require_kernel(context.kernels().elementwise.soft_cap, "soft_cap", context.device.type);
  kernel({.x = x.raw(), .y = y.raw(), .count = x.num_elements(), .cap = cap, .dtype = x.dtype()}, context.stream());
  if (is_recording(context, {&x})) {
    attach_slot(y);
    context.tape->record(std::make_unique<SoftCapNode>(x.grad_slot(), y, cap));
  }
  return y;
}

Tensor softmax(Context& context, const Tensor& x) {
  WEFT_ASSERT(x.rank() == 2);
  Tensor y = context.empty(x.shape(), x.dtype());
  auto kernel = require_kernel(context.kernels().elementwise.softmax, "softmax", context.device.type);
  kernel({.x = x.raw(), .y = y.raw(), .rows = x.size(0), .width = x.size(1), .dtype = x.dtype()}, context.stream());
  if (is_recording(context, {&x})) {
    attach_slot(y);
    context.tape->record(std::make_unique<SoftmaxNode>(x.grad_slot(), y));
  }
  return y;
}

Tensor dropout(Context& context, const Tensor& x, float probability, const DropoutSite& site) {
  WEFT_ASSERT(x.rank() == 2 && probability >= 0 && probability < 1);
  DropoutMask mask(context, probability, site);
  if (mask.is_empty()) return x;
  Tensor y = mask.apply(context, x);
  if (is_recording(context, {&x})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<DropoutNode>(x.grad_slot(), std::move(output), mask));
  }
  return y;
}

}  // namespace weft
