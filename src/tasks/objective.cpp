#include "tasks/objective.h"

namespace weft {
namespace {

class LanguageObjective final : public Objective {
 public:
  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    std::vector<float> weights = input.micro_batch.weights;
    for (float& weight : weights) weight *= input.factor;
    LanguageModelLoss result = language_model_loss(
        context, input.model, input.hidden, input.micro_batch.targets, weights, LossReduction::sum, &input.batch);
    return {.loss = result.loss, .token_loss = result.token_loss};
  }
};

}  // namespace

std::unique_ptr<Objective> make_language_objective() {
  return std::make_unique<LanguageObjective>();
}

}  // namespace weft
