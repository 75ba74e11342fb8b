#include "ops/cross_entropy.h"

#include <cmath>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

struct RowStatistics {
  Tensor maximum, sum_exp, target_logit;
};

RowStatistics reduce_rows(Context& context,
                          const Tensor& logits,
                          std::span<const int32_t> targets,
                          int64_t column_begin) {
  Shape rows = {logits.size(0)};
  RowStatistics statistics{
      context.empty(rows, logits.dtype()), context.empty(rows, logits.dtype()), context.empty(rows, logits.dtype())};
  const CrossEntropyKernels& kernels = context.kernels().cross_entropy;
  require_kernel(kernels.row_maximum, "cross_entropy", context.device.type)({.logits = logits.raw(),
                                                                             .maximum = statistics.maximum.raw(),
                                                                             .rows = logits.size(0),
                                                                             .columns = logits.size(1),
                                                                             .dtype = logits.dtype()},
                                                                            context.stream());
  Communicator* group = context.tensor_parallel;
  if (group != nullptr) group->all_reduce(statistics.maximum, ReduceOp::max);
  kernels.row_sum_exp({.logits = logits.raw(),
                       .maximum = statistics.maximum.raw(),
                       .targets = targets.data(),
                       .sum_exp = statistics.sum_exp.raw(),
                       .target_logit = statistics.target_logit.raw(),
                       .rows = logits.size(0),
                       .columns = logits.size(1),
                       .column_begin = column_begin,
                       .dtype = logits.dtype()},
                      context.stream());
  if (group != nullptr) {
    group->all_reduce(statistics.sum_exp, ReduceOp::sum);
    group->all_reduce(statistics.target_logit, ReduceOp::sum);
  }
  return statistics;
}

template <typename T>
double weighted_loss(const RowStatistics& statistics,
                     std::span<const int32_t> targets,
                     const std::vector<double>& weights,
                     Tensor& token_loss) {
  double sum = 0;
  for (size_t row = 0; row < targets.size(); ++row) {
    T loss = 0;
    if (targets[row] >= 0) loss = std::log(statistics.sum_exp.data<T>()[row]) - statistics.target_logit.data<T>()[row];
    token_loss.data<T>()[row] = loss;
    sum += weights[row] * static_cast<double>(loss);
  }
  return sum;
}

void store_scalar(Tensor& tensor, int64_t index, double value) {
  if (tensor.dtype() == DType::f64) {
    tensor.data<double>()[index] = value;
  } else {
    tensor.data<float>()[index] = static_cast<float>(value);
  }
}

double load_scalar(const Tensor& tensor) {
  return tensor.dtype() == DType::f64 ? *tensor.data<double>() : *tensor.data<float>();
}

class CrossEntropyNode final : public Node {
 public:
  CrossEntropyNode(Tensor logits,
                   RowStatistics statistics,
                   std::span<const int32_t> targets,
                   std::vector<double> row_weights,
                   int64_t column_begin,
                   std::shared_ptr<GradSlot> output)
      : logits_(std::move(logits)),
        statistics_(std::move(statistics)),
        targets_(targets.begin(), targets.end()),
        row_weights_(std::move(row_weights)),
        column_begin_(column_begin),
        output_(std::move(output)) {}
  std::string_view name() const override { return "cross_entropy"; }

  void backward(Context& context) override {
    Tensor dloss = take_grad(output_);
    if (!dloss) return;
    Tensor row_scale = context.empty({logits_.size(0)}, logits_.dtype());
    for (size_t row = 0; row < targets_.size(); ++row) {
      store_scalar(row_scale, static_cast<int64_t>(row), load_scalar(dloss) * row_weights_[row]);
    }
    Tensor dlogits = context.empty(logits_.shape(), logits_.dtype());
    auto kernel =
        require_kernel(context.kernels().cross_entropy.backward, "cross_entropy backward", context.device.type);
    kernel({.logits = logits_.raw(),
            .maximum = statistics_.maximum.raw(),
            .sum_exp = statistics_.sum_exp.raw(),
            .targets = targets_.data(),
            .row_scale = row_scale.raw(),
            .dlogits = dlogits.raw(),
            .rows = logits_.size(0),
            .columns = logits_.size(1),
            .column_begin = column_begin_,
            .dtype = logits_.dtype()},
           context.stream());
    add_grad(context, logits_.grad_slot(), std::move(dlogits));
  }

 private:
  Tensor logits_;
  RowStatistics statistics_;
  std::vector<int32_t> targets_;
  std::vector<double> row_weights_;
  int64_t column_begin_;
  std::shared_ptr<GradSlot> output_;
};

std::vector<double> normalised_weights(std::span<const int32_t> targets, std::span<const float> weights) {
  std::vector<double> normalised(targets.size());
  double total = 0;
  for (size_t row = 0; row < targets.size(); ++row) {
    if (targets[row] >= 0) normalised[row] = weights.empty() ? 1.0 : static_cast<double>(weights[row]);
    total += normalised[row];
  }
  if (total > 0) {
    for (double& weight : normalised) weight /= total;
  }
  return normalised;
}

}  // namespace

CrossEntropy cross_entropy(Context& context,
                           const Tensor& logits,
                           std::span<const int32_t> targets,
                           std::span<const float> weights,
                           int64_t column_begin) {
  WEFT_ASSERT(logits.rank() == 2 && static_cast<int64_t>(targets.size()) == logits.size(0) &&
              (weights.empty() || weights.size() == targets.size()));
  RowStatistics statistics = reduce_rows(context, logits, targets, column_begin);
  std::vector<double> row_weights = normalised_weights(targets, weights);
  CrossEntropy result{context.empty({1}, logits.dtype()), context.empty({logits.size(0)}, logits.dtype())};
  double loss = logits.dtype() == DType::f64
                    ? weighted_loss<double>(statistics, targets, row_weights, result.token_loss)
                    : weighted_loss<float>(statistics, targets, row_weights, result.token_loss);
  store_scalar(result.loss, 0, loss);
  if (is_recording(context, {&logits})) {
    auto output = attach_slot(result.loss);
    context.tape->record(std::make_unique<CrossEntropyNode>(
        logits, std::move(statistics), targets, std::move(row_weights), column_begin, std::move(output)));
  }
  return result;
}

}  // namespace weft
