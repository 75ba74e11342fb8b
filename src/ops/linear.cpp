#include "ops/linear.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/activation.h"

namespace weft {
namespace {

/// What is left of a product's backward when its input has its gradient: the gradients of weight and bias.
struct WeightGradient {
  Tensor dy, x;  // x: only for a weight that wants its gradient
  Tensor weight, bias;

  void operator()(Context& context) const {
    LinearBackwardWeightArgs args{.dy = dy.raw(),
                                  .x = x.raw(),
                                  .rows = dy.size(0),
                                  .out_features = weight.size(0),
                                  .in_features = weight.size(1),
                                  .dtype = weight.dtype()};
    DType dtype = parameter_grad_dtype(weight.dtype());
    if (weight.wants_grad()) {
      GradTarget target = grad_target(context, *weight.grad_slot(), weight.shape(), dtype);
      args.dw = target.tensor.raw();
      args.accumulate_weight = target.accumulate;
    }
    if (bias && bias.wants_grad()) {
      GradTarget target = grad_target(context, *bias.grad_slot(), bias.shape(), dtype);
      args.dbias = target.tensor.raw();
      args.accumulate_bias = target.accumulate;
    }
    require_kernel(context.kernels().linear.backward_weight, "linear backward", context.device.type)(args,
                                                                                                     context.stream());
  }
};

class LinearNode final : public Node {
 public:
  LinearNode(const Context& context,
             const Tensor& x,
             const LinearParameters& parameters,
             std::shared_ptr<GradSlot> output)
      : input_(x.grad_slot()), weight_(*parameters.weight), output_(std::move(output)) {
    if (parameters.bias != nullptr) bias_ = *parameters.bias;
    if (weight_.wants_grad()) x_ = Saved(x);
    if (input_ != nullptr && input_->put_off != nullptr && input_->put_off->block == context.block) {
      put_off_ = input_->put_off;
    }
  }
  std::string_view name() const override { return "linear"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    // f32 results of bf16 inputs: their gradient meets the weights in bf16.
    if (dy.dtype() != weight_.dtype()) dy = copy_of(context, dy, weight_.dtype());
    if (input_ != nullptr) add_product_grad(context, *input_, dy, weight_);
    if (!weight_.wants_grad() && !(bias_ && bias_.wants_grad())) return;
    WeightGradient rest{.dy = std::move(dy), .x = x_.get(context), .weight = weight_, .bias = bias_};
    if (put_off_ == nullptr) return rest(context);
    put_off_->work.emplace_back(std::move(rest));
  }

