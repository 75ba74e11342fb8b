#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "ops/collective.h"
#include "ops/contrastive.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/loss_node.h"
#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

/// Places in rising order, from 0; equal values share the mean of theirs.
std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2;
    begin = end;
  }
  return ranks;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  auto count = static_cast<double>(a.size());
  double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / count;
  double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / count;
  double both = 0, of_a = 0, of_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    both += (a[i] - mean_a) * (b[i] - mean_b);
    of_a += (a[i] - mean_a) * (a[i] - mean_a);
    of_b += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return of_a > 0 && of_b > 0 ? both / std::sqrt(of_a * of_b) : 0;
}

double cosine(const double* a, const double* b, size_t width) {
  double both = 0, of_a = 0, of_b = 0;
  for (size_t i = 0; i < width; ++i) {
    both += a[i] * b[i];
    of_a += a[i] * a[i];
    of_b += b[i] * b[i];
  }
  return both / std::max(1e-12, std::sqrt(of_a * of_b));
}

class SimilarityObjective final : public Objective {
 public:
  explicit SimilarityObjective(const SimilarityOptions& options) : options_(options) {}

  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    const MicroBatch& micro_batch = input.micro_batch;
    Tensor vectors = vectors_of(context, input);
    if (!context.training) collect(to_doubles(vectors), micro_batch);
    std::vector<float> weights;
    for (int32_t label : micro_batch.labels) {
      weights.push_back(label < 0 ? 0 : micro_batch.label_weight * input.factor);
    }
    Tensor shared = share_gradient_over_tp(context, vectors);
    if (options_.learns_scores) {
      return {cosent_loss(context, shared, micro_batch.scores, weights, options_.cosent_scale, input.data_parallel)};
    }
    ObjectiveLoss result{contrastive_loss(context, shared, weights, options_.scale, input.data_parallel)};
    if (!options_.generates) return result;
    ObjectiveLoss of_tokens = language_->loss(context, input);
    return {.loss = add(context, result.loss, of_tokens.loss), .token_loss = of_tokens.token_loss};
  }

  std::vector<MetricKind> metric_kinds() const override {
    if (options_.has_scores) return {{"spearman"}, {"pearson"}};
    return {{"accuracy"}};
  }

  void begin_evaluation() override {
    scores_.clear();
    cosines_.clear();
    vectors_.clear();
    num_vectors_ = 0;
  }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    std::vector<double> scores = gather_from_ranks(context, data_parallel, scores_);
    std::vector<double> cosines = gather_from_ranks(context, data_parallel, cosines_);
    if (scores.size() > 1) {
      return {{"spearman", correlation(ranks_of(scores), ranks_of(cosines))},
              {"pearson", correlation(scores, cosines)}};
    }
    return nearest_accuracy(context, data_parallel);
  }

 private:
  Tensor vectors_of(Context& context, const ObjectiveInput& input) const {
    if (options_.first) return gather_rows(context, input.hidden, input.batch.first_tokens());
    if (!options_.mean) return input.model.sequence_vectors(context, input.hidden, input.batch);
    std::vector<RowRange> ranges;
    for (const BatchSequence& sequence : input.batch.sequences) ranges.push_back({sequence.begin, sequence.length});
    return mean_of_rows(context, input.hidden, ranges);
  }

  void collect(const std::vector<double>& vectors, const MicroBatch& micro_batch) {
    size_t count = micro_batch.labels.size();
    size_t width = vectors.size() / count;
    for (size_t s = 0; s + 1 < count; s += 2) {
      if (micro_batch.labels[s] < 0) continue;
      const double* first = vectors.data() + s * width;
      double alike = cosine(first, first + width, width);
      if (!micro_batch.scores.empty()) {
        scores_.push_back(static_cast<double>(micro_batch.scores[s / 2]));
        cosines_.push_back(alike);
      }
      keep({.labels = {}, .scores = {static_cast<float>(alike)}});
      vectors_.insert(vectors_.end(), first, first + 2 * width);
      num_vectors_ += 2;
    }
  }

  /// Of each text the nearest other is its partner.
  std::vector<Metric> nearest_accuracy(Context& context, Communicator& data_parallel) {
    std::vector<double> sums = {static_cast<double>(num_vectors_)};
    std::vector<double> all = gather_from_ranks(context, data_parallel, vectors_);
    sum_over_ranks(context, data_parallel, sums);
    auto count = static_cast<size_t>(sums[0]);
    if (count == 0) return {};
    size_t width = all.size() / count;
    double right = 0;
    for (size_t i = 0; i < count; ++i) {
      size_t nearest = i;
      double largest = -2;
      for (size_t other = 0; other < count; ++other) {
        if (other == i) continue;
        double value = cosine(all.data() + i * width, all.data() + other * width, width);
        if (value > largest) largest = value, nearest = other;
      }
      right += nearest == (i ^ 1) ? 1 : 0;
    }
    return {{"accuracy", right / sums[0]}};
  }

  SimilarityOptions options_;
  std::unique_ptr<Objective> language_ = make_language_objective();
  std::vector<double> scores_, cosines_, vectors_;
  size_t num_vectors_ = 0;
};

}  // namespace

std::unique_ptr<Objective> make_similarity_objective(const SimilarityOptions& options) {
  return std::make_unique<SimilarityObjective>(options);
}

}  // namespace weft
