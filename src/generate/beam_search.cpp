#include "generate/beam_search.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "generate/beam_slots.h"
#include "generate/request_support.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace

/// A request while it holds slots.
struct BeamSearch::Search {
  Search(const BeamRequest& request_in, size_t index_in, const BeamLimits& limits_in, std::vector<int64_t> slots_in)
      : request(request_in),
        index(index_in),
        limits(limits_in),
        state(request.beams, limits),
        source_slot(slots_in.front()),
        slots(std::move(slots_in)) {}

  int64_t prompt_left() const { return std::max<int64_t>(0, static_cast<int64_t>(request.prompt.size()) - cached); }

  const BeamRequest& request;
  size_t index;
  BeamLimits limits;
  BeamState state;
  int64_t source_slot;  // that all beams share
  BeamSlots slots;
  int64_t cached = 0;  // tokens of every beam in the cache
  bool was_interrupted = false;
  Clock::time_point start = Clock::now();
  Clock::time_point first_token;
};

BeamSearch::BeamSearch(Context& context, LanguageModel& model, const BeamSearchOptions& options)
    : context_(context), model_(model), options_(options), sampler_(model.info().vocab_size) {
  if (options_.max_batch < 1) fail(ExitCode::usage, "the batch must hold at least 1 beam, not {}", options_.max_batch);
  if (options_.prefill_chunk < 1) {
    fail(ExitCode::usage, "prompts are computed at least 1 token at a time, not {}", options_.prefill_chunk);
  }
}

BeamSearch::~BeamSearch() = default;

std::vector<BeamResults> BeamSearch::run(std::span<const BeamRequest> requests, const BeamSearchHooks& hooks) {
  for (size_t index = 0; index < requests.size(); ++index) check(requests[index], index);
  std::vector<BeamResults> results(requests.size());
  if (requests.empty()) return results;
  results_ = &results;
  hooks_ = &hooks;
  active_.clear();
  reserve_cache(requests);
  size_t next = 0;
  while (next < requests.size() || !active_.empty()) {
    if (hooks.should_stop && hooks.should_stop()) {
      for (auto& search : active_) {
        search->was_interrupted = true;
        search->state.interrupt();
        finish(*search);
      }
      remove_finished();
      break;
    }
    for (; next < requests.size() && has_room(requests[next]); ++next) admit(requests[next], next);
    step();
  }
  return results;
}

void BeamSearch::check(const BeamRequest& request, size_t index) const {
  auto require = [](bool condition, std::string_view what) {
    if (!condition) fail(ExitCode::usage, "beam search: {}", what);
  };
  check_sampler_options(request.sampling, model_.info().vocab_size);
  check_beam_options(request.beams);
  require(request.sampling.temperature > 0, "the temperature must be greater than 0");
  require(request.num_results >= 1 && request.num_results <= request.beams.num_beams,
          "there are from 1 to as many answers as beams");
  require(request.num_results == 1 || request.beams.mode == BeamMode::transformers, "bert4keras's has a single answer");
  check_prompt(model_.info(), request.prompt, request.source, index);
  check_condition(model_.info(), request.condition);
  check_max_new_tokens(request.max_new_tokens);
}

void BeamSearch::reserve_cache(std::span<const BeamRequest> requests) {
  int64_t tokens = 0;
  int64_t source_tokens = 0;
  int64_t most_beams = 0;
  int64_t total_beams = 0;
  for (const BeamRequest& request : requests) {
    int64_t limit = answer_limit(model_.info(), request.prompt, request.max_new_tokens);
    tokens = std::max(tokens, static_cast<int64_t>(request.prompt.size()) + limit);
    source_tokens = std::max(source_tokens, static_cast<int64_t>(request.source.size()));
    most_beams = std::max(most_beams, request.beams.num_beams);
    total_beams += request.beams.num_beams;
  }
  int64_t num_slots = std::min(total_beams, std::max(options_.max_batch, most_beams));
  bool fits = cache_ && cache_->num_slots() >= num_slots && cache_->max_tokens() >= tokens &&
              cache_->max_source_tokens() >= source_tokens;
  if (!fits) {
    cache_.reset();
    KvCacheShape shape = model_.kv_cache_shape(options_.cache_dtype);
    cache_ = std::make_unique<KvCache>(context_, shape, num_slots, tokens, num_slots, source_tokens);
  }
  free_slots_.clear();
  for (int64_t slot = num_slots; slot-- > 0;) free_slots_.push_back(slot);
}

