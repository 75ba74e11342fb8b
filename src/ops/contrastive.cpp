#include "ops/contrastive.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/loss_node.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

/// Rows of all ranks: values of length 1, in the order of the ranks.
struct AllRows {
  std::vector<double> values;
  std::vector<double> weights;
  size_t own_begin = 0;  // first row of this rank
};

AllRows gather(Context& context, const std::vector<double>& rows, std::span<const float> weights, Communicator& ranks) {
  size_t width = weights.empty() ? 0 : rows.size() / weights.size();
  Tensor most = context.host_empty({2}, DType::f64, MemoryTag::comm);
  most.data<double>()[0] = static_cast<double>(weights.size());
  most.data<double>()[1] = static_cast<double>(width);
  ranks.all_reduce(most, ReduceOp::max);
  auto most_rows = static_cast<size_t>(most.data<double>()[0]);
  width = static_cast<size_t>(most.data<double>()[1]);
  size_t stride = width + 1;  // a row's weight stands before it
  Tensor mine = context.host_zeros({static_cast<int64_t>(most_rows * stride)}, DType::f64, MemoryTag::comm);
  for (size_t r = 0; r < weights.size(); ++r) {
    mine.data<double>()[r * stride] = static_cast<double>(weights[r]);
    std::copy_n(rows.data() + r * width, width, mine.data<double>() + r * stride + 1);
  }
  auto size = static_cast<size_t>(ranks.size());
  Tensor all = context.host_empty({static_cast<int64_t>(size * most_rows * stride)}, DType::f64, MemoryTag::comm);
  ranks.all_gather(mine, all);
  AllRows result{.values = {}, .weights = {}, .own_begin = static_cast<size_t>(ranks.rank()) * most_rows};
  for (size_t r = 0; r < size * most_rows; ++r) {
    const double* row = all.data<double>() + r * stride;
    result.weights.push_back(row[0]);
    result.values.insert(result.values.end(), row + 1, row + stride);
  }
  return result;
}

double dot(const double* a, const double* b, size_t width) {
  double sum = 0;
  for (size_t i = 0; i < width; ++i) sum += a[i] * b[i];
  return sum;
}

/// Rows divided by their lengths.
class UnitRows {
 public:
  UnitRows(std::vector<double> rows, size_t width) : values_(std::move(rows)), width_(width) {
    for (size_t begin = 0; begin < values_.size(); begin += width) {
      double* row = values_.data() + begin;
      lengths_.push_back(std::max(1e-12, std::sqrt(dot(row, row, width))));
      for (size_t i = 0; i < width; ++i) row[i] /= lengths_.back();
    }
  }
  const std::vector<double>& values() const { return values_; }
  const double* row(size_t index) const { return values_.data() + index * width_; }

  /// A gradient of the divided rows to that of the rows: only what is orthogonal to the vector stays.
  void through_lengths(std::vector<double>& gradient) const {
    for (size_t r = 0; r < lengths_.size(); ++r) {
      double* into = gradient.data() + r * width_;
      double along = dot(into, row(r), width_);
      for (size_t i = 0; i < width_; ++i) into[i] = (into[i] - along * row(r)[i]) / lengths_[r];
    }
  }

 private:
  std::vector<double> values_;
  size_t width_;
  std::vector<double> lengths_;
};

/// CoSENT of all pairs, rows of cosine and score, and its gradient by the cosines.
struct PairOrder {
  double loss = 0, total_weight = 0;
  std::vector<double> of_cosines;

  PairOrder(const AllRows& all, double scale) : of_cosines(all.weights.size()) {
    auto cosine = [&](size_t pair) { return all.values[2 * pair]; };
    auto score = [&](size_t pair) { return all.values[2 * pair + 1]; };
    double largest = 0, sum = 0;
    auto for_each_order = [&](const auto& body) {
      for (size_t i = 0; i < all.weights.size(); ++i) {
        for (size_t j = 0; j < all.weights.size() && all.weights[i] != 0; ++j) {
          if (all.weights[j] != 0 && score(i) > score(j)) body(i, j, scale * (cosine(j) - cosine(i)));
        }
      }
    };
    for_each_order([&](size_t, size_t, double difference) { largest = std::max(largest, difference); });
    for_each_order([&](size_t, size_t, double difference) { sum += std::exp(difference - largest); });
    sum += std::exp(-largest);
    for_each_order([&](size_t i, size_t j, double difference) {
      double part = scale * std::exp(difference - largest) / sum;
      of_cosines[j] += part;
      of_cosines[i] -= part;
    });
    for (double weight : all.weights) total_weight += weight;
    loss = largest + std::log(sum);
  }
};

class MeanNode final : public Node {
 public:
  MeanNode(const Tensor& x, std::vector<RowRange> ranges, std::shared_ptr<GradSlot> output)
      : ranges_(std::move(ranges)),
        shape_(x.shape()),
        dtype_(x.dtype()),
        x_(x.grad_slot()),
        output_(std::move(output)) {}
  std::string_view name() const override { return "mean_of_rows"; }

  void backward(Context& context) override {
    Tensor gradient = take_grad(output_);
    if (!gradient) return;
    std::vector<double> of_means = to_doubles(gradient);
    auto width = static_cast<size_t>(shape_[1]);
    std::vector<double> of_x(static_cast<size_t>(shape_.num_elements()));
    for (size_t s = 0; s < ranges_.size(); ++s) {
      for (int64_t r = 0; r < ranges_[s].length; ++r) {
        double* row = of_x.data() + static_cast<size_t>(ranges_[s].begin + r) * width;
        for (size_t i = 0; i < width; ++i) {
          row[i] += of_means[s * width + i] / static_cast<double>(ranges_[s].length);
        }
      }
    }
    Tensor result = context.empty(shape_, dtype_);
    result.set_values(of_x.data(), DType::f64);
    add_grad(context, x_, std::move(result));
  }

