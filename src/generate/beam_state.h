// The decisions of a beam search over one prompt, without a model: which beams go on, which are answers, when it is
// over.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "generate/beam_candidates.h"

namespace weft {

/// `transformers`: generate(num_beams=…, do_sample=False) of Hugging Face. Beams that end compete with each other by
/// their score over length^length_penalty; those that run are filled up by the next best. `bert4keras`:
/// AutoRegressiveDecoder.beam_search. The sum alone counts; it is over when the best beam has ended, and other beams
/// that end are lost.
enum class BeamMode : uint8_t { transformers, bert4keras };

/// When a search with as many answers as beams is over. `no`: when the best running beam would not be good enough at
/// its present length; `yes`: at once; `never`: when it could not become good enough at any length.
enum class EarlyStopping : uint8_t { no, yes, never };

struct BeamOptions {
  int64_t num_beams = 4;
  BeamMode mode = BeamMode::transformers;
  double length_penalty = 1.0;  // above 0 favours long answers, below 0 short ones
  EarlyStopping early_stopping = EarlyStopping::no;
  int64_t min_ends = 1;  // bert4keras: end ids in an answer before it may end
};

/// Throws Error(usage) for values without a meaning.
void check_beam_options(const BeamOptions& options);

struct BeamLimits {
  int64_t min_new_tokens = 0;
  int64_t max_new_tokens = 0;
  std::vector<int32_t> end_ids;
};

struct Beam {
  double score = 0;  // sum of the logs of the tokens' probabilities
  int32_t parent = 0;
  std::vector<int32_t> ids;  // after the prompt
};

/// A complete answer.
struct BeamAnswer {
  double score = 0;  // as they are compared: with the length penalty, if there is one
  std::vector<int32_t> ids;
  bool is_ended = false;  // by an end id
};

class BeamState {
 public:
  /// Keeps references to both. Begins with one beam without tokens.
  BeamState(const BeamOptions& options, const BeamLimits& limits);

  /// The beams that run, best first.
  const std::vector<Beam>& beams() const { return beams_; }
  /// So many continuations of them are wanted at the next step.
  size_t num_candidates() const;
  BeamScore score_kind() const {
    return options_.mode == BeamMode::transformers ? BeamScore::rounded : BeamScore::floored;
  }
  /// Whether end ids are impossible at the next step. bert4keras lets them come, but not end the answer.
  bool forbids_ends() const;

  /// A step: the best continuations of the beams, best first. Afterwards the beams are those of the next step.
  void advance(std::span<const BeamCandidate> candidates);
  bool is_finished() const { return is_finished_; }

  /// Complete answers, best first, at most as many as beams; none is complete before the end with bert4keras.
  const std::vector<BeamAnswer>& answers() const { return answers_; }
  /// Ends the search as it is: what runs counts as answers too.
  void interrupt();

 private:
  bool is_end(int32_t id) const;
  Beam extend(const BeamCandidate& candidate) const;
  double normalise(double score, int64_t length) const;
  void add_answer(Beam beam, bool is_ended);
  void advance_as_transformers(std::span<const BeamCandidate> candidates);
  bool can_improve() const;
  void advance_as_bert4keras(std::span<const BeamCandidate> candidates);
  bool is_complete(const Beam& beam) const;

  const BeamOptions& options_;
  const BeamLimits& limits_;
  int64_t width_;       // beams that may run
  int64_t length_ = 0;  // tokens of each
  std::vector<Beam> beams_;
  std::vector<BeamAnswer> answers_;
  bool is_finished_ = false;
};

}  // namespace weft
