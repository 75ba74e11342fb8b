#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/norm.h"
#include "ops/vector_gradient.h"

namespace weft {
namespace {

/// Parameters kept for backward.
struct KeptParameters {
  explicit KeptParameters(const LayerNormParameters& parameters)
      : groups(parameters.groups.begin(), parameters.groups.end()), subtract_mean(parameters.subtract_mean) {
    if (parameters.weight != nullptr) weight = *parameters.weight;
    if (parameters.bias != nullptr) bias = *parameters.bias;
  }
  LayerNormParameters view() const {
    return {.weight = weight ? &weight : nullptr,
            .bias = bias ? &bias : nullptr,
            .groups = groups,
            .subtract_mean = subtract_mean};
  }

  Tensor weight, bias;
  std::vector<int32_t> groups;
  bool subtract_mean;
};

struct Normed {
  Tensor sum, y;
};

Normed run_forward(Context& context,
                   const Tensor& x,
                   const Tensor* residual,
                   const LayerNormParameters& parameters,
                   double eps,
                   bool keep_sum) {
  Normed result{.sum = {}, .y = context.empty(x.shape(), x.dtype())};
  if (keep_sum && residual != nullptr) result.sum = context.empty(x.shape(), x.dtype());
  auto kernel = require_kernel(context.kernels().layer_norm.forward, "layer_norm", context.device.type);
  kernel({.x = x.raw(),
          .residual = residual != nullptr ? residual->raw() : nullptr,
          .weight = parameters.weight != nullptr ? parameters.weight->raw() : nullptr,
          .bias = parameters.bias != nullptr ? parameters.bias->raw() : nullptr,
          .groups = parameters.groups.empty() ? nullptr : parameters.groups.data(),
          .sum = result.sum ? result.sum.raw() : nullptr,
          .y = result.y.raw(),
          .rows = x.size(0),
          .width = x.size(1),
          .eps = eps,
          .subtract_mean = parameters.subtract_mean,
          .dtype = x.dtype()},
         context.stream());
  return result;
}

class LayerNormNode final : public Node {
 public:
  LayerNormNode(Saved input,
                KeptParameters parameters,
                double eps,
                std::shared_ptr<GradSlot> x,
                std::shared_ptr<GradSlot> residual,
                std::shared_ptr<GradSlot> output)
      : input_(std::move(input)),
        parameters_(std::move(parameters)),
        eps_(eps),
        x_(std::move(x)),
        residual_(std::move(residual)),
        output_(std::move(output)) {}
  std::string_view name() const override { return "layer_norm"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    Tensor input = input_.get(context);
    bool wants_input = x_ != nullptr || residual_ != nullptr;
    Tensor dinput = wants_input ? context.empty(input.shape(), input.dtype()) : Tensor{};
    LayerNormBackwardArgs args{.input = input.raw(),
                               .weight = parameters_.weight ? parameters_.weight.raw() : nullptr,
                               .groups = parameters_.groups.empty() ? nullptr : parameters_.groups.data(),
                               .dy = dy.raw(),
                               .dinput = dinput ? dinput.raw() : nullptr,
                               .rows = input.size(0),
                               .width = input.size(1),
                               .eps = eps_,
                               .subtract_mean = parameters_.subtract_mean,
                               .dtype = input.dtype()};
    VectorGradient dweight(context, parameters_.weight);
    VectorGradient dbias(context, parameters_.bias);
    args.dweight = dweight.raw();
    args.dbias = dbias.raw();
    auto kernel = require_kernel(context.kernels().layer_norm.backward, "layer_norm backward", context.device.type);
    kernel(args, context.stream());
    dweight.hand_over(context, parameters_.weight);
    dbias.hand_over(context, parameters_.bias);
    if (!dinput) return;
    // The slots must not share memory: later contributions are added in place.
    if (x_ != nullptr && residual_ != nullptr) add_grad(context, residual_, copy_of(context, dinput, dinput.dtype()));
    add_grad(context, x_ != nullptr ? x_ : residual_, std::move(dinput));
  }

 private:
  Saved input_;
  KeptParameters parameters_;
  double eps_;
  std::shared_ptr<GradSlot> x_;
  std::shared_ptr<GradSlot> residual_;
  std::shared_ptr<GradSlot> output_;
};

bool wants_grad(const Tensor* tensor) {
  return tensor != nullptr && tensor->wants_grad();
}

void check_parameters(const Tensor& x, const LayerNormParameters& parameters) {
  bool is_grouped = !parameters.groups.empty();
  WEFT_ASSERT(x.rank() == 2 && (!is_grouped || static_cast<int64_t>(parameters.groups.size()) == x.size(0)),
              "layer_norm: x {}, {} groups",
              to_string(x.shape()),
              parameters.groups.size());
  for (const Tensor* vector : {parameters.weight, parameters.bias}) {
    if (vector == nullptr) continue;
    WEFT_ASSERT(vector->rank() == (is_grouped ? 2 : 1) && vector->size(-1) == x.size(1) && vector->dtype() == x.dtype(),
                "layer_norm: x {}, weight or bias {}",
                to_string(x.shape()),
                to_string(vector->shape()));
    for (int32_t group : parameters.groups) {
      WEFT_ASSERT(group >= 0 && group < vector->size(0), "layer_norm: group {} of {}", group, vector->size(0));
    }
  }
}

Tensor run(
    Context& context, const Tensor& x, const Tensor* residual, const LayerNormParameters& parameters, double eps) {
  check_parameters(x, parameters);
  bool recording = context.tape != nullptr && (x.wants_grad() || wants_grad(residual) ||
                                               wants_grad(parameters.weight) || wants_grad(parameters.bias));
  Normed result = run_forward(context, x, residual, parameters, eps, recording);
  if (!recording) return result.y;
  auto output = attach_slot(result.y);
  KeptParameters kept(parameters);
  Tensor input = result.sum ? result.sum.detach() : x.detach();
  KeptParameters detached(parameters);
  if (detached.weight) detached.weight = detached.weight.detach();
  if (detached.bias) detached.bias = detached.bias.detach();
  offer_recipe(context, result.y, [input, detached = std::move(detached), eps](Context& again) {
    return run_forward(again, input, nullptr, detached.view(), eps, false).y;
  });
  context.tape->record(std::make_unique<LayerNormNode>(result.sum ? Saved(result.sum) : Saved(x),
                                                       std::move(kept),
                                                       eps,
                                                       x.grad_slot(),
                                                       residual != nullptr ? residual->grad_slot() : nullptr,
                                                       std::move(output)));
  return result.y;
}

}  // namespace

Tensor layer_norm(Context& context, const Tensor& x, const LayerNormParameters& parameters, double eps) {
  return run(context, x, nullptr, parameters, eps);
}

Tensor add_layer_norm(
    Context& context, const Tensor& x, const Tensor& residual, const LayerNormParameters& parameters, double eps) {
  WEFT_ASSERT(residual.shape() == x.shape() && residual.dtype() == x.dtype());
  return run(context, x, &residual, parameters, eps);
}

}  // namespace weft
