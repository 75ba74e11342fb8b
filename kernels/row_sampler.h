// The choice of a token on the host.
#pragma once

#include <span>
#include <vector>

#include "kernels/sampling.h"

namespace weft {

/// Position of the largest value, the first one on ties. Not-a-numbers lose.
int64_t argmax(std::span<const float> values);

/// Holds the scratch memory, so that sampling allocates nothing once warm. One a thread.
class RowSampler {
 public:
  /// The token, or −1 (SampleArgs). `changes` are the row's own; `late_id` is −1 where there is none.
  int32_t sample(std::span<float> logits,
                 const SampleChoice& choice,
                 std::span<const LogitChange> changes,
                 int32_t late_id = -1);

  /// The part of it before the choice.
  void change(std::span<float> logits,
              const SampleChoice& choice,
              std::span<const LogitChange> changes,
              int32_t late_id = -1);

 private:
  struct Candidate {
    float weight;
    int32_t id;
  };
  static bool is_better(const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  }

  double weigh(std::span<const float> logits, float best, float scale);
  Candidate find_cut(double total, const SampleChoice& choice);
  Candidate top_k_cut(int64_t k);
  Candidate top_p_cut(double mass, double total, const Candidate& cut);
  int32_t draw(const Candidate& cut, double uniform);

  std::vector<float> banned_logits_;  // of what is banned with its share
  std::vector<float> weights_;        // probabilities times a common factor
  std::vector<double> block_sums_;
  std::vector<Candidate> candidates_;
};

/// SamplingKernels::sample where logits, ids and late ids lie on the host.
void sample_on_host(const SampleArgs& args);

}  // namespace weft
