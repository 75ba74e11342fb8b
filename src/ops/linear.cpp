#include "ops/linear.h"

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/activation.h"

namespace weft {
namespace {

class LinearNode final : public Node {
 public:
  LinearNode(const Tensor& x, const LinearParameters& parameters, std::shared_ptr<GradSlot> output)
      : rows_(x.size(0)), input_(x.grad_slot()), weight_(*parameters.weight), output_(std::move(output)) {
    if (parameters.bias != nullptr) bias_ = *parameters.bias;
    if (weight_.wants_grad()) x_ = Saved(x);
  }
  std::string_view name() const override { return "linear"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    // f32 results of bf16 inputs: their gradient meets the weights in bf16.
    if (dy.dtype() != weight_.dtype()) dy = copy_of(context, dy, weight_.dtype());
    if (input_ != nullptr) add_product_grad(context, *input_, dy, weight_);
    add_weight_grad(context, dy);
  }

 private:
  void add_weight_grad(Context& context, const Tensor& dy) const {
    bool wants_bias = bias_ && bias_.wants_grad();
    if (!weight_.wants_grad() && !wants_bias) return;
    Tensor x = x_.get(context);
    LinearBackwardWeightArgs args{.dy = dy.raw(),
                                  .x = x.raw(),
                                  .rows = rows_,
                                  .out_features = weight_.size(0),
                                  .in_features = weight_.size(1),
                                  .dtype = weight_.dtype()};
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

  int64_t rows_;
  Saved x_;  // kept only for a weight that wants its gradient
  std::shared_ptr<GradSlot> input_;
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

void add_product_grad(Context& context, GradSlot& slot, const Tensor& dy, const Tensor& weight) {
  auto kernel = require_kernel(context.kernels().linear.backward_input, "linear backward", context.device.type);
  GradTarget target = grad_target(context, slot, {dy.size(0), weight.size(1)}, weight.dtype());
  kernel({.dy = dy.raw(),
          .weight = weight.raw(),
          .dx = target.tensor.raw(),
          .rows = dy.size(0),
          .out_features = weight.size(0),
          .in_features = weight.size(1),
          .dtype = weight.dtype(),
          .accumulate = target.accumulate},
         context.stream());
}

namespace {

std::vector<Tensor> multiply(Context& context,
                             const Tensor& x,
                             std::span<const LinearParameters> parameters,
                             DType y_dtype,
                             Activation activation) {
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
           .y_dtype = y_dtype,
           .activation = activation},
          context.stream());
  return outputs;
}

}  // namespace

std::vector<Tensor> linear_group(Context& context,
                                 const Tensor& x,
                                 std::span<const LinearParameters> parameters,
                                 DType y_dtype) {
  std::vector<Tensor> outputs = multiply(context, x, parameters, y_dtype, Activation::identity);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!is_recording(context, {&x, parameters[i].weight, parameters[i].bias})) continue;
    WEFT_ASSERT(parameters[i].weight->layout() == Layout::row_major, "linear has no backward through a packed weight");
    context.tape->record(std::make_unique<LinearNode>(x, parameters[i], attach_slot(outputs[i])));
  }
  return outputs;
}

Tensor linear_activation(Context& context, const Tensor& x, const LinearParameters& parameters, Activation kind) {
  if (is_recording(context, {&x, parameters.weight, parameters.bias})) {
    return activation(context, linear(context, x, parameters), kind);
  }
  return std::move(multiply(context, x, {&parameters, 1}, x.dtype(), kind).front());
}

Tensor linear(Context& context, const Tensor& x, const LinearParameters& parameters) {
  return std::move(linear_group(context, x, {&parameters, 1}, x.dtype()).front());
}

}  // namespace weft
