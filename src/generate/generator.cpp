#include "generate/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/crc32c.h"
#include "core/error.h"
#include "generate/generator_sequence.h"
#include "generate/request_support.h"
#include "parallel/communicator.h"

namespace weft {

namespace {

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

/// What a cached layer's slot holds of a head's first tokens.
Tensor head_tokens(const Tensor& layer, int64_t slot, int64_t head, int64_t tokens) {
  Tensor heads = layer.slice(slot, slot + 1).reshape({layer.size(1) * layer.size(2), layer.size(3)});
  return heads.slice(head * layer.size(2), head * layer.size(2) + tokens);
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

Generator::Generator(Context& context, LanguageModel& model, const GeneratorOptions& options)
    : context_(context), model_(model), options_(options), sampler_(model.info().vocab_size) {
  if (options_.max_batch < 1)
    fail(ExitCode::usage, "the batch must hold at least 1 sequence, not {}", options_.max_batch);
  if (options_.prefill_chunk < 1) {
    fail(ExitCode::usage, "prompts are computed at least 1 token at a time, not {}", options_.prefill_chunk);
  }
}

Generator::~Generator() = default;

namespace {

/// Requests that are all there from the start.
class GivenRequests final : public RequestFeed {
 public:
  explicit GivenRequests(std::span<const GenerationRequest> requests) : requests_(requests) {}

  Update next(int64_t places, bool) override {
    Update update;
    auto count = std::min(static_cast<size_t>(places), requests_.size());
    update.requests.assign(requests_.begin(), requests_.begin() + static_cast<std::ptrdiff_t>(count));
    requests_ = requests_.subspan(count);
    update.is_closed = requests_.empty();
    return update;
  }

 private:
  std::span<const GenerationRequest> requests_;
};

}  // namespace

std::vector<GenerationResult> Generator::run(std::span<const GenerationRequest> requests,
                                             const GenerationHooks& hooks) {
  for (size_t index = 0; index < requests.size(); ++index) check(requests[index], index);
  std::vector<GenerationResult> results(requests.size());
  if (requests.empty()) return results;
  int64_t tokens = 0;
  int64_t source_tokens = 0;
  for (size_t index = 0; index < requests.size(); ++index) {
    results[index].finish_reason = FinishReason::interrupted;
    source_tokens = std::max(source_tokens, std::ssize(requests[index].source));
    const std::vector<int32_t>& prompt = requests[index].prompt;
    int64_t limit = answer_limit(model_.info(), prompt, requests[index].max_new_tokens);
    tokens = std::max(tokens, std::ssize(prompt) + limit);
  }
  reserve(std::ssize(requests), tokens, source_tokens);
  GenerationHooks collecting = hooks;
  collecting.on_finish = [&](size_t index, const GenerationResult& result) {
    results[index] = result;
    if (hooks.on_finish) hooks.on_finish(index, result);
  };
  GivenRequests feed(requests);
  serve(feed, collecting);
  return results;
}

void Generator::serve(RequestFeed& feed, const GenerationHooks& hooks) {
  hooks_ = &hooks;
  drop_pass_ahead();  // of a run that failed
  waiting_.clear();
  active_.clear();
  for (Slot& slot : slots_) slot.sequence = nullptr;
  RequestFeed::Update update;
  for (size_t index = 0; !update.is_closed || !waiting_.empty() || !active_.empty();) {
    if (hooks.should_stop && hooks.should_stop()) {
      interrupt();
      break;
    }
    if (!update.is_closed) {
      int64_t busy = std::ssize(active_) + std::ssize(waiting_);
      update = feed.next(std::max<int64_t>(options_.max_batch - busy, 0), busy == 0);
      for (size_t cancelled : update.cancelled) cancel(cancelled);
      for (GenerationRequest& request : update.requests) {
        check(request, index);
        waiting_.push_back(std::make_unique<Sequence>(std::move(request), index++, options_.tokenizer, model_.info()));
      }
    }
    admit_waiting();
    if (!active_.empty()) step();
  }
  drop_pass_ahead();
}

void Generator::cancel(size_t index) {
  auto place = std::ranges::find(waiting_, index, [](const auto& sequence) { return sequence->index; });
  if (place != waiting_.end()) {
    finish(**place, FinishReason::interrupted);
    waiting_.erase(place);
    return;
  }
  for (auto& sequence : active_) {
    if (sequence->index == index) finish(*sequence, FinishReason::interrupted);
  }
  for (auto& sequence : active_) {
    if (sequence->donor && sequence->donor->is_finished) sequence->donor = nullptr;
  }
  remove_finished();
}

void Generator::interrupt() {
  for (auto& sequence : active_) finish(*sequence, FinishReason::interrupted);
  for (auto& sequence : waiting_) finish(*sequence, FinishReason::interrupted);
  remove_finished();
  waiting_.clear();
}

void Generator::admit_waiting() {
  while (!waiting_.empty() && std::ssize(active_) < options_.max_batch) {
    if (!make_room()) break;
    admit(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

/// For the sequence that waits longest. False: not while others are being answered.
bool Generator::make_room() {
  const Sequence& sequence = *waiting_.front();
  auto source_tokens = std::ssize(sequence.request.source);
  bool is_there = cache_ && std::ssize(active_) < cache_->num_slots() &&
                  sequence.max_tokens() <= cache_->max_tokens() && source_tokens <= cache_->max_source_tokens();
  if (is_there) return true;
  // What was computed of sources is not copied.
  if (model_.info().has_source && !active_.empty()) return false;
  reserve(std::ssize(active_) + std::ssize(waiting_), sequence.max_tokens(), source_tokens);
  return true;
}

void Generator::check(const GenerationRequest& request, size_t index) const {
  check_sampler_options(request.sampling, model_.info().vocab_size);
  check_prompt(model_.info(), request.prompt, request.source, index);
  check_condition(model_.info(), request.condition);
  check_max_new_tokens(request.max_new_tokens);
  if (!request.stop_strings.empty() && !options_.tokenizer) fail(ExitCode::usage, "stop strings need a tokenizer");
}

/// A cache that grows at least doubles, so that a long conversation copies little.
void Generator::reserve(int64_t answers, int64_t tokens, int64_t source_tokens) {
  int64_t num_slots = std::min(options_.max_batch, answers);
  if (cache_) {
    bool has_slots = cache_->num_slots() >= num_slots;
    bool has_tokens = cache_->max_tokens() >= tokens;
    if (has_slots && has_tokens && cache_->max_source_tokens() >= source_tokens) return;
    source_tokens = std::max(source_tokens, cache_->max_source_tokens());
    if (!has_slots) num_slots = std::min(options_.max_batch, std::max(num_slots, 2 * cache_->num_slots()));
    num_slots = std::max(num_slots, cache_->num_slots());
    if (!has_tokens) tokens = std::max(tokens, 2 * cache_->max_tokens());
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
    const Sequence* sequence = slots_[slot].sequence;
    int64_t held = sequence != nullptr ? sequence->cached : std::ssize(slots_[slot].tokens);
    copy_cache(*cache_, *cache, static_cast<int64_t>(slot), held);
  }
  cache_ = std::move(cache);
  slots_.resize(static_cast<size_t>(num_slots));
}

/// What a source or a prompt that sees itself whole left in the cache says nothing of what follows.
void Generator::check_sessions() const {
  if (shares_prefixes()) return;
  if (model_.info().condition.is_there()) fail_input("a session knows no condition, which this model's norms take");
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

void Generator::admit(std::unique_ptr<Sequence> sequence) {
  sequence->start = GenerationClock::now();
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
  return !sees_whole_prompt() && !model_.info().has_source && !model_.info().condition.is_there();
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

void Generator::accept(Sequence& sequence, int32_t id, const TokenLogprobs* logprobs) {
  if (sequence.num_new() == 0) sequence.first_token = GenerationClock::now();
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
  sequence.result.text += text;
  if (logprobs != nullptr) sequence.result.logprobs.push_back(*logprobs);
  if (hooks_->on_token) hooks_->on_token({.request = sequence.index, .id = id, .text = text, .logprobs = logprobs});
  if (sequence.filter.found()) {
    finish(sequence, FinishReason::stop);
  } else if (is_last) {
    finish(sequence, is_end ? FinishReason::end : FinishReason::length);
  }
}

void Generator::finish(Sequence& sequence, FinishReason reason) {
  GenerationResult& result = sequence.result;
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