bool BeamSearch::has_room(const BeamRequest& request) const {
  return static_cast<int64_t>(free_slots_.size()) >= request.beams.num_beams;
}

void BeamSearch::admit(const BeamRequest& request, size_t index) {
  auto first = free_slots_.end() - static_cast<std::ptrdiff_t>(request.beams.num_beams);
  std::vector<int64_t> slots(first, free_slots_.end());
  free_slots_.erase(first, free_slots_.end());
  BeamLimits limits{.min_new_tokens = request.min_new_tokens,
                    .max_new_tokens = answer_limit(model_.info(), request.prompt, request.max_new_tokens),
                    .end_ids = request.end_ids};
  active_.push_back(std::make_unique<Search>(request, index, limits, std::move(slots)));
  cache_->clear_states(active_.back()->slots.slot(0));
}

/// One pass of the model: a token for each beam, and parts of prompts up to the chunk's size; then the choice of the
/// next beams for each search that has no prompt left to compute.
void BeamSearch::step() {
  auto start = Clock::now();
  clear_step();
  int64_t prompt_tokens = 0;
  for (auto& search : active_) {
    if (search->prompt_left() == 0) add_beams(*search);
  }
  for (auto& search : active_) {
    int64_t left = search->prompt_left();
    int64_t count = std::min(left, options_.prefill_chunk - prompt_tokens);
    // A prompt whose tokens see each other has to be computed whole.
    if (sees_whole_prompt() && count < left) count = prompt_tokens == 0 ? left : 0;
    if (count == 0) continue;
    add_prompt(*search, count);
    prompt_tokens += count;
  }
  Tensor hidden = model_.hidden(context_, batch_, cache_.get());
  if (!rows_.empty()) {
    Tensor logits = context_.to_host(logits_of_tokens(context_, model_, hidden, batch_, rows_));
    decide(logits);
  }
  remove_finished();
  stats_.prompt_tokens += prompt_tokens + static_cast<int64_t>(batch_.source_ids.size());
  stats_.new_tokens += static_cast<int64_t>(rows_.size());
  (prompt_tokens > 0 ? stats_.prefill_seconds : stats_.decode_seconds) += seconds_between(start, Clock::now());
}

void BeamSearch::clear_step() {
  batch_.ids.clear();
  batch_.sequences.clear();
  batch_.segment_ids.clear();
  batch_.source_ids.clear();
  batch_.sources.clear();
  batch_.condition_labels.clear();
  batch_.condition_values.clear();
  rows_.clear();
  deciding_.clear();
}

void BeamSearch::add_beams(Search& search) {
  const std::vector<Beam>& beams = search.state.beams();
  for (size_t beam = 0; beam < beams.size(); ++beam) {
    add_to_batch(
        search, std::span(beams[beam].ids).last(1), {.past = search.cached, .slot = search.slots.slot(beam)}, 1);
    rows_.push_back(static_cast<int32_t>(batch_.num_tokens() - 1));
  }
  ++search.cached;
  deciding_.push_back(&search);
}

/// The prompt is computed in the first beam's slot; the others get it when they begin.
void BeamSearch::add_prompt(Search& search, int64_t count) {
  auto ids = std::span(search.request.prompt).subspan(static_cast<size_t>(search.cached), static_cast<size_t>(count));
  if (search.cached == 0 && !search.request.source.empty()) {
    batch_.add_source(search.request.source, search.source_slot);
  }
  add_to_batch(search, ids, {.past = search.cached, .slot = search.slots.slot(0)}, 0);
  search.cached += count;
  if (search.prompt_left() > 0) return;
  rows_.push_back(static_cast<int32_t>(batch_.num_tokens() - 1));
  deciding_.push_back(&search);
}

/// What UniLM writes is of the target's segment, 1; the prompt is the source.
void BeamSearch::add_to_batch(const Search& search,
                              std::span<const int32_t> ids,
                              const BatchSequence& place,
                              int32_t segment) {
  batch_.sequences.push_back({.begin = batch_.num_tokens(),
                              .length = static_cast<int64_t>(ids.size()),
                              .past = place.past,
                              .slot = place.slot,
                              .source_slot = search.source_slot,
                              .source_length = static_cast<int64_t>(search.request.source.size())});
  batch_.add_condition(search.request.condition);
  batch_.ids.insert(batch_.ids.end(), ids.begin(), ids.end());
  if (sees_whole_prompt()) batch_.segment_ids.insert(batch_.segment_ids.end(), ids.size(), segment);
}

