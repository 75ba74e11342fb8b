#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "generate/logit_loops.h"

namespace weft {

namespace {

/// The ids that the penalty counts, and how many unwritten zeros beside them (bert4keras3 only).
struct PenalisedPast {
  std::span<const int32_t> ids;
  int64_t num_zeros = 0;
};

PenalisedPast penalised_past(std::span<const int32_t> past, const SamplerOptions& options) {
  auto length = static_cast<int64_t>(past.size());
  int64_t window = options.penalty_window;
  bool is_padded = options.padded_length > length;
  if (window == 0) return {past, is_padded ? options.padded_length - length : 0};
  if (options.window_mode == PenaltyWindow::sliding) {
    return {past.last(static_cast<size_t>(std::min(window, length))), 0};
  }
  int64_t block = length / window;
  int64_t begin = std::max<int64_t>(0, (block - 1) * window);
  int64_t unwritten = (block + 1) * window - length + (block == 0 ? window : 0);
  return {past.subspan(static_cast<size_t>(begin)), is_padded ? unwritten : 0};
}

float penalised(float logit, int64_t count, const SamplerOptions& options) {
  int64_t exponent = 1;
  if (options.penalty_range) {
    auto [least, most] = *options.penalty_range;
    exponent = count < least ? 0 : std::min(count, most);
  }
  auto factor = static_cast<float>(std::pow(options.penalty, static_cast<double>(exponent)));
  return logit > 0 ? logit / factor : logit * factor;
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

void check_sampler_options(const SamplerOptions& options, int64_t vocab_size) {
  auto require = [](bool condition, std::string_view what) {
    if (!condition) fail(ExitCode::usage, "sampling: {}", what);
  };
  require(options.temperature >= 0 && std::isfinite(options.temperature), "temperature must be at least 0");
  require(options.top_k >= 0, "top-k must be at least 0 (0 keeps all)");
  require(options.top_p > 0 && options.top_p <= 1, "top-p must lie above 0 and up to 1");
  require(options.min_p >= 0 && options.min_p <= 1, "min-p must lie between 0 and 1");
  require(options.penalty > 0 && std::isfinite(options.penalty), "penalty must be greater than 0");
  require(options.penalty_window >= 0, "penalty-window must be at least 0 (0 covers all past tokens)");
  if (options.penalty_range) {
    auto [least, most] = *options.penalty_range;
    require(least >= 0 && least < most,
            "max-penalty-range needs two counts, the first at least 0 and below the second");
  }
  if (options.window_mode == PenaltyWindow::block && options.penalty_window > 0) {
    require(options.padded_length % options.penalty_window == 0,
            "the padded length must be a multiple of penalty-window");
  }
  for (int32_t id : options.forbidden_ids) {
    if (id < 0 || id >= vocab_size) {
      fail(ExitCode::usage,
           "sampling: forbidden id {} does not exist; the vocabulary has ids 0 to {}",
           id,
           vocab_size - 1);
    }
  }
}

int32_t Sampler::sample(std::span<float> logits,
                        std::span<const int32_t> past,
                        const SamplerOptions& options,
                        uint64_t sequence,
                        uint64_t step) {
  WEFT_ASSERT(static_cast<int64_t>(logits.size()) == vocab_size_, "{} logits", logits.size());
  adjust(logits, past, options);
  if (options.greedy || options.temperature == 0) {
    int64_t best = argmax(logits);
    if (!std::isfinite(logits[static_cast<size_t>(best)])) {
      fail_input("the model's logits hold no finite number; broken weights, or every token is forbidden");
    }
    return static_cast<int32_t>(best);
  }
  double total = weigh(logits, options);
  Candidate cut = find_cut(total, options);
  RandomKey key{options.seed, static_cast<uint32_t>(step), static_cast<uint32_t>(sequence)};
  uint64_t bits = (uint64_t{key.bits(0)} << 32 | key.bits(1)) >> 11;
  return draw(cut, static_cast<double>(bits) * 0x1p-53);
}

void Sampler::adjust(std::span<float> logits, std::span<const int32_t> past, const SamplerOptions& options) {
  if (options.penalty != 1.0) apply_penalty(logits, past, options);
  forbidden_logits_.clear();
  for (int32_t id : options.forbidden_ids) {
    float& logit = logits[static_cast<size_t>(id)];
    if (logit == -kInfinity) continue;
    forbidden_logits_.push_back(logit);
    logit = -kInfinity;
  }
}

void Sampler::apply_penalty(std::span<float> logits, std::span<const int32_t> past, const SamplerOptions& options) {
  counts_.resize(static_cast<size_t>(vocab_size_));
  PenalisedPast window = penalised_past(past, options);
  for (int32_t id : window.ids) ++counts_[static_cast<size_t>(id)];
  counts_[0] += static_cast<int32_t>(window.num_zeros);
  auto settle = [&](int32_t id) {
    int32_t& count = counts_[static_cast<size_t>(id)];
    if (count == 0) return;
    float& logit = logits[static_cast<size_t>(id)];
    logit = penalised(logit, count, options);
    count = 0;
  };
  for (int32_t id : window.ids) settle(id);
  settle(0);
}

/// Fills weights_ and returns their sum with the forbidden ids' share, which thereby lowers all probabilities as a
/// softmax before the cut does.
double Sampler::weigh(std::span<float> logits, const SamplerOptions& options) {
  float best = -kInfinity;
  for (size_t begin = 0; begin < logits.size(); begin += kLogitBlock) {
    best = std::max(best, block_max(logits.data() + begin, std::min(kLogitBlock, logits.size() - begin)));
  }
  if (!std::isfinite(best)) {
    fail_input("the model's logits hold no finite number; broken weights, or every token is forbidden");
  }
  weights_.resize(logits.size());
  auto scale = static_cast<float>(1.0 / options.temperature);
  double total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kLogitBlock) {
    size_t count = std::min(kLogitBlock, logits.size() - begin);
    const float* from = logits.data() + begin;
    float* to = weights_.data() + begin;
#pragma omp simd
    for (size_t i = 0; i < count; ++i) to[i] = exp_negative((from[i] - best) * scale);
    total += block_sum(to, count, 0);
  }
  for (float logit : forbidden_logits_) total += std::exp(std::min(700.0, double{logit - best} * scale));
  return total;
}

/// Every cut keeps a beginning of the tokens sorted by probability, without renormalising; so the worst token kept says
/// it all, and the order in which the cuts are made does not matter.
Sampler::Candidate Sampler::find_cut(double total, const SamplerOptions& options) {
  Candidate cut{0.0f, std::numeric_limits<int32_t>::max()};
  auto tighten = [&](const Candidate& other) {
    if (is_better(other, cut)) cut = other;
  };
  if (options.min_p > 0) tighten({static_cast<float>(options.min_p), std::numeric_limits<int32_t>::max()});
  if (options.top_k > 0 && options.top_k < vocab_size_) tighten(top_k_cut(options.top_k));
  if (options.top_p < 1) tighten(top_p_cut(options.top_p * total, total, cut));
  return cut;
}

/// The k-th best token.
Sampler::Candidate Sampler::top_k_cut(int64_t k) {
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
Sampler::Candidate Sampler::top_p_cut(double mass, double total, const Candidate& cut) {
  candidates_.clear();
  auto least = static_cast<float>((total - mass) / static_cast<double>(vocab_size_) * (1 - 1e-6));
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

int32_t Sampler::draw(const Candidate& cut, double uniform) {
  if (cut.id < vocab_size_) {
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

}  // namespace weft
