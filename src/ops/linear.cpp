#include "ops/linear.h"

#include "autograd/tape.h"
#include "core/error.h"

namespace weft {
namespace {

class LinearNode final : public Node {
 public:
  LinearNode(Tensor x, const LinearParameters& parameters, std::shared_ptr<GradSlot> output)
      : x_(std::move(x)), weight_(*parameters.weight), output_(std::move(output)) {
    if (parameters.bias != nullptr) bias_ = *parameters.bias;
  }
  std::string_view name() const override { return "linear"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    if (dy.dtype() != x_.dtype()) dy = narrowed(context, dy);
    if (x_.wants_grad()) add_grad(context, x_.grad_slot(), input_grad(context, dy));
    weight_grad(context, dy);
  }

 private:
  // Logits of bf16 inputs are f32; their gradient meets the weights in bf16.
  Tensor narrowed(Context& context, const Tensor& dy) const {
    Tensor result = context.empty(dy.shape(), x_.dtype());
    convert_dtype(dy.raw(), dy.dtype(), result.raw(), result.dtype(), dy.num_elements());
    return result;
  }

  Tensor input_grad(Context& context, const Tensor& dy) const {
    auto kernel = require_kernel(context.kernels().linear.backward_input, "linear backward", context.device.type);
    Tensor dx = context.empty(x_.shape(), x_.dtype());
    kernel({.dy = dy.raw(),
            .weight = weight_.raw(),
            .dx = dx.raw(),
            .rows = x_.size(0),
            .out_features = weight_.size(0),
            .in_features = weight_.size(1),
            .dtype = x_.dtype()},
           context.stream());
    return dx;
  }

  void weight_grad(Context& context, const Tensor& dy) const {
    bool wants_bias = bias_ && bias_.wants_grad();
    if (!weight_.wants_grad() && !wants_bias) return;
    LinearBackwardWeightArgs args{.dy = dy.raw(),
                                  .x = x_.raw(),
                                  .rows = x_.size(0),
                                  .out_features = weight_.size(0),
                                  .in_features = weight_.size(1),
                                  .dtype = x_.dtype()};
    DType dtype = parameter_grad_dtype(weight_.dtype());
    if (weight_.wants_grad()) {
      GradTarget target = grad_target(context, *weight_.grad_slot(), weight_.shape(), dtype);
      args.dw = target.tensor.raw();
      args.accumulate_weight = target.accumulate;
    }
    if (wants_bias) {
      GradTarget target = grad_target(context, *bias_.grad_slot(), bias_.shape(), dtype);
      args.dbias = target.tensor.raw();
      args.accumulate_bias = target.accumulate;
    }
    require_kernel(context.kernels().linear.backward_weight, "linear backward", context.device.type)(args,
                                                                                                     context.stream());
  }

  Tensor x_;
  Tensor weight_;
  Tensor bias_;
  std::shared_ptr<GradSlot> output_;
};

void check_linear(const Tensor& x, const LinearParameters& parameters) {
  const Tensor& weight = *parameters.weight;
  WEFT_ASSERT(x.rank() == 2 && weight.rank() == 2 && x.size(1) == weight.size(1) && x.dtype() == weight.dtype(),
              "linear: x {} {}, weight {} {}",
              to_string(x.shape()),
              dtype_name(x.dtype()),
              to_string(weight.shape()),
              dtype_name(weight.dtype()));
  WEFT_ASSERT(parameters.bias == nullptr ||
              (parameters.bias->num_elements() == weight.size(0) && parameters.bias->dtype() == weight.dtype()));
}

}  // namespace

std::vector<Tensor> linear_group(Context& context,
                                 const Tensor& x,
                                 std::span<const LinearParameters> parameters,
                                 DType y_dtype) {
  std::vector<Tensor> outputs;
  std::vector<LinearWeight> weights;
  for (const LinearParameters& one : parameters) {
    check_linear(x, one);
    outputs.push_back(context.empty({x.size(0), one.weight->size(0)}, y_dtype));
    weights.push_back({.weight = one.weight->raw(),
                       .bias = one.bias != nullptr ? one.bias->raw() : nullptr,
                       .y = outputs.back().raw(),
                       .out_features = one.weight->size(0),
                       .layout = one.weight->layout()});
  }
  auto forward = require_kernel(context.kernels().linear.forward, "linear", context.device.type);
  forward({.x = x.raw(),
           .weights = weights,
           .rows = x.size(0),
           .in_features = x.size(1),
           .dtype = x.dtype(),
           .y_dtype = y_dtype},
          context.stream());
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!is_recording(context, {&x, parameters[i].weight, parameters[i].bias})) continue;
    WEFT_ASSERT(parameters[i].weight->layout() == Layout::row_major, "linear has no backward through a packed weight");
    context.tape->record(std::make_unique<LinearNode>(x, parameters[i], attach_slot(outputs[i])));
  }
  return outputs;
}

Tensor linear(Context& context, const Tensor& x, const LinearParameters& parameters) {
  return std::move(linear_group(context, x, {&parameters, 1}, x.dtype()).front());
}

}  // namespace weft
