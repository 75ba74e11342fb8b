// Continues prompts: any number at a time, each with its own options, over a cache whose slots are reused as answers
// end.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generate/sampler.h"
#include "generate/session.h"
#include "generate/token_logprobs.h"
#include "models/model.h"
#include "tokenizer/tokenizer.h"

namespace weft {

struct GenerationRequest {
  std::vector<int32_t> prompt;
  /// Of encoder-decoders: what the encoder reads. Their prompt is what the answer starts with.
  std::vector<int32_t> source = {};
  Condition condition = {};  // of models whose norms take one
  SamplerOptions sampling;
  /// Tells apart the draws of requests with the same seed: the index in what the user asked for.
  uint64_t sequence = 0;
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;  // before this many, no end id is drawn
  std::vector<int32_t> end_ids;
  std::vector<std::string> stop_strings;  // the answer ends before the first of them; needs a tokenizer
  int64_t num_logprobs = -1;  // of the likeliest tokens beside each drawn one's; negative: no log probabilities
};

enum class FinishReason : uint8_t { length, end, stop, interrupted };

/// Gives a request (of beams, too) its text: as the prompt, or, of an encoder-decoder, as the source.
template <typename Request>
void set_text(Request& request, const ModelInfo& info, const std::vector<int32_t>& text) {
  if (info.has_source) {
    request.source = text;
    request.prompt = {info.start_id};
  } else {
    request.prompt = text;
  }
}

/// "length", "end", "stop", "interrupted"
std::string_view finish_reason_name(FinishReason reason);

struct GenerationResult {
  std::vector<int32_t> ids;  // the answer, with the end id that ended it
  std::string text;          // without it and without special tokens; empty without a tokenizer
  FinishReason finish_reason = FinishReason::length;
  int64_t prompt_tokens = 0;
  double first_token_seconds = 0;       // from its turn to the first token
  double decode_seconds = 0;            // from the first token to the last
  double score = 0;                     // of beam search: what the answers of a request are compared by
  std::vector<TokenLogprobs> logprobs;  // one an id, where the request asks for them
};

/// A token as it is drawn.
struct DrawnToken {
  size_t request = 0;
  int32_t id = 0;
  std::string_view text;                    // what became certain with it (may be empty); none with the end id
  const TokenLogprobs* logprobs = nullptr;  // where the request asks for them
};

/// Totals over all calls of run.
struct GenerationStats {
  int64_t prompt_tokens = 0;  // computed
  int64_t reused_tokens = 0;  // of prompts, found in the cache
  int64_t new_tokens = 0;
  double prefill_seconds = 0;  // of the steps that had a part of a prompt in them
  double decode_seconds = 0;   // of the others
};

struct GeneratorOptions {
  DType cache_dtype = DType::f32;
  int64_t max_batch = 8;        // answers that grow at a time
  int64_t prefill_chunk = 512;  // prompt tokens computed at a time
  const Tokenizer* tokenizer = nullptr;
};

struct GenerationHooks {
  std::function<void(const DrawnToken& token)> on_token;
  /// Every result when it is complete, in the order of finishing.
  std::function<void(size_t request, const GenerationResult& result)> on_finish;
  /// Asked before every step; on true all answers end as they are. Must give the same answer on every rank.
  std::function<bool()> should_stop;
};

/// Where requests come from while others are being answered. They are numbered in the order of their coming.
class RequestFeed {
 public:
  struct Update {
    std::vector<GenerationRequest> requests;  // any number
    std::vector<size_t> cancelled;            // whose answers end as they are
    bool is_closed = false;                   // nothing more will come
  };

  virtual ~RequestFeed() = default;
  /// Asked before every step, while not closed. `places`: answers that could begin now. `is_idle`: nothing is being
  /// answered, so it may wait. Must give the same on every rank.
  virtual Update next(int64_t places, bool is_idle) = 0;
};

/// Every rank runs the same requests and takes the same decisions, since all see the same logits. What the cache holds
/// stays from call to call: a prompt that begins like an earlier one or like its answer is computed only from where
/// they part.
class Generator {
 public:
  /// Keeps references to both.
  Generator(Context& context, LanguageModel& model, const GeneratorOptions& options);
  ~Generator();

