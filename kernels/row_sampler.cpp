#include "kernels/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/logit_loops.h"

namespace weft {
namespace {

float penalised(float logit, float factor) {
  return logit > 0 ? logit / factor : logit * factor;
}

float largest_of(std::span<const float> values) {
  float best = -kInfinity;
  for (size_t begin = 0; begin < values.size(); begin += kLogitBlock) {
    best = std::max(best, block_max(values.data() + begin, std::min(kLogitBlock, values.size() - begin)));
  }
  return best;
}

}  // namespace

int64_t argmax(std::span<const float> values) {
  float best = -kInfinity;
  size_t best_block = 0;
  for (size_t begin = 0; begin < values.size(); begin += kLogitBlock) {
    float value = block_max(values.data() + begin, std::min(kLogitBlock, values.size() - begin));
    if (value > best) {
      best = value;
      best_block = begin;
    }
  }
  auto first = std::find(values.begin() + static_cast<std::ptrdiff_t>(best_block), values.end(), best);
  return first == values.end() ? 0 : first - values.begin();
}

void RowSampler::change(std::span<float> logits,
                        const SampleChoice& choice,
                        std::span<const LogitChange> changes,
                        int32_t late_id) {
  banned_logits_.clear();
  bool has_late_id = false;
  for (const LogitChange& change : changes) {
    bool is_late = change.id == late_id;
    has_late_id |= is_late;
    float& logit = logits[static_cast<size_t>(change.id)];
    logit = penalised(logit, is_late ? change.late_factor : change.factor);
    if (change.ban == LogitBan::none) continue;
    if (change.ban == LogitBan::with_share && logit > -kInfinity) banned_logits_.push_back(logit);
    logit = -kInfinity;
  }
  if (late_id < 0 || has_late_id) return;
  float& logit = logits[static_cast<size_t>(late_id)];
  logit = penalised(logit, choice.late_factor);
}

int32_t RowSampler::sample(std::span<float> logits,
                           const SampleChoice& choice,
                           std::span<const LogitChange> changes,
                           int32_t late_id) {
  change(logits, choice, changes, late_id);
  if (choice.is_greedy != 0) {
    int64_t best = argmax(logits);
    return std::isfinite(logits[static_cast<size_t>(best)]) ? static_cast<int32_t>(best) : -1;
  }
  float best = largest_of(logits);
  if (!std::isfinite(best)) return -1;
  double total = weigh(logits, best, choice.scale);
  return draw(find_cut(total, choice), sample_uniform(choice));
}

/// Fills weights_ and returns their sum with the banned ids' share, which thereby lowers all probabilities as a softmax
/// before the cut does.
double RowSampler::weigh(std::span<const float> logits, float best, float scale) {
  weights_.resize(logits.size());
  double total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kLogitBlock) {
    size_t count = std::min(kLogitBlock, logits.size() - begin);
    const float* from = logits.data() + begin;
    float* to = weights_.data() + begin;
#pragma omp simd
    for (size_t i = 0; i < count; ++i) to[i] = exp_negative((from[i] - best) * scale);
    total += block_sum(to, count, 0);
  }
  for (float logit : banned_logits_) total += std::exp(std::min(700.0, double{logit - best} * scale));
  return total;
}

/// Every cut keeps a beginning of the tokens sorted by probability, without renormalising; so the worst token kept says
/// it all, and the order in which the cuts are made does not matter.
RowSampler::Candidate RowSampler::find_cut(double total, const SampleChoice& choice) {
  Candidate cut{0.0f, std::numeric_limits<int32_t>::max()};
  auto tighten = [&](const Candidate& other) {
    if (is_better(other, cut)) cut = other;
  };
  if (choice.min_p > 0) tighten({choice.min_p, std::numeric_limits<int32_t>::max()});
  if (choice.top_k > 0 && static_cast<size_t>(choice.top_k) < weights_.size()) tighten(top_k_cut(choice.top_k));
  if (choice.top_p < 1) tighten(top_p_cut(choice.top_p * total, total, cut));
  return cut;
}

