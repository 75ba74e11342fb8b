#include "generate/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/crc32c.h"
#include "core/error.h"
#include "generate/request_support.h"
#include "generate/stop_filter.h"
#include "ops/embedding.h"
#include "parallel/communicator.h"

namespace weft {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

/// What a cached layer's slot holds of a head's first tokens.
Tensor head_tokens(const Tensor& layer, int64_t slot, int64_t head, int64_t tokens) {
  Tensor heads = layer.slice(slot, slot + 1).reshape({layer.size(1) * layer.size(2), layer.size(3)});
  return heads.slice(head * layer.size(2), head * layer.size(2) + tokens);
}

/// Whether the next token is the likeliest one, whatever came before.
bool is_plain_argmax(const GenerationRequest& request, int64_t num_new) {
  const SamplerOptions& sampling = request.sampling;
  bool is_free = sampling.penalty == 1 && sampling.forbidden_ids.empty();
  return is_greedy(sampling) && is_free && (num_new >= request.min_new_tokens || request.end_ids.empty());
}

/// Beyond so many changes of logits a step tokens are chosen on the host.
constexpr size_t kMaxLogitChanges = 32768;

/// Makes their number one of few, so that steps that are alike have arrays of the same size.
void pad_changes(std::vector<LogitChange>& changes) {
  if (!changes.empty()) changes.resize(std::bit_ceil(std::max<size_t>(changes.size(), 64)));
}

/// Copies what the slots of a cache hold to a larger one.
void copy_cache(KvCache& from, KvCache& to, int64_t slot, int64_t tokens) {
  const KvCacheShape& shape = from.shape();
  auto copy = [&](Tensor& source, Tensor& target) {
    for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
      head_tokens(target, slot, head, tokens).copy_from(head_tokens(source, slot, head, tokens));
    }
  };
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    copy(from.keys(layer), to.keys(layer));
    copy(from.values(layer), to.values(layer));
  }
  for (size_t i = 0; i < shape.states.size(); ++i) {
    Tensor source = from.state(static_cast<int64_t>(i)).slice(slot, slot + 1);
    Tensor target = to.state(static_cast<int64_t>(i)).slice(slot, slot + 1);
    target.copy_from(source);
  }
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::length:
      return "length";
    case FinishReason::end:
      return "end";
    case FinishReason::stop:
      return "stop";
    case FinishReason::interrupted:
      return "interrupted";
  }
  return "";
}

/// A prompt and its answer while they hold a slot. The tokens not yet in the cache are its work: many for a prompt, one
/// while it answers.
struct Generator::Sequence {
  Sequence(const GenerationRequest& request_in, size_t index_in, const Tokenizer* tokenizer)
      : request(request_in), index(index_in), tokens(request_in.prompt), filter(request_in.stop_strings) {
    if (tokenizer) decoder.emplace(*tokenizer, true);
  }

  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - cached; }
  int64_t num_new() const { return static_cast<int64_t>(tokens.size() - request.prompt.size()); }

  const GenerationRequest& request;
  size_t index;
  int64_t limit = 0;  // new tokens at most
  int64_t slot = 0;
  std::vector<int32_t> tokens;
  int64_t cached = 0;
  /// A sequence whose prompt begins alike and is being computed: its keys and values are copied once `shared` tokens
  /// are there.
  const Sequence* donor = nullptr;
  int64_t shared = 0;
  std::optional<StreamingDecoder> decoder;
  StopFilter filter;
  Clock::time_point start = Clock::now();
  Clock::time_point first_token;
  bool is_finished = false;
};

Generator::Generator(Context& context, LanguageModel& model, const GeneratorOptions& options)
    : context_(context), model_(model), options_(options), sampler_(model.info().vocab_size) {
  if (options_.max_batch < 1)
    fail(ExitCode::usage, "the batch must hold at least 1 sequence, not {}", options_.max_batch);
  if (options_.prefill_chunk < 1) {
    fail(ExitCode::usage, "prompts are computed at least 1 token at a time, not {}", options_.prefill_chunk);
  }
}

