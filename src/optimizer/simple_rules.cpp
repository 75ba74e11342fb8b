// Lion and SGD.
#include "optimizer/update_rule.h"

namespace weft {
namespace {

/// "Symbolic discovery of optimization algorithms" (Chen et al., 2023).
class LionRule : public UpdateRule {
 public:
  explicit LionRule(PieceSet& pieces) : pieces_(pieces), exp_avg_(pieces.add_state("exp_avg")) {}

  void step(const OptimizerStep& step) override {
    for (size_t index = 0; index < pieces_.size(); ++index) {
      const PieceSettings& settings = pieces_.settings(index);
      double learning_rate = step.learning_rate * settings.learning_rate_factor;
      for (const ElementRun& run : pieces_.active_runs(index)) {
        pieces_.kernels().lion({.weight = pieces_.weight(index, step.update).from(run.begin),
                                .grad = pieces_.grad(index) + run.begin,
                                .exp_avg = exp_avg_[index].pointer<float>() + run.begin,
                                .count = run.end - run.begin,
                                .gradient_scale = step.gradient_scale,
                                .beta1 = pieces_.options().beta1,
                                .beta2 = pieces_.options().beta2,
                                .rate = learning_rate,
                                .decay = learning_rate * settings.weight_decay},
                               pieces_.stream());
      }
    }
  }

 private:
  PieceSet& pieces_;
  std::vector<Tensor>& exp_avg_;
};

/// buffer = momentum·buffer + g; w −= rate·buffer, as torch. Without momentum there is no buffer.
class SgdRule : public UpdateRule {
 public:
  explicit SgdRule(PieceSet& pieces) : pieces_(pieces) {
    if (pieces.options().momentum != 0) buffers_ = &pieces.add_state("momentum_buffer");
  }

  void step(const OptimizerStep& step) override {
    for (size_t index = 0; index < pieces_.size(); ++index) {
      const PieceSettings& settings = pieces_.settings(index);
      double learning_rate = step.learning_rate * settings.learning_rate_factor;
      for (const ElementRun& run : pieces_.active_runs(index)) {
        const float* update = buffers_ == nullptr ? pieces_.grad(index) + run.begin : add_to_buffer(index, run, step);
        pieces_.kernels().apply_update(
            {.weight = pieces_.weight(index, step.update).from(run.begin),
             .update = update,
             .count = run.end - run.begin,
             .rate = buffers_ == nullptr ? learning_rate * step.gradient_scale : learning_rate,
             .decay = learning_rate * settings.weight_decay},
            pieces_.stream());
      }
    }
  }

 private:
  const float* add_to_buffer(size_t index, const ElementRun& run, const OptimizerStep& step) {
    float* buffer = (*buffers_)[index].pointer<float>() + run.begin;
    pieces_.context().kernels().elementwise.axpby({.x = pieces_.grad(index) + run.begin,
                                                   .y_in = buffer,
                                                   .y = buffer,
                                                   .count = run.end - run.begin,
                                                   .a = step.gradient_scale,
                                                   .b = pieces_.options().momentum},
                                                  pieces_.stream());
    return buffer;
  }

  PieceSet& pieces_;
  std::vector<Tensor>* buffers_ = nullptr;
};

}  // namespace

std::unique_ptr<UpdateRule> make_lion_rule(PieceSet& pieces) {
  return std::make_unique<LionRule>(pieces);
}

std::unique_ptr<UpdateRule> make_sgd_rule(PieceSet& pieces) {
  return std::make_unique<SgdRule>(pieces);
}

}  // namespace weft
