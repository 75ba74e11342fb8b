#include "ops/loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "ops/loss_node.h"

namespace weft {
namespace {

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
  return make_loss(context, loss * scale, {{&logits, std::move(values)}});
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
  return make_loss(context, loss * scale, {{&logits, std::move(values)}});
}

Tensor column_cross_entropy(Context& context, const Tensor& logits, std::span<const ColumnTarget> targets) {
  int64_t columns = logits.size(1);
  std::vector<double> values = to_doubles(logits);
  std::vector<double> gradient(values.size());
  double loss = 0;
  for (const ColumnTarget& target : targets) {
    WEFT_ASSERT(target.target >= 0 && target.target < target.length);
    auto at = [&](int64_t row) { return static_cast<size_t>((target.begin + row) * columns + target.column); };
    double largest = values[at(0)], sum = 0;
    for (int64_t row = 1; row < target.length; ++row) largest = std::max(largest, values[at(row)]);
    for (int64_t row = 0; row < target.length; ++row) sum += std::exp(values[at(row)] - largest);
    auto weight = static_cast<double>(target.weight);
    loss += weight * (largest + std::log(sum) - values[at(target.target)]);
    for (int64_t row = 0; row < target.length; ++row) {
      gradient[at(row)] += weight * std::exp(values[at(row)] - largest) / sum;
    }
    gradient[at(target.target)] -= weight;
  }
  return make_loss(context, loss, {{&logits, std::move(gradient)}});
}

}  // namespace weft