Generator::~Generator() = default;

std::vector<GenerationResult> Generator::run(std::span<const GenerationRequest> requests,
                                             const GenerationHooks& hooks) {
  for (size_t index = 0; index < requests.size(); ++index) check(requests[index], index);
  std::vector<GenerationResult> results(requests.size());
  if (requests.empty()) return results;
  results_ = &results;
  hooks_ = &hooks;
  drop_pass_ahead();  // of a run that failed
  active_.clear();
  for (Slot& slot : slots_) slot.sequence = nullptr;
  reserve_cache(requests);
  auto batch_limit = static_cast<size_t>(options_.max_batch);
  size_t next = 0;
  while (next < requests.size() || !active_.empty()) {
    if (hooks.should_stop && hooks.should_stop()) {
      for (; next < requests.size(); ++next) results[next].finish_reason = FinishReason::interrupted;
      for (auto& sequence : active_) finish(*sequence, FinishReason::interrupted);
      remove_finished();
      break;
    }
    while (next < requests.size() && active_.size() < batch_limit) {
      admit(requests, next);
      ++next;
    }
    step();
  }
  drop_pass_ahead();
  return results;
}

void Generator::check(const GenerationRequest& request, size_t index) const {
  check_sampler_options(request.sampling, model_.info().vocab_size);
  check_prompt(model_.info(), request.prompt, request.source, index);
  check_max_new_tokens(request.max_new_tokens);
  if (!request.stop_strings.empty() && !options_.tokenizer) fail(ExitCode::usage, "stop strings need a tokenizer");
}

/// Makes the cache hold the longest request. One that grows at least doubles, so that a long conversation copies
/// little.
void Generator::reserve_cache(std::span<const GenerationRequest> requests) {
  int64_t tokens = 0;
  int64_t source_tokens = 0;
  for (const GenerationRequest& request : requests) {
    source_tokens = std::max(source_tokens, static_cast<int64_t>(request.source.size()));
    tokens = std::max(tokens,
                      static_cast<int64_t>(request.prompt.size()) +
                          answer_limit(model_.info(), request.prompt, request.max_new_tokens));
  }
  int64_t num_slots = std::min<int64_t>(options_.max_batch, static_cast<int64_t>(requests.size()));
  if (cache_) {
    bool holds_sources = cache_->max_source_tokens() >= source_tokens;
    if (cache_->num_slots() >= num_slots && cache_->max_tokens() >= tokens && holds_sources) return;
    source_tokens = std::max(source_tokens, cache_->max_source_tokens());
    num_slots = std::max(num_slots, cache_->num_slots());
    if (cache_->max_tokens() < tokens) tokens = std::max(tokens, 2 * cache_->max_tokens());
    tokens = std::max(tokens, cache_->max_tokens());
  }
  make_cache(num_slots, tokens, source_tokens);
}

void Generator::make_cache(int64_t num_slots, int64_t tokens, int64_t source_tokens) {
  constexpr int64_t kRounding = 64;
  tokens = (tokens + kRounding - 1) / kRounding * kRounding;
  auto cache = std::make_unique<KvCache>(
      context_, model_.kv_cache_shape(options_.cache_dtype), num_slots, tokens, num_slots, source_tokens);
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    copy_cache(*cache_, *cache, static_cast<int64_t>(slot), static_cast<int64_t>(slots_[slot].tokens.size()));
  }
  cache_ = std::move(cache);
  slots_.resize(static_cast<size_t>(num_slots));
}

/// What a source or a prompt that sees itself whole left in the cache says nothing of what follows.
void Generator::check_sessions() const {
  if (shares_prefixes()) return;
  fail_input("a session cannot go on with a model of the family {}: it reads the whole text again",
             model_.info().family);
}