 private:
  Saved x_;  // kept only for a weight that wants its gradient
  std::shared_ptr<GradSlot> input_;
  std::shared_ptr<PutOff> put_off_;
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

/// A quantized weight as rows in the dtype of its products.
Tensor widened(const Context& context, const Tensor& weight) {
  std::vector<int32_t> all(static_cast<size_t>(weight.size(0)));
  std::iota(all.begin(), all.end(), 0);
  Tensor rows = context.empty(weight.shape(), weight.dtype(), MemoryTag::workspace);
  auto unpack = require_kernel(context.kernels().linear.unpack_rows, "linear backward", context.device.type);
  unpack({.packed = weight.raw(),
          .indices = all.data(),
          .rows = rows.raw(),
          .num_indices = weight.size(0),
          .out_features = weight.size(0),
          .in_features = weight.size(1),
          .dtype = weight.dtype(),
          .layout = weight.layout()},
         context.stream());
  return rows;
}

}  // namespace

void add_product_grad(Context& context, GradSlot& slot, const Tensor& dy, const Tensor& weight) {
  if (is_quantized(weight.layout())) return add_product_grad(context, slot, dy, widened(context, weight));
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

void multiply(Context& context,
              const Tensor& x,
              std::span<const LinearParameters> parameters,
              std::span<Tensor> outputs,
              Activation activation) {
  std::vector<LinearWeight> weights;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const LinearParameters& one = parameters[i];
    weights.push_back({.weight = one.weight->raw(),
                       .bias = one.bias != nullptr ? one.bias->raw() : nullptr,
                       .y = outputs[i].raw(),
                       .out_features = one.weight->size(0),
                       .layout = one.weight->layout()});
  }
  auto forward = require_kernel(context.kernels().linear.forward, "linear", context.device.type);
  forward({.x = x.raw(),
           .weights = weights,
           .rows = x.size(0),
           .in_features = x.size(1),
           .dtype = x.dtype(),
           .y_dtype = outputs[0].dtype(),
           .activation = activation},
          context.stream());
}

std::vector<Tensor> multiply(Context& context,
                             const Tensor& x,
                             std::span<const LinearParameters> parameters,
                             DType y_dtype,
                             Activation activation) {
  std::vector<Tensor> outputs;
  for (const LinearParameters& one : parameters) {
    check_linear(x, one);
    outputs.push_back(context.empty({x.size(0), one.weight->size(0)}, y_dtype));
  }
  multiply(context, x, parameters, outputs, activation);
  return outputs;
}

void record_linear(Context& context, const Tensor& x, const LinearParameters& parameters, Tensor& y) {
  if (!is_recording(context, {&x, parameters.weight, parameters.bias})) return;
  const Tensor& weight = *parameters.weight;
  WEFT_ASSERT(weight.layout() == Layout::row_major || (is_quantized(weight.layout()) && !weight.wants_grad()),
              "linear has no backward through a packed weight, and a quantized one has no gradient");
  context.tape->record(std::make_unique<LinearNode>(context, x, parameters, attach_slot(y)));
}

}  // namespace

std::vector<Tensor> linear_group(Context& context,
                                 const Tensor& x,
                                 std::span<const LinearParameters> parameters,
                                 DType y_dtype) {
  std::vector<Tensor> outputs = multiply(context, x, parameters, y_dtype, Activation::identity);
  for (size_t i = 0; i < parameters.size(); ++i) record_linear(context, x, parameters[i], outputs[i]);
  return outputs;
}

Tensor linear_activation(Context& context, const Tensor& x, const LinearParameters& parameters, Activation kind) {
  if (is_recording(context, {&x, parameters.weight, parameters.bias})) {
    return activation(context, linear(context, x, parameters), kind);
  }
  return std::move(multiply(context, x, {&parameters, 1}, x.dtype(), kind).front());
}

Tensor linear_by_rows(Context& context,
                      const Tensor& x,
                      const LinearParameters& parameters,
                      int64_t rows_at_a_time,
                      const std::function<void(const Tensor& part)>& use) {
  check_linear(x, parameters);
  Tensor y = context.empty({x.size(0), parameters.weight->size(0)}, x.dtype());
  for (int64_t begin = 0; begin < x.size(0); begin += rows_at_a_time) {
    int64_t end = std::min(begin + rows_at_a_time, x.size(0));
    Tensor part = y.slice(begin, end);
    multiply(context, x.slice(begin, end), {&parameters, 1}, {&part, 1}, Activation::identity);
    use(part);
  }
  record_linear(context, x, parameters, y);
  return y;
}

Tensor gated_linear(Context& context, const Tensor& x, const Tensor& gate, const Tensor& up, Activation activation) {
  auto fused = context.kernels().linear.gated_forward;
  if (fused != nullptr && gate.layout() == up.layout() && !is_recording(context, {&x, &gate, &up})) {
    check_linear(x, {.weight = &gate});
    WEFT_ASSERT(gate.shape() == up.shape() && gate.dtype() == up.dtype());
    Tensor y = context.empty({x.size(0), gate.size(0)}, x.dtype());
    GatedLinearArgs args{.x = x.raw(),
                         .gate = gate.raw(),
                         .up = up.raw(),
                         .y = y.raw(),
                         .rows = x.size(0),
                         .in_features = x.size(1),
                         .out_features = gate.size(0),
                         .activation = activation,
                         .dtype = x.dtype(),
                         .layout = gate.layout()};
    if (fused(args, context.stream())) return y;
  }
  const LinearParameters both[] = {{.weight = &gate}, {.weight = &up}};
  std::vector<Tensor> products = linear_group(context, x, both, x.dtype());
  return gated_activation(context, products[0], products[1], activation);
}

Tensor linear(Context& context, const Tensor& x, const LinearParameters& parameters) {
  return std::move(linear_group(context, x, {&parameters, 1}, x.dtype()).front());
}

}  // namespace weft
