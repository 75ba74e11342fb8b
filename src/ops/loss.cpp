#include "ops/loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"

namespace weft {
namespace {

std::vector<double> to_doubles(const Tensor& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
  convert_dtype(tensor.raw(), tensor.dtype(), values.data(), DType::f64, tensor.num_elements());
  return values;
}

/// Hands over a gradient that was computed with the loss.
class LossNode final : public Node {
 public:
  LossNode(std::vector<double> gradient, const Tensor& logits, std::shared_ptr<GradSlot> output)
      : gradient_(std::move(gradient)),
        shape_(logits.shape()),
        dtype_(logits.dtype()),
        logits_(logits.grad_slot()),
        output_(std::move(output)) {}
  std::string_view name() const override { return "loss"; }

  void backward(Context& context) override {
    Tensor seed = take_grad(output_);
    if (!seed) return;
    double factor = to_doubles(seed)[0];
    for (double& value : gradient_) value *= factor;
    Tensor gradient = context.empty(shape_, dtype_);
    convert_dtype(gradient_.data(), DType::f64, gradient.raw(), dtype_, gradient.num_elements());
    add_grad(context, logits_, std::move(gradient));
  }

 private:
  std::vector<double> gradient_;
  Shape shape_;
  DType dtype_;
  std::shared_ptr<GradSlot> logits_;
  std::shared_ptr<GradSlot> output_;
};

Tensor make_loss(Context& context, const Tensor& logits, double value, std::vector<double> gradient) {
  DType dtype = logits.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor loss = context.empty({1}, dtype);
  convert_dtype(&value, DType::f64, loss.raw(), dtype, 1);
  if (is_recording(context, {&logits})) {
    auto output = attach_slot(loss);
    context.tape->record(std::make_unique<LossNode>(std::move(gradient), logits, std::move(output)));
  }
  return loss;
}

double weight_of(std::span<const float> weights, size_t index) {
  return weights.empty() ? 1.0 : static_cast<double>(weights[index]);
}

}  // namespace

Tensor softmax_cross_entropy(Context& context,
                             const Tensor& logits,
                             std::span<const int32_t> targets,
                             std::span<const float> weights,
                             LossReduction reduction) {
  auto rows = static_cast<size_t>(logits.size(0));
  auto classes = static_cast<size_t>(logits.size(1));
  WEFT_ASSERT(targets.size() == rows && (weights.empty() || weights.size() == rows));
  std::vector<double> values = to_doubles(logits);
  double total = 0, loss = 0;
  for (size_t r = 0; r < rows; ++r) {
    double* row = values.data() + r * classes;
    double weight = targets[r] < 0 ? 0 : weight_of(weights, r);
    WEFT_ASSERT(targets[r] < static_cast<int32_t>(classes), "target {} of {} classes", targets[r], classes);
    double largest = *std::max_element(row, row + classes);
    double sum = 0;
    for (size_t c = 0; c < classes; ++c) sum += std::exp(row[c] - largest);
    double log_sum = largest + std::log(sum);
    total += weight;
    if (targets[r] >= 0) loss += weight * (log_sum - row[static_cast<size_t>(targets[r])]);
    for (size_t c = 0; c < classes; ++c) {
      bool is_target = targets[r] == static_cast<int32_t>(c);
      row[c] = weight * (std::exp(row[c] - log_sum) - (is_target ? 1 : 0));
    }
  }
  double scale = reduction == LossReduction::sum ? 1 : total > 0 ? 1 / total : 0;
  for (double& value : values) value *= scale;
  return make_loss(context, logits, loss * scale, std::move(values));
}

Tensor binary_cross_entropy(Context& context,
                            const Tensor& logits,
                            std::span<const float> targets,
                            std::span<const float> weights) {
  auto count = static_cast<size_t>(logits.num_elements());
  WEFT_ASSERT(targets.size() == count && (weights.empty() || weights.size() == count));
  std::vector<double> values = to_doubles(logits);
  double total = 0, loss = 0;
  for (size_t i = 0; i < count; ++i) {
    double x = values[i];
    double target = static_cast<double>(targets[i]);
    double weight = weight_of(weights, i);
    total += weight;
    loss += weight * (std::max(x, 0.0) - x * target + std::log1p(std::exp(-std::abs(x))));
    values[i] = weight * (1 / (1 + std::exp(-x)) - target);
  }
  double scale = total > 0 ? 1 / total : 0;
  for (double& value : values) value *= scale;
  return make_loss(context, logits, loss * scale, std::move(values));
}

}  // namespace weft
