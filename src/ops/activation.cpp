#include "ops/activation.h"

#include <algorithm>
#include <array>
#include <utility>

#include "autograd/tape.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr std::array<std::pair<std::string_view, Activation>, 14> kActivations = {
    {{"silu", Activation::silu},
     {"swish", Activation::silu},
     {"gelu_pytorch_tanh", Activation::gelu_tanh},
     {"gelu_new", Activation::gelu_tanh},
     {"gelu_tanh", Activation::gelu_tanh},
     {"gelu", Activation::gelu_erf},
     {"gelu_erf", Activation::gelu_erf},
     {"gelu_python", Activation::gelu_erf},
     {"relu", Activation::relu},
     {"linear", Activation::identity},
     {"tanh", Activation::tanh},
     {"sigmoid", Activation::sigmoid},
     {"squared_relu", Activation::squared_relu},
     {"relu2", Activation::squared_relu}}};

class GatedActivationNode final : public Node {
 public:
  GatedActivationNode(Tensor gate, Tensor up, Activation activation, std::shared_ptr<GradSlot> output)
      : gate_(std::move(gate)), up_(std::move(up)), activation_(activation), output_(std::move(output)) {}
  std::string_view name() const override { return "gated_activation"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    Tensor dgate = gate_.wants_grad() ? context.empty(gate_.shape(), gate_.dtype()) : Tensor();
    Tensor dup = up_.wants_grad() ? context.empty(up_.shape(), up_.dtype()) : Tensor();
    auto kernel =
        require_kernel(context.kernels().activation.gated_backward, "gated_activation backward", context.device.type);
    kernel({.gate = gate_.raw(),
            .up = up_.raw(),
            .dy = dy.raw(),
            .dgate = dgate ? dgate.raw() : nullptr,
            .dup = dup ? dup.raw() : nullptr,
            .count = gate_.num_elements(),
            .activation = activation_,
            .dtype = gate_.dtype()},
           context.stream());
    add_grad(context, gate_.grad_slot(), std::move(dgate));
    add_grad(context, up_.grad_slot(), std::move(dup));
  }

 private:
  Tensor gate_;
  Tensor up_;
  Activation activation_;
  std::shared_ptr<GradSlot> output_;
};

class ActivationNode final : public Node {
 public:
  ActivationNode(const Tensor& x, Activation activation, std::shared_ptr<GradSlot> output)
      : x_(x), slot_(x.grad_slot()), activation_(activation), output_(std::move(output)) {}
  std::string_view name() const override { return "activation"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    Tensor x = x_.get(context);
    Tensor dx = context.empty(x.shape(), x.dtype());
    auto kernel = require_kernel(context.kernels().activation.backward, "activation backward", context.device.type);
    kernel({.x = x.raw(),
            .dy = dy.raw(),
            .dx = dx.raw(),
            .count = x.num_elements(),
            .activation = activation_,
            .dtype = x.dtype()},
           context.stream());
    add_grad(context, slot_, std::move(dx));
  }

 private:
  Saved x_;
  std::shared_ptr<GradSlot> slot_;
  Activation activation_;
  std::shared_ptr<GradSlot> output_;
};

Tensor run_forward(Context& context, const Tensor& x, Activation activation) {
  Tensor y = context.empty(x.shape(), x.dtype());
  auto kernel = require_kernel(context.kernels().activation.forward, "activation", context.device.type);
  kernel({.x = x.raw(), .y = y.raw(), .count = x.num_elements(), .activation = activation, .dtype = x.dtype()},
         context.stream());
  return y;
}

Tensor run_forward(Context& context, const Tensor& gate, const Tensor& up, Activation activation) {
  Tensor y = context.empty(gate.shape(), gate.dtype());
  auto kernel = require_kernel(context.kernels().activation.gated_forward, "gated_activation", context.device.type);
  kernel({.gate = gate.raw(),
          .up = up.raw(),
          .y = y.raw(),
          .count = gate.num_elements(),
          .activation = activation,
          .dtype = gate.dtype()},
         context.stream());
  return y;
}

}  // namespace

std::string_view activation_name(Activation activation) {
  const auto* found = std::find_if(
      kActivations.begin(), kActivations.end(), [&](const auto& known) { return known.second == activation; });
  WEFT_ASSERT(found != kActivations.end());
  return found->first;
}

Activation parse_activation(std::string_view name) {
  for (const auto& [known, activation] : kActivations) {
    if (known == name) return activation;
  }
  fail_input(
      "unknown activation '{}'; known are silu, gelu, gelu_new, gelu_pytorch_tanh, relu, squared_relu, tanh, sigmoid, "
      "linear",
      printable(name));
}

Tensor activation(Context& context, const Tensor& x, Activation kind) {
  if (kind == Activation::identity) return x;
  Tensor y = run_forward(context, x, kind);
  if (is_recording(context, {&x})) {
    auto output = attach_slot(y);
    offer_recipe(context, y, [x = x.detach(), kind](Context& again) { return run_forward(again, x, kind); });
    context.tape->record(std::make_unique<ActivationNode>(x, kind, std::move(output)));
  }
  return y;
}

Tensor gated_activation(Context& context, const Tensor& gate, const Tensor& up, Activation activation) {
  WEFT_ASSERT(gate.shape() == up.shape() && gate.dtype() == up.dtype());
  Tensor y = run_forward(context, gate, up, activation);
  if (is_recording(context, {&gate, &up})) {
    auto output = attach_slot(y);
    offer_recipe(context, y, [gate = gate.detach(), up = up.detach(), activation](Context& again) {
      return run_forward(again, gate, up, activation);
    });
    context.tape->record(std::make_unique<GatedActivationNode>(gate, up, activation, std::move(output)));
  }
  return y;
}

}  // namespace weft