std::string Generator::rank_path(const std::string& session) const {
  const Communicator* ranks = context_.tensor_parallel;
  if (ranks == nullptr || ranks->size() == 1) return session;
  return fmt::format("{}.{}-of-{}", session, ranks->rank(), ranks->size());
}

/// A run that was killed while it saved may leave parts of two texts.
void Generator::check_same_session(const std::string& path) const {
  if (context_.tensor_parallel == nullptr) return;
  uint32_t text = extend_crc32c(0, last_.ids.data(), last_.ids.size() * sizeof(int32_t));
  Tensor of_rank_zero = context_.host_empty({2}, DType::i32);
  const std::array own = {static_cast<int32_t>(text), static_cast<int32_t>(last_.cached)};
  std::copy(own.begin(), own.end(), of_rank_zero.data<int32_t>());
  context_.tensor_parallel->broadcast(of_rank_zero, 0);
  if (std::equal(own.begin(), own.end(), of_rank_zero.data<int32_t>())) return;
  fail_input("{}: the ranks' parts are of different texts; save the session again", printable(path));
}

void Generator::save_session(const std::string& path, const std::string& notes) {
  check_sessions();
  if (last_.cached == 0) fail_input("{}: nothing to save: no token was computed", printable(path));
  last_.notes = notes;
  write_session(rank_path(path), model_, *cache_, last_slot_, last_);
}

Session Generator::load_session(const std::string& path) {
  check_sessions();
  WEFT_ASSERT(cache_ == nullptr);
  SessionFile file(rank_path(path), model_, model_.kv_cache_shape(options_.cache_dtype));
  last_ = file.session();
  check_same_session(path);
  make_cache(1, last_.cached, 0);
  file.read_into(*cache_, 0);
  slots_[0].tokens.assign(last_.ids.begin(), last_.ids.begin() + last_.cached);
  return last_;
}

void Generator::admit(std::span<const GenerationRequest> requests, size_t index) {
  auto sequence = std::make_unique<Sequence>(requests[index], index, options_.tokenizer);
  sequence->limit = answer_limit(model_.info(), requests[index].prompt, requests[index].max_new_tokens);
  find_shared_prefix(*sequence);
  stats_.reused_tokens += std::max(sequence->cached, sequence->shared);
  Slot& slot = slots_[static_cast<size_t>(sequence->slot)];
  slot.sequence = sequence.get();
  slot.tokens.clear();
  if (sequence->cached == 0) cache_->clear_states(sequence->slot);
  active_.push_back(std::move(sequence));
  copy_from_donors();
}

/// Whether the keys of a prompt's token depend on the tokens after it: no other prompt's serve then.
bool Generator::sees_whole_prompt() const {
  return model_.info().attention == AttentionPattern::prefix;
}

/// Whether what the cache holds of a prompt's beginning serves another prompt that begins alike.
bool Generator::shares_prefixes() const {
  return !sees_whole_prompt() && !model_.info().has_source;
}

/// Takes the free slot that already holds the longest beginning of the prompt, or, when a sequence at work has a longer
/// one, that as the donor.
void Generator::find_shared_prefix(Sequence& sequence) {
  // The last token is always computed, for its logits.
  auto prompt = std::span(sequence.tokens).first(sequence.tokens.size() - 1);
  int64_t best = -1;
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].sequence) continue;
    const std::vector<int32_t>& held = slots_[slot].tokens;
    int64_t shared = shares_prefixes() ? common_prefix(prompt, held) : 0;
    // A state stands for all of its tokens.
    if (model_.info().is_recurrent && shared < static_cast<int64_t>(held.size())) shared = 0;
    bool is_better =
        best < 0 || shared > sequence.cached ||
        (shared == sequence.cached && slots_[slot].tokens.size() < slots_[static_cast<size_t>(best)].tokens.size());
    if (!is_better) continue;
    best = static_cast<int64_t>(slot);
    sequence.cached = shared;
  }
  sequence.slot = best;
  constexpr int64_t kWorthCopying = 16;
  if (!shares_prefixes() || model_.info().is_recurrent) return;
  for (const auto& other : active_) {
    int64_t shared = common_prefix(prompt, other->request.prompt);
    if (shared < std::max(kWorthCopying, sequence.cached + 1) || shared <= sequence.shared) continue;
    sequence.donor = other.get();
    sequence.shared = shared;
  }
}

