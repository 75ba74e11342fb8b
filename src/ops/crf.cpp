#include "ops/crf.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ops/loss_node.h"

namespace weft {
namespace {

double log_sum_exp(std::span<const double> values) {
  double largest = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (double value : values) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

/// One sequence, by the forward-backward algorithm in logarithms.
class Chain {
 public:
  Chain(const std::vector<double>& emissions,
        const std::vector<double>& transitions,
        size_t labels,
        const CrfSequence& of)
      : emissions_(emissions), transitions_(transitions), labels_(labels), of_(of), steps_(of.rows.size()) {}

  /// log Z − the score of the labels.
  double loss() {
    forward_.assign(steps_ * labels_, 0);
    std::vector<double> terms(labels_);
    double score = 0;
    for (size_t t = 0; t < steps_; ++t) {
      for (size_t to = 0; to < labels_; ++to) {
        double before = 0;
        if (t > 0) {
          for (size_t from = 0; from < labels_; ++from) {
            terms[from] = forward_[(t - 1) * labels_ + from] + transitions_[from * labels_ + to];
          }
          before = log_sum_exp(terms);
        }
        forward_[t * labels_ + to] = before + emission(t, to);
      }
      score += emission(t, label(t));
      if (t > 0) score += transitions_[label(t - 1) * labels_ + label(t)];
    }
    log_partition_ = log_sum_exp({forward_.data() + (steps_ - 1) * labels_, labels_});
    return log_partition_ - score;
  }

  /// Adds weight · (probability − what the labels have) of each label and each pair.
  void add_gradient(double weight, std::vector<double>& emission_gradient, std::vector<double>& transition_gradient) {
    std::vector<double> backward(labels_, 0), next(labels_), terms(labels_);
    for (size_t t = steps_; t-- > 0;) {
      double* row = emission_gradient.data() + static_cast<size_t>(of_.rows[t]) * labels_;
      for (size_t k = 0; k < labels_; ++k) {
        row[k] += weight * std::exp(forward_[t * labels_ + k] + backward[k] - log_partition_);
      }
      row[label(t)] -= weight;
      if (t == 0) break;
      transition_gradient[label(t - 1) * labels_ + label(t)] -= weight;
      for (size_t from = 0; from < labels_; ++from) {
        for (size_t to = 0; to < labels_; ++to) {
          terms[to] = transitions_[from * labels_ + to] + emission(t, to) + backward[to];
          double pair = forward_[(t - 1) * labels_ + from] + terms[to] - log_partition_;
          transition_gradient[from * labels_ + to] += weight * std::exp(pair);
        }
        next[from] = log_sum_exp(terms);
      }
      backward.swap(next);
    }
  }

 private:
  double emission(size_t step, size_t label) const {
    return emissions_[static_cast<size_t>(of_.rows[step]) * labels_ + label];
  }
  size_t label(size_t step) const { return static_cast<size_t>(of_.labels[step]); }

  const std::vector<double>& emissions_;
  const std::vector<double>& transitions_;
  size_t labels_;
  const CrfSequence& of_;
  size_t steps_;
  std::vector<double> forward_;
  double log_partition_ = 0;
};

}  // namespace

Tensor crf_loss(Context& context,
                const Tensor& emissions,
                const Tensor& transitions,
                double scale,
                std::span<const CrfSequence> sequences) {
  auto labels = static_cast<size_t>(emissions.size(1));
  WEFT_ASSERT(transitions.size(0) == emissions.size(1) && transitions.size(1) == emissions.size(1));
  std::vector<double> scores = to_doubles(emissions);
  std::vector<double> scaled = to_doubles(transitions);
  for (double& value : scaled) value *= scale;
  std::vector<double> emission_gradient(scores.size()), transition_gradient(scaled.size());
  double loss = 0;
  for (const CrfSequence& sequence : sequences) {
    WEFT_ASSERT(sequence.labels.size() == sequence.rows.size());
    if (sequence.rows.empty() || sequence.weight == 0) continue;
    Chain chain(scores, scaled, labels, sequence);
    double weight = static_cast<double>(sequence.weight);
    loss += weight * chain.loss();
    chain.add_gradient(weight, emission_gradient, transition_gradient);
  }
  for (double& value : transition_gradient) value *= scale;
  return make_loss(
      context, loss, {{&emissions, std::move(emission_gradient)}, {&transitions, std::move(transition_gradient)}});
}

std::vector<int32_t> viterbi(std::span<const double> emissions,
                             std::span<const double> transitions,
                             size_t num_labels) {
  size_t steps = emissions.size() / num_labels;
  std::vector<int32_t> path(steps);
  if (steps == 0) return path;
  std::vector<double> best(emissions.begin(), emissions.begin() + static_cast<std::ptrdiff_t>(num_labels));
  std::vector<double> next(num_labels);
  std::vector<int32_t> came_from(steps * num_labels);
  for (size_t t = 1; t < steps; ++t) {
    for (size_t to = 0; to < num_labels; ++to) {
      size_t chosen = 0;
      for (size_t from = 1; from < num_labels; ++from) {
        if (best[from] + transitions[from * num_labels + to] > best[chosen] + transitions[chosen * num_labels + to]) {
          chosen = from;
        }
      }
      next[to] = best[chosen] + transitions[chosen * num_labels + to] + emissions[t * num_labels + to];
      came_from[t * num_labels + to] = static_cast<int32_t>(chosen);
    }
    best.swap(next);
  }
  path[steps - 1] = static_cast<int32_t>(std::max_element(best.begin(), best.end()) - best.begin());
  for (size_t t = steps - 1; t > 0; --t) path[t - 1] = came_from[t * num_labels + static_cast<size_t>(path[t])];
  return path;
}

}  // namespace weft
