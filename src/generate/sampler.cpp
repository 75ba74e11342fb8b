#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"

namespace weft {

namespace {

/// The ids that the penalty counts, and how many unwritten zeros beside them (bert4keras3 only).
struct PenalisedPast {
  std::span<const int32_t> ids;
  int64_t num_zeros = 0;
};

/// `has_late` is whether one more id follows, which stands within every window.
PenalisedPast penalised_past(std::span<const int32_t> past, bool has_late, const SamplerOptions& options) {
  auto length = static_cast<int64_t>(past.size()) + (has_late ? 1 : 0);
  int64_t window = options.penalty_window;
  bool is_padded = options.padded_length > length;
  if (window == 0) return {past, is_padded ? options.padded_length - length : 0};
  if (options.window_mode == PenaltyWindow::sliding) {
    return {past.subspan(static_cast<size_t>(length - std::min(window, length))), 0};
  }
  int64_t block = length / window;
  int64_t begin = std::max<int64_t>(0, (block - 1) * window);
  int64_t unwritten = (block + 1) * window - length + (block == 0 ? window : 0);
  return {past.subspan(static_cast<size_t>(begin)), is_padded ? unwritten : 0};
}

float penalty_factor(int64_t count, const SamplerOptions& options) {
  if (count == 0) return 1;
  int64_t exponent = 1;
  if (options.penalty_range) {
    auto [least, most] = *options.penalty_range;
    exponent = count < least ? 0 : std::min(count, most);
  }
  return static_cast<float>(std::pow(options.penalty, static_cast<double>(exponent)));
}

}  // namespace

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
  require(std::isfinite(options.presence_penalty) && std::isfinite(options.frequency_penalty),
          "presence-penalty and frequency-penalty must be finite");
  auto check_id = [&](int32_t id, const char* what) {
    if (id >= 0 && id < vocab_size) return;
    fail(
        ExitCode::usage, "sampling: {} id {} does not exist; the vocabulary has ids 0 to {}", what, id, vocab_size - 1);
  };
  for (int32_t id : options.forbidden_ids) check_id(id, "forbidden");
  for (auto [id, bias] : options.logit_bias) {
    check_id(id, "logit-bias");
    require(std::isfinite(bias), "logit-bias must be finite");
  }
}

bool is_greedy(const SamplerOptions& options) {
  return options.greedy || options.temperature == 0;
}

bool adds_to_logits(const SamplerOptions& options) {
  return options.presence_penalty != 0 || options.frequency_penalty != 0 || !options.logit_bias.empty();
}

namespace {

void add_to_logits(std::span<float> logits, std::span<const int32_t> answer, const SamplerOptions& options) {
  auto add = [&](int32_t id, double value) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = static_cast<float>(static_cast<double>(logit) + value);
  };
  for (auto [id, bias] : options.logit_bias) add(id, bias);
  std::map<int32_t, int64_t> counts;
  for (int32_t id : answer) ++counts[id];
  for (auto [id, count] : counts) {
    add(id, -options.presence_penalty - options.frequency_penalty * static_cast<double>(count));
  }
}

}  // namespace

void SampleBatch::clear() {
  choices.clear();
  changes.clear();
}

Sampler::Sampler(int64_t vocab_size) : vocab_size_(vocab_size), places_(static_cast<size_t>(vocab_size), 0) {}

void Sampler::add_choice(const TokenRequest& request, SampleBatch& batch) {
  const SamplerOptions& options = *request.options;
  SampleChoice choice{.top_p = options.top_p,
                      .seed = options.seed,
                      .step = static_cast<uint32_t>(request.step),
                      .sequence = static_cast<uint32_t>(request.sequence),
                      .min_p = static_cast<float>(options.min_p),
                      .top_k = static_cast<int32_t>(options.top_k < vocab_size_ ? options.top_k : 0),
                      .is_greedy = is_greedy(options) ? 1 : 0,
                      .first_change = static_cast<int32_t>(batch.changes.size())};
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (choice.is_greedy == 0) choice.scale = static_cast<float>(std::min(kLargest, 1.0 / options.temperature));
  add_bans(request, batch.changes);
  choice.num_bans = static_cast<int32_t>(batch.changes.size()) - choice.first_change;
  if (options.penalty != 1.0) {
    add_penalties(request, batch.changes, static_cast<size_t>(choice.first_change));
    choice.late_factor = penalty_factor(1, options);
  }
  choice.num_changes = static_cast<int32_t>(batch.changes.size()) - choice.first_change;
  for (auto i = static_cast<size_t>(choice.first_change); i < batch.changes.size(); ++i) {
    places_[static_cast<size_t>(batch.changes[i].id)] = 0;
  }
  batch.choices.push_back(choice);
}

/// The id's place among the changes, which is one of its own from now on.
size_t Sampler::place_of(int32_t id, std::vector<LogitChange>& changes) {
  int32_t& place = places_[static_cast<size_t>(id)];
  if (place == 0) {
    changes.push_back({.id = id});
    place = static_cast<int32_t>(changes.size());
  }
  return static_cast<size_t>(place - 1);
}

void Sampler::add_bans(const TokenRequest& request, std::vector<LogitChange>& changes) {
  for (int32_t id : request.impossible_ids) {
    if (id >= 0 && id < vocab_size_) changes[place_of(id, changes)].ban = LogitBan::without_share;
  }
  for (int32_t id : request.options->forbidden_ids) {
    LogitBan& ban = changes[place_of(id, changes)].ban;
    if (ban == LogitBan::none) ban = LogitBan::with_share;
  }
}

void Sampler::add_penalties(const TokenRequest& request, std::vector<LogitChange>& changes, size_t first) {
  const SamplerOptions& options = *request.options;
  counts_.assign(changes.size() - first, 0);
  auto count = [&](int32_t id, int64_t times) {
    size_t place = place_of(id, changes) - first;
    if (place == counts_.size()) counts_.push_back(0);
    counts_[place] += times;
  };
  PenalisedPast window = penalised_past(request.past, request.has_late_id, options);
  for (int32_t id : window.ids) count(id, 1);
  if (window.num_zeros > 0) count(0, window.num_zeros);
  for (size_t i = 0; i < counts_.size(); ++i) {
    changes[first + i].factor = penalty_factor(counts_[i], options);
    changes[first + i].late_factor = penalty_factor(counts_[i] + 1, options);
  }
}

int32_t Sampler::sample(std::span<float> logits, const TokenRequest& request) {
  WEFT_ASSERT(static_cast<int64_t>(logits.size()) == vocab_size_, "{} logits", logits.size());
  own_.clear();
  if (adds_to_logits(*request.options)) {
    add_to_logits(logits, request.past.last(static_cast<size_t>(request.step)), *request.options);
  }
  add_choice(request, own_);
  int32_t id = rows_.sample(logits, own_.choices[0], own_.changes);
  if (id < 0) fail_without_choice();
  return id;
}

void Sampler::adjust(std::span<float> logits, std::span<const int32_t> past, const SamplerOptions& options) {
  own_.clear();
  add_choice({.past = past, .options = &options}, own_);
  rows_.change(logits, own_.choices[0], own_.changes);
}

void fail_without_choice() {
  fail_input("the model's logits hold no finite number; broken weights, or every token is forbidden");
}

}  // namespace weft