/// A draw for each sequence that has no more to compute, from a pass of the model that may have been queued before.
void Generator::step() {
  auto start = Clock::now();
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
    bool is_every_row = num_rows == batch_.num_tokens();
    logits = model_.logits(context_, is_every_row ? hidden : gather_rows(context_, hidden, rows_));
    if (!finds_ids) return;
    choose_on_device(pass, before, logits);
    logits = Tensor();
  };
  // Ranks exchange values within a pass, by way of the host.
  bool is_one_step = pass.prompt_tokens == 0 && context_.tensor_parallel == nullptr && !context_.observer;
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
    accept(sequence, sampler_.sample(values, token_request(sequence, false)));
  }
}

/// What was queued for answers that have ended.
void Generator::drop_pass_ahead() {
  if (ahead_ && ahead_->wait) ahead_->wait();
  ahead_.reset();
}

void Generator::accept(Sequence& sequence, int32_t id) {
  if (sequence.num_new() == 0) sequence.first_token = Clock::now();
  sequence.tokens.push_back(id);
  const auto& end_ids = sequence.request.end_ids;
  bool is_end = std::find(end_ids.begin(), end_ids.end(), id) != end_ids.end();
  bool is_last = is_end || sequence.num_new() >= sequence.limit;
  std::string text;
  if (sequence.decoder) {
    if (!is_end) text = sequence.filter.push(sequence.decoder->push(id));
    if (is_last) text += sequence.filter.push(sequence.decoder->finish());
    if (is_last) text += sequence.filter.finish();
  }
  (*results_)[sequence.index].text += text;
  if (hooks_->on_token) hooks_->on_token(sequence.index, id, text);
  if (sequence.filter.found()) {
    finish(sequence, FinishReason::stop);
  } else if (is_last) {
    finish(sequence, is_end ? FinishReason::end : FinishReason::length);
  }
}

void Generator::finish(Sequence& sequence, FinishReason reason) {
  GenerationResult& result = (*results_)[sequence.index];
  auto prompt_length = static_cast<std::ptrdiff_t>(sequence.request.prompt.size());
  result.ids.assign(sequence.tokens.begin() + prompt_length, sequence.tokens.end());
  result.finish_reason = reason;
  result.prompt_tokens = prompt_length + static_cast<std::ptrdiff_t>(sequence.request.source.size());
  if (!result.ids.empty()) {
    result.first_token_seconds = std::chrono::duration<double>(sequence.first_token - sequence.start).count();
    result.decode_seconds = seconds_since(sequence.first_token);
  }
  sequence.is_finished = true;
  if (ahead_) {
    auto place = std::ranges::find(ahead_->sampled, &sequence);
    if (place != ahead_->sampled.end()) {
      *place = nullptr;
      --sequence.cached;
    }
  }
  if (hooks_->on_finish) hooks_->on_finish(sequence.index, result);
}

/// Frees the slots of finished sequences; what they hold stays for later prompts.
void Generator::remove_finished() {
  for (auto& sequence : active_) {
    if (!sequence->is_finished) continue;
    Slot& slot = slots_[static_cast<size_t>(sequence->slot)];
    last_ = {.ids = sequence->tokens, .cached = sequence->cached};
    last_slot_ = sequence->slot;
    sequence->tokens.resize(static_cast<size_t>(sequence->cached));
    slot.tokens = std::move(sequence->tokens);
    slot.sequence = nullptr;
  }
  std::erase_if(active_, [](const auto& sequence) { return sequence->is_finished; });
}

}  // namespace weft
