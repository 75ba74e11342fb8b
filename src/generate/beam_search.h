// Beam search: the likeliest answers as a whole, several a prompt, over a cache in which beams stay where they are.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "generate/beam_candidates.h"
#include "generate/beam_state.h"
#include "generate/generator.h"

namespace weft {

struct BeamRequest {
  std::vector<int32_t> prompt;
  std::vector<int32_t> source = {};  // as in GenerationRequest
  Condition condition = {};          // likewise
  BeamOptions beams;
  int64_t num_results = 1;  // at most as many as beams; 1 with bert4keras
  /// Of it the temperature, the penalty and the forbidden ids, which change log probabilities without making their sum
  /// 1 again.
  SamplerOptions sampling;
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;  // before this many no answer ends
  std::vector<int32_t> end_ids;
};

/// Best first, each with its score; fewer than asked for where there are no more.
using BeamResults = std::vector<GenerationResult>;

struct BeamSearchOptions {
  DType cache_dtype = DType::f32;
  int64_t max_batch = 8;        // beams that grow at a time; of one request all, however many
  int64_t prefill_chunk = 512;  // prompt tokens computed at a time
  const Tokenizer* tokenizer = nullptr;
};

struct BeamSearchHooks {
  /// Every request's results when they are complete, in the order of finishing.
  std::function<void(size_t request, const BeamResults& results)> on_finish;
  /// Asked before every step; on true all searches end as they are. Must give the same answer on every rank.
  std::function<bool()> should_stop;
};

/// Every rank runs the same requests and takes the same decisions, since all see the same logits.
class BeamSearch {
 public:
  /// Keeps references to both.
  BeamSearch(Context& context, LanguageModel& model, const BeamSearchOptions& options);
  ~BeamSearch();

  /// The results of each request, in order; they depend on no other request. None for those that an interruption kept
  /// from beginning. Throws Error(bad_input) for a prompt that is empty, beyond the context or has unknown ids, and
  /// Error(usage) for options without a meaning, before anything is computed.
  std::vector<BeamResults> run(std::span<const BeamRequest> requests, const BeamSearchHooks& hooks = {});

  /// A token of every beam counts.
  const GenerationStats& stats() const { return stats_; }

 private:
  struct Search;

  void check(const BeamRequest& request, size_t index) const;
  void reserve_cache(std::span<const BeamRequest> requests);
  bool has_room(const BeamRequest& request) const;
  void admit(const BeamRequest& request, size_t index);
  void step();
  void clear_step();
  void add_beams(Search& search);
  void add_prompt(Search& search, int64_t count);
  void add_to_batch(const Search& search, std::span<const int32_t> ids, const BatchSequence& place, int32_t segment);
  bool sees_whole_prompt() const { return model_.info().attention == AttentionPattern::prefix; }
  void decide(Tensor& logits);
  void find_candidates(Search& search, std::span<float> log_probs);
  void adjust(const Search& search, const Beam& beam, std::span<float> log_probs);
  void move_beams(Search& search);
  void finish(Search& search);
  GenerationResult to_result(const Search& search, const BeamAnswer& answer) const;
  void remove_finished();

  Context& context_;
  LanguageModel& model_;
  BeamSearchOptions options_;
  Sampler sampler_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int64_t> free_slots_;
  std::vector<std::unique_ptr<Search>> active_;
  std::vector<BeamResults>* results_ = nullptr;
  const BeamSearchHooks* hooks_ = nullptr;
  GenerationStats stats_;

  // Reused from step to step.
  Batch batch_;
  std::vector<int32_t> rows_;
  std::vector<Search*> deciding_;
  BeamCandidates candidates_;
  std::vector<float> converted_logits_;
  std::vector<double> temperatures_;
  std::vector<int32_t> past_;
  std::vector<int32_t> parents_;
};

}  // namespace weft
