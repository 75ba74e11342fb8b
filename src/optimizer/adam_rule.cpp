#include "optimizer/adam_rule.h"

#include <cmath>

#include "optimizer/collectives.h"
#include "optimizer/update_rule.h"

namespace weft {

AdamCoefficients adam_coefficients(const OptimizerOptions& options, int64_t update) {
  if (!options.bias_correction) return {};
  auto t = static_cast<double>(update);
  double first = 1 - std::pow(options.beta1, t), root_of_second = std::sqrt(1 - std::pow(options.beta2, t));
  if (options.epsilon_placement == EpsilonPlacement::keras) return {root_of_second / first, 1};
  return {1 / first, 1 / root_of_second};
}

AdamMoments::AdamMoments(PieceSet& pieces, const std::function<bool(size_t index)>& wanted)
    : pieces_(pieces),
      exp_avg_(pieces.add_state("exp_avg", wanted)),
      exp_avg_sq_(pieces.add_state("exp_avg_sq", wanted)) {}

AdamArgs AdamMoments::args(size_t index, const ElementRun& run, const OptimizerStep& step) const {
  const OptimizerOptions& options = pieces_.options();
  return {.weight = pieces_.weight(index, step.update).from(run.begin),
          .grad = pieces_.grad(index) + run.begin,
          .exp_avg = exp_avg_[index].pointer<float>() + run.begin,
          .exp_avg_sq = exp_avg_sq_[index].pointer<float>() + run.begin,
          .count = run.end - run.begin,
          .gradient_scale = step.gradient_scale,
          .beta1 = options.beta1,
          .beta2 = options.beta2,
          .epsilon = options.epsilon,
          .root_scale = adam_coefficients(options, step.update).root_scale};
}

void AdamMoments::update(size_t index, const OptimizerStep& step) const {
  const PieceSettings& settings = pieces_.settings(index);
  double learning_rate = step.learning_rate * settings.learning_rate_factor;
  for (const ElementRun& run : pieces_.active_runs(index)) {
    AdamArgs adam = args(index, run, step);
    adam.rate = learning_rate * adam_coefficients(pieces_.options(), step.update).scale;
    adam.decay = learning_rate * settings.weight_decay;
    pieces_.kernels().adam(adam, pieces_.stream());
  }
}

namespace {

class AdamRule : public UpdateRule {
 public:
  explicit AdamRule(PieceSet& pieces) : pieces_(pieces), moments_(pieces) {}

  void step(const OptimizerStep& step) override {
    for (size_t index = 0; index < pieces_.size(); ++index) moments_.update(index, step);
  }

 private:
  PieceSet& pieces_;
  AdamMoments moments_;
};

/// "Large batch optimization for deep learning: training BERT in 76 minutes" (You et al., 2019). With lazy rows the
/// norms are of the rows that move.
class LambRule : public UpdateRule {
 public:
  explicit LambRule(PieceSet& pieces) : pieces_(pieces), moments_(pieces) { pieces.make_directory(); }

  void step(const OptimizerStep& step) override {
    std::vector<double> sums = update_moments(step);
    sum_over_pieces(pieces_.context(), pieces_.sharing(), sums);
    for (size_t index = 0; index < pieces_.size(); ++index) {
      const double* norms = &sums[2 * pieces_.settings(index).parameter_index];
      update_weights(index, step, std::sqrt(norms[0]), std::sqrt(norms[1]));
    }
  }

 private:
  /// Σ w² and Σ update² of each parameter, of this rank's pieces.
  std::vector<double> update_moments(const OptimizerStep& step) {
    double scale = adam_coefficients(pieces_.options(), step.update).scale;
    std::vector<double> sums(2 * pieces_.directory().size());
    for (size_t index = 0; index < pieces_.size(); ++index) {
      const PieceSettings& settings = pieces_.settings(index);
      for (const ElementRun& run : pieces_.active_runs(index)) {
        AdamArgs args = moments_.args(index, run, step);
        if (pieces_.options().layer_adaptation_includes_decay) args.decay = settings.weight_decay / scale;
        AdamNorms norms = pieces_.kernels().adam_norms(args, pieces_.stream());
        if (!settings.counts) continue;
        sums[2 * settings.parameter_index] += norms.weight;
        sums[2 * settings.parameter_index + 1] += scale * scale * norms.update;
      }
    }
    return sums;
  }

  void update_weights(size_t index, const OptimizerStep& step, double weight_norm, double update_norm) {
    const PieceSettings& settings = pieces_.settings(index);
    double learning_rate = step.learning_rate * settings.learning_rate_factor;
    double decay = learning_rate * settings.weight_decay;
    bool decay_inside = pieces_.options().layer_adaptation_includes_decay;
    if (!decay_inside) weight_norm *= std::abs(1 - decay);
    double ratio = 1;
    if (settings.layer_adaptation && weight_norm != 0 && update_norm != 0) ratio = weight_norm / update_norm;
    for (const ElementRun& run : pieces_.active_runs(index)) {
      AdamArgs args = moments_.args(index, run, step);
      args.update_moments = false;
      args.rate = learning_rate * ratio * adam_coefficients(pieces_.options(), step.update).scale;
      args.decay = decay_inside ? ratio * decay : decay;
      pieces_.kernels().adam(args, pieces_.stream());
    }
  }

  PieceSet& pieces_;
  AdamMoments moments_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_adam_rule(PieceSet& pieces) {
  return std::make_unique<AdamRule>(pieces);
}

std::unique_ptr<UpdateRule> make_lamb_rule(PieceSet& pieces) {
  return std::make_unique<LambRule>(pieces);
}

}  // namespace weft
