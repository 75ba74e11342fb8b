// The best continuations of several beams, without sorting the vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace weft {

/// A beam and the token that may follow it.
struct BeamCandidate {
  double score = 0;  // of the beam with that token
  int32_t beam = 0;
  int32_t id = 0;
};

/// How a beam's score grows by a token: `rounded` f32(score + log p) in f32, as transformers; `floored` score + log(p +
/// 1e-12) in f64, as bert4keras3.
enum class BeamScore : uint8_t { rounded, floored };

/// Logits to the log of their softmax at a temperature, in place. Throws Error(bad_input) when no logit is finite.
void log_softmax(std::span<float> logits, double temperature);

/// The same for rows of equal width, each with its temperature, shared among threads.
void log_softmax_rows(std::span<float> logits, std::span<const double> temperatures, int num_threads);

/// Keeps the best of all that it is shown; on ties those of the first beam, of the lowest id.
class BeamCandidates {
 public:
  /// Begins anew, for `capacity` candidates.
  void reset(size_t capacity, BeamScore score);
  /// Shows it all tokens after a beam. Beams come in order.
  void add(int32_t beam, double score, std::span<const float> log_probs);
  /// Those kept, best first. Tokens that are impossible (−infinity, not a number) are never among them.
  std::span<const BeamCandidate> sort();

 private:
  double total(double score, float log_prob) const;
  bool is_welcome(double score) const;

  size_t capacity_ = 0;
  BeamScore score_ = BeamScore::rounded;
  std::vector<BeamCandidate> heap_;  // the worst in front
};

}  // namespace weft