  /// One result a request, in order. Throws Error(bad_input) for a prompt that is empty, beyond the context or has
  /// unknown ids, and Error(usage) for options without a meaning, before anything is computed.
  std::vector<GenerationResult> run(std::span<const GenerationRequest> requests, const GenerationHooks& hooks = {});

  /// Answers what the feed gives until it is closed and all is answered, or `should_stop` says so. Throws as run does;
  /// a feed that takes requests from outside checks them first.
  void serve(RequestFeed& feed, const GenerationHooks& hooks);

  /// Throws what run would throw for a request. `index` is for the message.
  void check(const GenerationRequest& request, size_t index) const;

  /// Makes room for that many answers at a time of so many tokens, prompts among them, and sources; never less than
  /// there is. Not while answers grow.
  void reserve(int64_t answers, int64_t tokens, int64_t source_tokens);

  const GenerationStats& stats() const { return stats_; }

  /// Writes what the cache holds of the sequence that ended last, or was loaded; ranks that share the weights each
  /// their part, PATH.0-of-2 and so on. Throws Error(bad_input), also when there is none.
  void save_session(const std::string& path, const std::string& notes = {});
  /// Before any run: puts a saved sequence into the cache. A prompt that begins with its ids goes on from there.
  Session load_session(const std::string& path);

 private:
  struct Sequence;
  /// Where a token is chosen, and how: on the device the likeliest one or, where more is asked for, by its sampler.
  enum class Choice : uint8_t { host, argmax, sample };
  /// A pass of the model that has been queued, and whose results may not be there yet.
  struct Pass {
    std::vector<Sequence*> sampled;       // a row each; null: has ended meanwhile
    Choice choice = Choice::host;         // of their tokens
    Tensor results;                       // on the host, once `wait` was called: ids in i32, or logits
    const int32_t* device_ids = nullptr;  // where the device finds those ids
    std::function<void()> wait;
    int64_t prompt_tokens = 0;
  };
  struct Slot {
    std::vector<int32_t> tokens;  // whose keys and values it holds; current only while free
    Sequence* sequence = nullptr;
  };

  void check_sessions() const;
  std::string rank_path(const std::string& session) const;
  void check_same_session(const std::string& path) const;
  void make_cache(int64_t num_slots, int64_t tokens, int64_t source_tokens);
  bool make_room();
  void cancel(size_t index);
  void interrupt();
  void admit_waiting();
  void admit(std::unique_ptr<Sequence> sequence);
  void find_shared_prefix(Sequence& sequence);
  void step();
  Pass queue_pass(const Pass* before);
  void fill_batch(Pass& pass, const Pass* before);
  bool can_run_ahead(const Pass& pass) const;
  void add_to_batch(Sequence& sequence, int64_t count, Pass& pass);
  bool sees_whole_prompt() const;
  bool shares_prefixes() const;
  void copy_from_donors();
  TokenRequest token_request(const Sequence& sequence, bool has_late_id) const;
  void plan_choice(Pass& pass, const Pass* before);
  void compute(Pass& pass, const Pass* before);
  void choose_on_device(const Pass& pass, const Pass* before, Tensor& logits);
  void draw(Pass& pass);
  void drop_pass_ahead();
  void accept(Sequence& sequence, int32_t id, const TokenLogprobs* logprobs = nullptr);
  void finish(Sequence& sequence, FinishReason reason);
  void remove_finished();

  Context& context_;
  LanguageModel& model_;
  GeneratorOptions options_;
  Sampler sampler_;
  std::unique_ptr<KvCache> cache_;
  std::vector<Slot> slots_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> active_;
  const GenerationHooks* hooks_ = nullptr;
  GenerationStats stats_;
  Session last_;  // what ended last, in slot last_slot_
  int64_t last_slot_ = 0;

  // Reused from step to step.
  Batch batch_;
  std::vector<int32_t> rows_;
  std::vector<float> converted_row_;
  std::vector<float> logits_before_;  // the sampler
  SampleBatch choices_;

  // The pass after the one whose results are read, where the device need not wait for the host.
  std::optional<Pass> ahead_;
  int next_ids_ = 0;                // of the two below, which passes use in turns
  std::array<Tensor, 2> ids_;       // [max_batch], on the device
  std::array<Tensor, 2> host_ids_;  // the same on the host
};

}  // namespace weft
