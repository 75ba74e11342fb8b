#include "ops/multilabel.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ops/loss_node.h"

namespace weft {

double multilabel_loss(std::vector<double>& scores, const std::vector<bool>& is_marked) {
  double largest_of_marked = 0, largest_of_others = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    double& largest = is_marked[i] ? largest_of_marked : largest_of_others;
    largest = std::max(largest, is_marked[i] ? -scores[i] : scores[i]);
  }
  double marked = std::exp(-largest_of_marked), others = std::exp(-largest_of_others);
  for (size_t i = 0; i < scores.size(); ++i) {
    if (is_marked[i]) {
      scores[i] = std::exp(-scores[i] - largest_of_marked);
      marked += scores[i];
    } else {
      scores[i] = std::exp(scores[i] - largest_of_others);
      others += scores[i];
    }
  }
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = is_marked[i] ? -scores[i] / marked : scores[i] / others;
  return largest_of_marked + std::log(marked) + largest_of_others + std::log(others);
}

Tensor multilabel_cross_entropy(Context& context,
                                const Tensor& logits,
                                std::span<const std::vector<int32_t>> labels,
                                std::span<const float> weights) {
  WEFT_ASSERT(logits.size(0) == static_cast<int64_t>(labels.size()) && labels.size() == weights.size());
  auto classes = logits.size(1);
  std::vector<double> values = to_doubles(logits);
  std::vector<double> gradient(values.size());
  double loss = 0;
  for (size_t r = 0; r < labels.size(); ++r) {
    if (weights[r] == 0) continue;
    auto weight = static_cast<double>(weights[r]);
    auto row = static_cast<int64_t>(r) * classes;
    std::vector<double> scores(values.begin() + row, values.begin() + row + classes);
    std::vector<bool> is_marked(scores.size());
    for (int32_t label : labels[r]) is_marked[static_cast<size_t>(label)] = true;
    loss += weight * multilabel_loss(scores, is_marked);
    std::transform(scores.begin(), scores.end(), gradient.begin() + row, [&](double score) { return weight * score; });
  }
  return make_loss(context, loss, {{&logits, std::move(gradient)}});
}

}  // namespace weft
