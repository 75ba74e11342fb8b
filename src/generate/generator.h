// Continues prompts: any number at a time, each with its own options, over a cache whose slots are reused as answers
// end.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generate/sampler.h"
#include "generate/session.h"
#include "models/model.h"
#include "tokenizer/tokenizer.h"

namespace weft {

struct GenerationRequest {
  std::vector<int32_t> prompt;
  /// Of encoder-decoders: what the encoder reads. Their prompt is what the answer starts with.
  std::vector<int32_t> source = {};
  SamplerOptions sampling;
  /// Tells apart the draws of requests with the same seed: the index in what the user asked for.
  uint64_t sequence = 0;
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;  // before this many, no end id is drawn
  std::vector<int32_t> end_ids;
  std::vector<std::string> stop_strings;  // the answer ends before the first of them; needs a tokenizer
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
  double first_token_seconds = 0;  // from its turn to the first token
  double decode_seconds = 0;       // from the first token to the last
  double score = 0;                // of beam search: what the answers of a request are compared by
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
  /// Every token as it is drawn; `text` is what became certain with it (may be empty), none with the end id.
  std::function<void(size_t request, int32_t id, std::string_view text)> on_token;
  /// Every result when it is complete, in the order of finishing.
  std::function<void(size_t request, const GenerationResult& result)> on_finish;
  /// Asked before every step; on true all answers end as they are. Must give the same answer on every rank.
  std::function<bool()> should_stop;
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

  void check(const GenerationRequest& request, size_t index) const;
  void check_sessions() const;
  std::string rank_path(const std::string& session) const;
  void check_same_session(const std::string& path) const;
  void reserve_cache(std::span<const GenerationRequest> requests);
  void make_cache(int64_t num_slots, int64_t tokens, int64_t source_tokens);
  void admit(std::span<const GenerationRequest> requests, size_t index);
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
  void accept(Sequence& sequence, int32_t id);
  void finish(Sequence& sequence, FinishReason reason);
  void remove_finished();

  Context& context_;
  LanguageModel& model_;
  GeneratorOptions options_;
  Sampler sampler_;
  std::unique_ptr<KvCache> cache_;
  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<Sequence>> active_;
  std::vector<GenerationResult>* results_ = nullptr;
  const GenerationHooks* hooks_ = nullptr;
  GenerationStats stats_;
  Session last_;  // what ended last, in slot last_slot_
  int64_t last_slot_ = 0;

  // Reused from step to step.
  Batch batch_;
  std::vector<int32_t> rows_;
  std::vector<float> converted_row_;
  SampleBatch choices_;

  // The pass after the one whose results are read, where the device need not wait for the host.
  std::optional<Pass> ahead_;
  int next_ids_ = 0;                // of the two below, which passes use in turns
  std::array<Tensor, 2> ids_;       // [max_batch], on the device
  std::array<Tensor, 2> host_ids_;  // the same on the host
};

}  // namespace weft
