// The passes of a generator: what goes into one, who chooses its tokens, and when the next one is queued.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "generate/generator_sequence.h"
#include "generate/request_support.h"

namespace weft {

namespace {

/// Whether the next token is the likeliest one, whatever came before.
bool is_plain_argmax(const GenerationRequest& request, int64_t num_new) {
  const SamplerOptions& sampling = request.sampling;
  bool is_free = sampling.penalty == 1 && sampling.forbidden_ids.empty() && !adds_to_logits(sampling);
  return is_greedy(sampling) && is_free && (num_new >= request.min_new_tokens || request.end_ids.empty());
}

/// Beyond so many changes of logits a step tokens are chosen on the host.
constexpr size_t kMaxLogitChanges = 32768;

/// Makes their number one of few, so that steps that are alike have arrays of the same size.
void pad_changes(std::vector<LogitChange>& changes) {
  if (!changes.empty()) changes.resize(std::bit_ceil(std::max<size_t>(changes.size(), 64)));
}

}  // namespace

/// A draw for each sequence that has no more to compute, from a pass of the model that may have been queued before.
void Generator::step() {
  auto start = GenerationClock::now();
  Pass pass = ahead_ ? *std::exchange(ahead_, std::nullopt) : queue_pass(nullptr);
  if (can_run_ahead(pass)) ahead_ = queue_pass(&pass);
  if (!pass.sampled.empty()) draw(pass);
  remove_finished();
  (pass.prompt_tokens > 0 ? stats_.prefill_seconds : stats_.decode_seconds) += seconds_since(start);
}

/// Whether the next pass can be queued before this one's ids are known to the host: it takes them from the device.
/// Answers that turn out to have ended get a token too many, which is dropped.
bool Generator::can_run_ahead(const Pass& pass) const {
  // A state cannot go back by a token.
  if (pass.device_ids == nullptr || model_.info().is_recurrent) return false;
  if (!context_.allocator->is_asynchronous() || context_.tensor_parallel != nullptr || context_.observer) return false;
  if (pass.sampled.size() != active_.size()) return false;
  bool has_sampler = context_.kernels().sampling.sample != nullptr;
  return std::ranges::all_of(pass.sampled, [&](const Sequence* sequence) {
    return sequence != nullptr && sequence->num_new() + 1 < sequence->limit &&
           (has_sampler || is_plain_argmax(sequence->request, sequence->num_new() + 1));
  });
}

/// Of the ids that the pass before finds, or of what the sequences have to compute.
Generator::Pass Generator::queue_pass(const Pass* before) {
  Pass pass;
  fill_batch(pass, before);
  compute(pass, before);
  copy_from_donors();
  stats_.prompt_tokens += pass.prompt_tokens + static_cast<int64_t>(batch_.source_ids.size());
  return pass;
}

/// A token for each answer, and parts of prompts up to the chunk's size.
void Generator::fill_batch(Pass& pass, const Pass* before) {
  batch_.ids.clear();
  batch_.sequences.clear();
  batch_.segment_ids.clear();
  batch_.source_ids.clear();
  batch_.sources.clear();
  batch_.condition_labels.clear();
  batch_.condition_values.clear();
  rows_.clear();
  if (before != nullptr) {
    for (Sequence* sequence : before->sampled) add_to_batch(*sequence, 1, pass);
    return;
  }
  for (auto& sequence : active_) {
    if (sequence->num_new() > 0) add_to_batch(*sequence, 1, pass);
  }
  for (auto& sequence : active_) {
    if (sequence->num_new() > 0 || sequence->donor) continue;
    int64_t count = std::min(sequence->pending(), options_.prefill_chunk - pass.prompt_tokens);
    // A prompt whose tokens see each other has to be computed whole.
    if (sees_whole_prompt() && count < sequence->pending()) count = pass.prompt_tokens == 0 ? sequence->pending() : 0;
    if (count == 0) continue;
    add_to_batch(*sequence, count, pass);
    pass.prompt_tokens += count;
  }
}

/// What the next token of a sequence is chosen by; with a late id, the one after an id that the host does not know.
TokenRequest Generator::token_request(const Sequence& sequence, bool has_late_id) const {
  const GenerationRequest& request = sequence.request;
  int64_t num_new = sequence.num_new() + (has_late_id ? 1 : 0);
  TokenRequest token{.past = sequence.tokens,
                     .has_late_id = has_late_id,
                     .options = &request.sampling,
                     .sequence = request.sequence,
                     .step = static_cast<uint64_t>(num_new)};
  if (num_new < request.min_new_tokens) token.impossible_ids = request.end_ids;
  return token;
}

/// On the device where it can; choices_ are for its sampler.
void Generator::plan_choice(Pass& pass, const Pass* before) {
  const KernelTable& table = context_.kernels();
  if (pass.sampled.empty()) return;
  auto wants_logits = [](const Sequence* sequence) {
    return sequence->request.num_logprobs >= 0 || adds_to_logits(sequence->request.sampling);
  };
  if (std::ranges::any_of(pass.sampled, wants_logits)) return;
  bool is_ahead = before != nullptr;
  bool is_argmax = std::ranges::all_of(pass.sampled, [&](const Sequence* sequence) {
    return is_plain_argmax(sequence->request, sequence->num_new() + (is_ahead ? 1 : 0));
  });
  if (is_argmax && table.elementwise.argmax != nullptr) pass.choice = Choice::argmax;
  if (is_argmax || table.sampling.sample == nullptr) return;
  choices_.clear();
  for (const Sequence* sequence : pass.sampled) sampler_.add_choice(token_request(*sequence, is_ahead), choices_);
  if (choices_.changes.size() > kMaxLogitChanges) return;
  pad_changes(choices_.changes);
  pass.choice = Choice::sample;
}

void Generator::choose_on_device(const Pass& pass, const Pass* before, Tensor& logits) {
  auto* ids = ids_[static_cast<size_t>(next_ids_)].pointer<int32_t>();
  if (pass.choice == Choice::argmax) {
    context_.kernels().elementwise.argmax(
        {.x = logits.raw(), .ids = ids, .rows = logits.size(0), .width = logits.size(1), .dtype = logits.dtype()},
        context_.stream());
    return;
  }
  context_.kernels().sampling.sample({.logits = logits.pointer<float>(),
                                      .ids = ids,
                                      .late_ids = before == nullptr ? nullptr : before->device_ids,
                                      .choices = choices_.choices.data(),
                                      .changes = choices_.changes.data(),
                                      .num_changes = static_cast<int64_t>(choices_.changes.size()),
                                      .rows = logits.size(0),
                                      .width = logits.size(1)},
                                     context_.stream());
}

/// Logits of rows_, or the ids that the device has chosen by them.
void Generator::compute(Pass& pass, const Pass* before) {
  bool is_ahead = before != nullptr;
  plan_choice(pass, before);
  bool finds_ids = pass.choice != Choice::host;
  // Two places for ids in turns: a step that runs as one finds them where it found them before.
  next_ids_ = is_ahead ? 1 - next_ids_ : 0;
  auto place = static_cast<size_t>(next_ids_);
  auto num_rows = static_cast<int64_t>(rows_.size());
  if (finds_ids && !ids_[place].defined()) {
    ids_[place] = context_.empty({options_.max_batch}, DType::i32);
    host_ids_[place] = context_.host_empty({options_.max_batch}, DType::i32);
  }
  Tensor logits;
  auto run = [&] {
    Tensor hidden = model_.hidden(context_, batch_, cache_.get());
    if (rows_.empty()) return;
    logits = logits_of_tokens(context_, model_, hidden, batch_, rows_);
    if (!finds_ids) return;
    choose_on_device(pass, before, logits);
    logits = Tensor();
  };
  // Ranks exchange values within a pass, by way of the host.
  bool is_one_step = pass.prompt_tokens == 0 && context_.tensor_parallel == nullptr && !context_.observer &&
                     batch_.condition_values.empty();
  if (is_one_step) {
    LateValues late;
    if (is_ahead) late = {.host = batch_.ids.data(), .device = before->device_ids, .count = num_rows};
    auto kind =
        static_cast<uint64_t>(num_rows) * 16 + static_cast<uint64_t>(pass.choice) * 4 + (is_ahead ? 2 : 0) + place;
    context_.allocator->run_step(kind, run, late);
  } else {
    run();
  }
  if (finds_ids) {
    pass.device_ids = ids_[place].pointer<int32_t>();
    pass.results = host_ids_[place].slice(0, num_rows);
    pass.wait = context_.allocator->start_copy_to_host(
        pass.results.raw(), pass.device_ids, static_cast<size_t>(num_rows) * sizeof(int32_t));
  } else if (logits.defined()) {
    pass.results = context_.to_host(logits);
  }
}

void Generator::add_to_batch(Sequence& sequence, int64_t count, Pass& pass) {
  batch_.sequences.push_back(
      {.begin = batch_.num_tokens(), .length = count, .past = sequence.cached, .slot = sequence.slot});
  if (sequence.pending() >= count) {
    auto begin = sequence.tokens.begin() + sequence.cached;
    batch_.ids.insert(batch_.ids.end(), begin, begin + count);
  } else {
    batch_.ids.push_back(0);  // a late value
  }
  batch_.add_condition(sequence.request.condition);
  const std::vector<int32_t>& source = sequence.request.source;
  if (!source.empty()) {
    batch_.sequences.back().source_slot = sequence.slot;
    batch_.sequences.back().source_length = static_cast<int64_t>(source.size());
    if (sequence.cached == 0) batch_.add_source(source, sequence.slot);
  }
  // What UniLM writes is of the target's segment; the prompt is the source.
  bool is_target = sequence.cached >= static_cast<int64_t>(sequence.request.prompt.size());
  if (sees_whole_prompt()) {
    batch_.segment_ids.insert(batch_.segment_ids.end(), static_cast<size_t>(count), is_target ? 1 : 0);
  }
  sequence.cached += count;
  if (sequence.pending() > 0) return;
  rows_.push_back(static_cast<int32_t>(batch_.num_tokens() - 1));
  pass.sampled.push_back(&sequence);
}

/// Gives the sequences that wait for a prompt like theirs what has been computed of it, before that one can leave its
/// slot.
void Generator::copy_from_donors() {
  for (auto& sequence : active_) {
    if (!sequence->donor || sequence->donor->cached < sequence->shared) continue;
    cache_->copy_slot(sequence->donor->slot, sequence->slot, sequence->shared);
    sequence->cached = sequence->shared;
    sequence->donor = nullptr;
  }
}

void Generator::draw(Pass& pass) {
  if (pass.wait) pass.wait();
  for (size_t row = 0; row < pass.sampled.size(); ++row) {
    if (pass.sampled[row] == nullptr) continue;
    Sequence& sequence = *pass.sampled[row];
    ++stats_.new_tokens;
    if (pass.device_ids != nullptr) {
      int32_t id = pass.results.data<int32_t>()[row];
      if (id < 0) fail_without_choice();
      accept(sequence, id);
      continue;
    }
    std::span<float> values = row_of_logits(pass.results, static_cast<int64_t>(row), converted_row_);
    int64_t num_logprobs = sequence.request.num_logprobs;
    if (num_logprobs >= 0) logits_before_.assign(values.begin(), values.end());
    int32_t id = sampler_.sample(values, token_request(sequence, false));
    if (num_logprobs < 0) {
      accept(sequence, id);
    } else {
      TokenLogprobs logprobs = token_logprobs(logits_before_, id, num_logprobs);
      accept(sequence, id, &logprobs);
    }
  }
}

/// What was queued for answers that have ended.
void Generator::drop_pass_ahead() {
  if (ahead_ && ahead_->wait) ahead_->wait();
  ahead_.reset();
}

}  // namespace weft