/// The k-th best token.
RowSampler::Candidate RowSampler::top_k_cut(int64_t k) {
  candidates_.clear();
  constexpr int64_t kHeapLimit = 1024;  // beyond it, selecting among all is faster than keeping a heap
  if (k > kHeapLimit) {
    for (size_t id = 0; id < weights_.size(); ++id) candidates_.push_back({weights_[id], static_cast<int32_t>(id)});
    auto kth = candidates_.begin() + (k - 1);
    std::nth_element(candidates_.begin(), kth, candidates_.end(), is_better);
    return *kth;
  }
  auto capacity = static_cast<size_t>(k);
  constexpr size_t kStride = 64;
  for (size_t begin = 0; begin < weights_.size(); begin += kStride) {
    size_t end = std::min(begin + kStride, weights_.size());
    bool is_full = candidates_.size() == capacity;
    if (is_full && !(block_max(weights_.data() + begin, end - begin) > candidates_.front().weight)) continue;
    for (size_t id = begin; id < end; ++id) {
      Candidate candidate{weights_[id], static_cast<int32_t>(id)};
      if (candidates_.size() == capacity) {
        if (!is_better(candidate, candidates_.front())) continue;
        std::pop_heap(candidates_.begin(), candidates_.end(), is_better);
        candidates_.pop_back();
      }
      candidates_.push_back(candidate);
      std::push_heap(candidates_.begin(), candidates_.end(), is_better);
    }
  }
  return candidates_.front();
}

/// The token whose weight lifts the sum over all better ones above `mass`. In linear time: tokens rarer than (1 − p) /
/// V together weigh less than 1 − p, so that the sum passes p without them; among the others halves are selected by
/// rank, not sorted.
RowSampler::Candidate RowSampler::top_p_cut(double mass, double total, const Candidate& cut) {
  candidates_.clear();
  auto least = static_cast<float>((total - mass) / static_cast<double>(weights_.size()) * (1 - 1e-6));
  for (size_t id = 0; id < weights_.size(); ++id) {
    Candidate candidate{weights_[id], static_cast<int32_t>(id)};
    if (weights_[id] >= least && !is_better(cut, candidate)) candidates_.push_back(candidate);
  }
  auto weight_of = [](auto begin, auto end) {
    double sum = 0;
    for (auto i = begin; i != end; ++i) sum += i->weight;
    return sum;
  };
  auto begin = candidates_.begin();
  auto end = candidates_.end();
  double above = 0;
  while (end - begin > 32) {
    auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, is_better);
    double half = weight_of(begin, middle);
    if (above + half > mass) {
      end = middle;
    } else {
      above += half;
      begin = middle;
    }
  }
  std::sort(begin, end, is_better);
  for (auto i = begin; i != end; ++i) {
    above += i->weight;
    if (above > mass) return *i;
  }
  // The forbidden ids' share keeps the sum below p; or rounding did, after the halves had already crossed it.
  return end == candidates_.end() ? cut : *(end - 1);
}

int32_t RowSampler::draw(const Candidate& cut, double uniform) {
  if (static_cast<size_t>(cut.id) < weights_.size()) {
    // Drops what is as likely as the cut but comes after it; from here on a weight tells alone.
    for (size_t id = static_cast<size_t>(cut.id) + 1; id < weights_.size(); ++id) {
      weights_[id] = weights_[id] == cut.weight ? 0.0f : weights_[id];
    }
  }
  block_sums_.clear();
  double total = 0;
  for (size_t begin = 0; begin < weights_.size(); begin += kLogitBlock) {
    block_sums_.push_back(
        block_sum(weights_.data() + begin, std::min(kLogitBlock, weights_.size() - begin), cut.weight));
    total += block_sums_.back();
  }
  double target = uniform * total;
  size_t block = 0;
  while (block + 1 < block_sums_.size() && target >= block_sums_[block]) target -= block_sums_[block++];
  int32_t last = -1;
  for (size_t id = block * kLogitBlock; id < std::min((block + 1) * kLogitBlock, weights_.size()); ++id) {
    float weight = weights_[id];
    if (weight == 0 || weight < cut.weight) continue;
    last = static_cast<int32_t>(id);
    if (target < weight) return last;
    target -= weight;
  }
  // Rounding may leave a little at the very end.
  if (last >= 0) return last;
  return static_cast<int32_t>(argmax(weights_));
}

void sample_on_host(const SampleArgs& args) {
  RowSampler sampler;
  for (int64_t row = 0; row < args.rows; ++row) {
    const SampleChoice& choice = args.choices[row];
    std::span logits(args.logits + row * args.width, static_cast<size_t>(args.width));
    std::span changes(args.changes + choice.first_change, static_cast<size_t>(choice.num_changes));
    args.ids[row] = sampler.sample(logits, choice, changes, args.late_ids == nullptr ? -1 : args.late_ids[row]);
  }
}

}  // namespace weft
