// The losses of pairs of answers of which one is preferred.
#pragma once

#include <cstdint>
#include <memory>

#include "tasks/objective.h"

namespace weft {

/// h is the margin: how much more than the reference the model prefers the chosen answer,
/// (log π(chosen) − log ref(chosen)) − (log π(rejected) − log ref(rejected)).
enum class PreferenceLoss : uint8_t {
  sigmoid,  // −log σ(β·h) (DPO: Rafailov et al., 2023)
  hinge,    // max(0, 1 − β·h) (SLiC: Zhao et al., 2023)
  ipo       // (h − 1/(2β))², of log probabilities that are means over an answer's tokens (Azar et al., 2023)
};

/// Where the reference's log probabilities come from. Either way it is the model that training starts from.
enum class PreferenceReference : uint8_t {
  without_adapter,  // the model with its adapter switched off, at every step: of a new adapter that trains nothing else
  computed_first    // of all pairs before the first step
};

struct PreferenceOptions {
  PreferenceLoss loss = PreferenceLoss::sigmoid;
  double beta = 0.1;
  double label_smoothing = 0;  // of sigmoid: the part of the pairs that is taken to be the wrong way round
  double sft_weight = 0;       // adds sft_weight · mean over the chosen answer's tokens of −log π
  PreferenceReference reference = PreferenceReference::computed_first;
  int64_t num_pairs = 0;  // labels are below it
};

struct PreferenceLossValue {
  double value = 0;
  double slope = 0;  // its derivative by the margin
};
PreferenceLossValue preference_loss(double margin, const PreferenceOptions& options);

/// Pairs of sequences next to each other, the chosen answer before the rejected one, both with their pair's number as
/// label. Metrics, also of training steps: accuracy, how often the margin is above 0; margin, chosen_reward and
/// rejected_reward, means of β·h and of its two parts.
std::unique_ptr<Objective> make_preference_objective(const PreferenceOptions& options);

}  // namespace weft
