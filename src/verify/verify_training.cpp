// Loss and gradients against a golden file, parameter by parameter, in the layout that the checkpoint stores them in.
#include "core/error.h"
#include "models/weight_layout.h"
#include "verify/low_rank.h"
#include "verify/verify_session.h"

namespace weft {
namespace {

/// "lora/X/lora_kernel_a" to "grads/lora/X/lora_kernel_a".
void compare_low_rank(VerifySession& session,
                      const LowRankFactors& factors,
                      std::string_view grads_group,
                      const std::vector<float>& gradient) {
  LowRankGradients gradients = low_rank_gradients(factors, gradient);
  std::string a_dataset = std::string(grads_group) + "/" + factors.a_dataset;
  std::string b_dataset = std::string(grads_group) + "/" + factors.b_dataset;
  if (session.golden().has(a_dataset)) session.compare_gradient(a_dataset, gradients.a);
  if (session.golden().has(b_dataset)) session.compare_gradient(b_dataset, gradients.b);
}

}  // namespace

void verify_training(VerifySession& session,
                     const Batch& batch,
                     const TrainingTargets& targets,
                     const WeightMap& map,
                     std::string_view loss_dataset,
                     std::string_view grads_group) {
  LanguageModel& model = session.model(true);
  GoldenFile& golden = session.golden();
  const OpenedModel& opened = session.opened();
  std::vector<LowRankFactors> low_rank = read_low_rank_factors(golden, opened, model);
  double loss = run_training_pass(
      session.context(), model, batch, targets, [&](const Parameter& parameter, std::vector<float> gradient) {
        if (gradient.empty()) gradient.assign(static_cast<size_t>(parameter.full_shape.num_elements()), 0.0f);
        WeightSource source = find_source(map, parameter, model.info().num_layers);
        std::vector<float> in_format = to_format(source.transform, parameter, gradient, true);
        std::string dataset = std::string(grads_group) + "/" + source.theirs;
        if (golden.has(dataset) && source.part.total > 0) {
          session.compare_gradient_part(dataset, parameter, source, gradient);
        } else if (golden.has(dataset)) {
          session.compare_gradient(dataset, in_format);
        }
        for (const LowRankFactors& factors : low_rank) {
          if (factors.parameter == parameter.name) compare_low_rank(session, factors, grads_group, in_format);
        }
      });
  session.compare_scalar(loss_dataset, "loss", session.tolerances().get("loss"), loss);
}

}  // namespace weft