void BeamSearch::decide(Tensor& logits) {
  temperatures_.clear();
  for (Search* search : deciding_) {
    temperatures_.insert(temperatures_.end(), search->state.beams().size(), search->request.sampling.temperature);
  }
  std::span<float> log_probs = values_of_logits(logits, converted_logits_);
  log_softmax_rows(log_probs, temperatures_, context_.num_threads);
  for (Search* search : deciding_) {
    size_t count = search->state.beams().size() * static_cast<size_t>(logits.size(-1));
    find_candidates(*search, log_probs.first(count));
    log_probs = log_probs.subspan(count);
    if (search->state.beams().front().ids.empty()) search->first_token = Clock::now();
    search->state.advance(candidates_.sort());
    if (search->state.is_finished()) {
      finish(*search);
    } else {
      move_beams(*search);
    }
  }
}

void BeamSearch::find_candidates(Search& search, std::span<float> log_probs) {
  const std::vector<Beam>& beams = search.state.beams();
  candidates_.reset(search.state.num_candidates(), search.state.score_kind());
  size_t width = log_probs.size() / beams.size();
  for (size_t beam = 0; beam < beams.size(); ++beam) {
    std::span<float> values = log_probs.subspan(beam * width, width);
    adjust(search, beams[beam], values);
    candidates_.add(static_cast<int32_t>(beam), beams[beam].score, values);
  }
}

void BeamSearch::adjust(const Search& search, const Beam& beam, std::span<float> log_probs) {
  past_.clear();
  if (search.request.sampling.penalty != 1.0) {
    past_ = search.request.prompt;
    past_.insert(past_.end(), beam.ids.begin(), beam.ids.end());
  }
  sampler_.adjust(log_probs, past_, search.request.sampling);
  if (search.state.forbids_ends()) forbid_ids(log_probs, search.request.end_ids);
}

void BeamSearch::move_beams(Search& search) {
  parents_.clear();
  for (const Beam& beam : search.state.beams()) parents_.push_back(beam.parent);
  for (const BeamSlots::Copy& copy : search.slots.follow(parents_, search.cached)) {
    cache_->copy_tokens(copy.from, copy.to, copy.begin, copy.end);
    cache_->copy_states(copy.from, copy.to);
  }
}

void BeamSearch::finish(Search& search) {
  if (search.state.answers().empty() && !search.was_interrupted) {
    fail_input("prompt {}: every token that could follow is forbidden", search.index + 1);
  }
  BeamResults& results = (*results_)[search.index];
  for (const BeamAnswer& answer : search.state.answers()) {
    if (static_cast<int64_t>(results.size()) == search.request.num_results) break;
    results.push_back(to_result(search, answer));
  }
  if (hooks_->on_finish) hooks_->on_finish(search.index, results);
}

GenerationResult BeamSearch::to_result(const Search& search, const BeamAnswer& answer) const {
  GenerationResult result;
  result.ids = answer.ids;
  result.score = answer.score;
  bool is_cut = static_cast<int64_t>(answer.ids.size()) < search.limits.max_new_tokens;
  result.finish_reason = FinishReason::length;
  if (is_cut) result.finish_reason = FinishReason::interrupted;
  if (answer.is_ended) result.finish_reason = FinishReason::end;
  if (options_.tokenizer) {
    std::span<const int32_t> ids = answer.ids;
    result.text = options_.tokenizer->decode(answer.is_ended ? ids.first(ids.size() - 1) : ids, true);
  }
  result.prompt_tokens = static_cast<int64_t>(search.request.prompt.size() + search.request.source.size());
  result.first_token_seconds = seconds_between(search.start, search.first_token);
  result.decode_seconds = seconds_between(search.first_token, Clock::now());
  return result;
}

void BeamSearch::remove_finished() {
  std::erase_if(active_, [this](const auto& search) {
    if (!search->state.is_finished()) return false;
    const std::vector<int64_t>& slots = search->slots.slots();
    free_slots_.insert(free_slots_.end(), slots.begin(), slots.end());
    return true;
  });
}

}  // namespace weft
