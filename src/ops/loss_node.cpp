#include "ops/loss_node.h"

#include "autograd/tape.h"

namespace weft {
namespace {

class LossNode final : public Node {
 public:
  LossNode(std::vector<LossInput> inputs, std::shared_ptr<GradSlot> output) : output_(std::move(output)) {
    for (LossInput& input : inputs) {
      if (!input.tensor->wants_grad()) continue;
      parts_.push_back({.gradient = std::move(input.gradient),
                        .shape = input.tensor->shape(),
                        .dtype = input.tensor->dtype(),
                        .slot = input.tensor->grad_slot()});
    }
  }
  std::string_view name() const override { return "loss"; }

  void backward(Context& context) override {
    Tensor seed = take_grad(output_);
    if (!seed) return;
    double factor = to_doubles(seed)[0];
    for (Part& part : parts_) {
      for (double& value : part.gradient) value *= factor;
      Tensor gradient = context.empty(part.shape, part.dtype);
      gradient.set_values(part.gradient.data(), DType::f64);
      add_grad(context, part.slot, std::move(gradient));
    }
  }

 private:
  struct Part {
    std::vector<double> gradient;
    Shape shape;
    DType dtype;
    std::shared_ptr<GradSlot> slot;
  };

  std::vector<Part> parts_;
  std::shared_ptr<GradSlot> output_;
};

}  // namespace

std::vector<double> to_doubles(const Tensor& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
  Tensor host = on_host(tensor);
  convert_dtype(host.raw(), host.dtype(), values.data(), DType::f64, host.num_elements());
  return values;
}

Tensor make_loss(Context& context, double value, std::vector<LossInput> inputs) {
  DType dtype = inputs.front().tensor->dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor loss = context.host_empty({1}, dtype);
  loss.set_values(&value, DType::f64);
  bool records = false;
  for (const LossInput& input : inputs) records = records || is_recording(context, {input.tensor});
  if (records) {
    auto output = attach_slot(loss);
    context.tape->record(std::make_unique<LossNode>(std::move(inputs), std::move(output)));
  }
  return loss;
}

}  // namespace weft
