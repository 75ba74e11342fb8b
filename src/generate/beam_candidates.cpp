#include "generate/beam_candidates.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/logit_loops.h"

namespace weft {

namespace {

bool is_better(const BeamCandidate& a, const BeamCandidate& b) {
  if (a.score != b.score) return a.score > b.score;
  return a.beam != b.beam ? a.beam < b.beam : a.id < b.id;
}

/// The sum follows the greatest value so far and is brought up to each greater one, so that the row is read once. False
/// when no logit is finite.
bool replace_by_log_softmax(std::span<float> logits, double temperature) {
  auto scale = static_cast<float>(1.0 / temperature);
  float best = -kInfinity;
  double sum = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kLogitBlock) {
    size_t count = std::min(kLogitBlock, logits.size() - begin);
    const float* values = logits.data() + begin;
    float block_best = block_max(values, count);
    if (block_best > best) {
      sum *= exp_negative((best - block_best) * scale);
      best = block_best;
    }
    if (best == -kInfinity) continue;
    double block_total = 0;
#pragma omp simd reduction(+ : block_total)
    for (size_t i = 0; i < count; ++i) block_total += exp_negative((values[i] - best) * scale);
    sum += block_total;
  }
  if (!std::isfinite(best)) return false;
  auto log_sum = static_cast<float>(std::log(sum));
#pragma omp simd
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = (logits[i] - best) * scale - log_sum;
  return true;
}

}  // namespace

void log_softmax(std::span<float> logits, double temperature) {
  log_softmax_rows(logits, {&temperature, 1}, 1);
}

void log_softmax_rows(std::span<float> logits, std::span<const double> temperatures, int num_threads) {
  size_t width = logits.size() / temperatures.size();
  std::atomic<bool> is_finite = true;
  parallel_for(num_threads, static_cast<int64_t>(temperatures.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto row = static_cast<size_t>(begin); row < static_cast<size_t>(end); ++row) {
      if (!replace_by_log_softmax(logits.subspan(row * width, width), temperatures[row])) is_finite = false;
    }
  });
  if (!is_finite) fail_input("the model's logits hold no finite number; broken weights?");
}

void BeamCandidates::reset(size_t capacity, BeamScore score) {
  capacity_ = capacity;
  score_ = score;
  heap_.clear();
}

double BeamCandidates::total(double score, float log_prob) const {
  if (!(log_prob > -kInfinity)) return -std::numeric_limits<double>::infinity();
  if (score_ == BeamScore::rounded) return double{static_cast<float>(score) + log_prob};
  return score + double{std::log(exp_negative(log_prob) + 1e-12f)};
}

/// Equals lose, as they come after.
bool BeamCandidates::is_welcome(double score) const {
  return heap_.size() < capacity_ ? score > -std::numeric_limits<double>::infinity() : score > heap_.front().score;
}

/// Most stretches of the vocabulary hold nothing better than the worst candidate kept: their maximum tells.
void BeamCandidates::add(int32_t beam, double score, std::span<const float> log_probs) {
  constexpr size_t kStride = 64;
  for (size_t begin = 0; begin < log_probs.size(); begin += kStride) {
    size_t end = std::min(begin + kStride, log_probs.size());
    if (!is_welcome(total(score, block_max(log_probs.data() + begin, end - begin)))) continue;
    for (size_t id = begin; id < end; ++id) {
      BeamCandidate candidate{total(score, log_probs[id]), beam, static_cast<int32_t>(id)};
      if (!is_welcome(candidate.score)) continue;
      if (heap_.size() == capacity_) {
        std::pop_heap(heap_.begin(), heap_.end(), is_better);
        heap_.pop_back();
      }
      heap_.push_back(candidate);
      std::push_heap(heap_.begin(), heap_.end(), is_better);
    }
  }
}

std::span<const BeamCandidate> BeamCandidates::sort() {
  std::sort_heap(heap_.begin(), heap_.end(), is_better);
  return heap_;
}

}  // namespace weft
