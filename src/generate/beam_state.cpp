#include "generate/beam_state.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace weft {

void check_beam_options(const BeamOptions& options) {
  auto require = [](bool condition, std::string_view what) {
    if (!condition) fail(ExitCode::usage, "beam search: {}", what);
  };
  require(options.num_beams >= 1, "there must be at least 1 beam");
  require(std::isfinite(options.length_penalty), "the length penalty must be a finite number");
  require(options.min_ends >= 1, "an answer ends with at least 1 end token");
}

BeamState::BeamState(const BeamOptions& options, const BeamLimits& limits)
    : options_(options), limits_(limits), width_(options.num_beams), beams_(1) {}

bool BeamState::is_end(int32_t id) const {
  return std::find(limits_.end_ids.begin(), limits_.end_ids.end(), id) != limits_.end_ids.end();
}

/// However many of them end, enough are left to go on with.
size_t BeamState::num_candidates() const {
  auto width = static_cast<size_t>(width_);
  if (options_.mode == BeamMode::bert4keras) return width;
  return width * std::max<size_t>(2, 1 + limits_.end_ids.size());
}

bool BeamState::forbids_ends() const {
  return options_.mode == BeamMode::transformers && length_ < limits_.min_new_tokens;
}

Beam BeamState::extend(const BeamCandidate& candidate) const {
  const Beam& parent = beams_[static_cast<size_t>(candidate.beam)];
  Beam beam{.score = candidate.score, .parent = candidate.beam, .ids = {}};
  beam.ids.reserve(parent.ids.size() + 1);
  beam.ids = parent.ids;
  beam.ids.push_back(candidate.id);
  return beam;
}

void BeamState::advance(std::span<const BeamCandidate> candidates) {
  WEFT_ASSERT(!is_finished_);
  ++length_;
  if (options_.mode == BeamMode::transformers) {
    advance_as_transformers(candidates);
  } else {
    advance_as_bert4keras(candidates);
  }
}

/// In f32, as there.
double BeamState::normalise(double score, int64_t length) const {
  if (options_.mode == BeamMode::bert4keras) return score;
  auto divisor = static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
  return double{static_cast<float>(score) / divisor};
}

/// Behind answers that are as good.
void BeamState::add_answer(Beam beam, bool is_ended) {
  double score = normalise(beam.score, static_cast<int64_t>(beam.ids.size()));
  auto place = std::find_if(
      answers_.begin(), answers_.end(), [score](const BeamAnswer& answer) { return answer.score < score; });
  answers_.insert(place, {.score = score, .ids = std::move(beam.ids), .is_ended = is_ended});
  if (static_cast<int64_t>(answers_.size()) > options_.num_beams) answers_.pop_back();
}

/// Only the first num_beams candidates can become answers; those behind them are there to go on with.
void BeamState::advance_as_transformers(std::span<const BeamCandidate> candidates) {
  auto width = static_cast<size_t>(width_);
  bool is_last = length_ >= limits_.max_new_tokens;
  std::vector<Beam> next;
  for (size_t i = 0; i < candidates.size(); ++i) {
    bool is_ended = is_end(candidates[i].id);
    if (is_ended || is_last) {
      if (i < width) add_answer(extend(candidates[i]), is_ended);
    } else if (next.size() < width) {
      next.push_back(extend(candidates[i]));
    }
  }
  beams_ = std::move(next);
  is_finished_ = is_last || beams_.empty() || !can_improve();
}

bool BeamState::can_improve() const {
  if (static_cast<int64_t>(answers_.size()) < options_.num_beams) return true;
  if (options_.early_stopping == EarlyStopping::yes) return false;
  bool may_grow = options_.early_stopping == EarlyStopping::never && options_.length_penalty > 0;
  int64_t length = may_grow ? limits_.max_new_tokens : length_;
  return normalise(beams_.front().score, length) > answers_.back().score;
}

bool BeamState::is_complete(const Beam& beam) const {
  if (!is_end(beam.ids.back())) return false;
  return std::count_if(beam.ids.begin(), beam.ids.end(), [this](int32_t id) { return is_end(id); }) >=
         options_.min_ends;
}

void BeamState::advance_as_bert4keras(std::span<const BeamCandidate> candidates) {
  std::vector<Beam> next;
  for (const BeamCandidate& candidate : candidates) next.push_back(extend(candidate));
  beams_ = std::move(next);
  is_finished_ = beams_.empty();
  if (is_finished_) return;
  bool may_end = length_ >= limits_.min_new_tokens;
  bool is_best_complete = may_end && is_complete(beams_.front());
  if (is_best_complete || length_ >= limits_.max_new_tokens) {
    add_answer(std::move(beams_.front()), is_best_complete);
    beams_.clear();
    is_finished_ = true;
  } else if (may_end) {
    std::erase_if(beams_, [this](const Beam& beam) { return is_complete(beam); });
    width_ = static_cast<int64_t>(beams_.size());
  }
}

void BeamState::interrupt() {
  for (Beam& beam : beams_) {
    if (!beam.ids.empty()) add_answer(std::move(beam), false);
  }
  beams_.clear();
  is_finished_ = true;
}

}  // namespace weft