 private:
  std::vector<RowRange> ranges_;
  Shape shape_;
  DType dtype_;
  std::shared_ptr<GradSlot> x_, output_;
};

}  // namespace

Tensor cosent_loss(Context& context,
                   const Tensor& vectors,
                   std::span<const float> scores,
                   std::span<const float> weights,
                   double scale,
                   Communicator& ranks) {
  size_t pairs = scores.size();
  WEFT_ASSERT(weights.size() == 2 * pairs && vectors.size(0) == static_cast<int64_t>(weights.size()));
  auto width = static_cast<size_t>(vectors.size(1));
  UnitRows own(to_doubles(vectors), width);
  // What the others need of a pair: its cosine and its score.
  std::vector<double> mine;
  std::vector<float> pair_weights;
  for (size_t p = 0; p < pairs; ++p) {
    mine.push_back(dot(own.row(2 * p), own.row(2 * p + 1), width));
    mine.push_back(static_cast<double>(scores[p]));
    pair_weights.push_back(weights[2 * p] + weights[2 * p + 1]);
  }
  AllRows all = gather(context, mine, pair_weights, ranks);
  PairOrder order(all, scale);
  std::vector<double> gradient(weights.size() * width);
  double own_weight = 0;
  for (size_t p = 0; p < pairs; ++p) {
    own_weight += static_cast<double>(pair_weights[p]);
    double factor = order.total_weight * order.of_cosines[all.own_begin + p];
    for (size_t r : {2 * p, 2 * p + 1}) {
      for (size_t i = 0; i < width; ++i) gradient[r * width + i] = factor * own.row(r ^ 1)[i];
    }
  }
  own.through_lengths(gradient);
  return make_loss(context, own_weight * order.loss, {{&vectors, std::move(gradient)}});
}

Tensor contrastive_loss(
    Context& context, const Tensor& vectors, std::span<const float> weights, double scale, Communicator& ranks) {
  WEFT_ASSERT(vectors.size(0) == static_cast<int64_t>(weights.size()) && weights.size() % 2 == 0);
  auto width = static_cast<size_t>(vectors.size(1));
  UnitRows own(to_doubles(vectors), width);
  AllRows all = gather(context, own.values(), weights, ranks);
  size_t rows = all.weights.size();
  std::vector<double> gradient(own.values().size());
  std::vector<double> probabilities(rows);
  double loss = 0;
  for (size_t r = 0; r < rows; ++r) {
    if (all.weights[r] == 0) continue;
    const double* row = all.values.data() + r * width;
    double largest = -scale;
    for (size_t other = 0; other < rows; ++other) {
      bool counts = other != r && all.weights[other] != 0;
      probabilities[other] = counts ? scale * dot(row, all.values.data() + other * width, width) : -INFINITY;
      largest = std::max(largest, probabilities[other]);
    }
    size_t partner = r ^ 1;
    double logit = probabilities[partner], sum = 0;
    for (double& value : probabilities) sum += value = std::exp(value - largest);
    bool is_own = r >= all.own_begin && r < all.own_begin + weights.size();
    if (is_own) loss += all.weights[r] * (largest + std::log(sum) - logit);
    for (size_t other = 0; other < rows; ++other) {
      double factor = all.weights[r] * scale * (probabilities[other] / sum - (other == partner ? 1 : 0));
      if (factor == 0) continue;
      // The cosine of r and other moves with each of them that is this rank's.
      for (auto [mine, theirs] : {std::pair{r, other}, std::pair{other, r}}) {
        if (mine < all.own_begin || mine >= all.own_begin + weights.size()) continue;
        double* into = gradient.data() + (mine - all.own_begin) * width;
        const double* from = all.values.data() + theirs * width;
        for (size_t i = 0; i < width; ++i) into[i] += factor * from[i];
      }
    }
  }
  own.through_lengths(gradient);
  return make_loss(context, loss, {{&vectors, std::move(gradient)}});
}

Tensor mean_of_rows(Context& context, const Tensor& x, std::span<const RowRange> ranges) {
  auto width = static_cast<size_t>(x.size(1));
  std::vector<double> values = to_doubles(x);
  std::vector<double> means(ranges.size() * width);
  for (size_t s = 0; s < ranges.size(); ++s) {
    double* mean = means.data() + s * width;
    for (int64_t r = 0; r < ranges[s].length; ++r) {
      const double* row = values.data() + static_cast<size_t>(ranges[s].begin + r) * width;
      for (size_t i = 0; i < width; ++i) mean[i] += row[i];
    }
    for (size_t i = 0; i < width; ++i) mean[i] /= static_cast<double>(std::max<int64_t>(1, ranges[s].length));
  }
  Tensor result = context.empty({static_cast<int64_t>(ranges.size()), x.size(1)}, x.dtype());
  result.set_values(means.data(), DType::f64);
  if (is_recording(context, {&x})) {
    auto output = attach_slot(result);
    context.tape->record(
        std::make_unique<MeanNode>(x, std::vector<RowRange>(ranges.begin(), ranges.end()), std::move(output)));
  }
  return result;
}

}  // namespace weft
