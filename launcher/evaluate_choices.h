// weft evaluate --task choices.
#pragma once

#include "launcher/common.h"
#include "launcher/evaluation_report.h"

namespace weft {

struct ChoiceOptions {
  std::string delimiter = " ";  // between a prompt and each of its choices
  bool is_raw = false;          // no special tokens before the prompt
};

/// Scores of one choice for each question, by what the model holds likely, and a line of JSON a question for
/// predictions. Collective over the mesh.
struct ChoiceScores {
  EvaluationReport report;
  std::string predictions;  // of this rank's questions, where they are kept
};
ChoiceScores evaluate_choices(InferenceModel& loaded,
                              const std::vector<std::string>& files,
                              const ChoiceOptions& options,
                              bool keeps_predictions,
                              bool shows_progress);

}  // namespace weft
