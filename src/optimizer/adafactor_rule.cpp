// "Adafactor: adaptive learning rates with sublinear memory cost" (Shazeer and Stern, 2018), as Keras 3 does it: the
// last two dims of a parameter are factored, and the relative step is min(learning rate, 1/√t).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "optimizer/collectives.h"
#include "optimizer/element_map.h"
#include "optimizer/update_rule.h"

namespace weft {
namespace {

constexpr double kSquareEpsilon = 1e-30;  // ε₁, added to squared gradients
constexpr double kScaleEpsilon = 1e-3;    // ε₂, the least scale of a parameter
constexpr double kClipThreshold = 1.0;    // of the update's root mean square
constexpr double kBeta2DecayExponent = -0.8;

bool is_factored(const Shape& shape) {
  return shape.rank() >= 2;
}

/// Means of squared gradients over the last dim of a factored parameter, and over the one before.
struct FactoredMoments {
  Tensor row_mean, column_mean;
  std::vector<float> row_factors, column_factors;  // update = g·row_factor·column_factor
};

/// Where a parameter's sums lie in the vector that the ranks add up.
struct SumsPlace {
  size_t weight = 0, rows = 0, columns = 0;
};

class AdafactorRule : public UpdateRule {
 public:
  explicit AdafactorRule(PieceSet& pieces)
      : pieces_(pieces), exp_avg_sq_(pieces.add_state("exp_avg_sq", [&](size_t index) {
          return !is_factored(pieces.piece(index).parameter->full_shape);
        })) {
    if (pieces.options().lazy_rows) {
      fail_input(
          "lazy_rows: Adafactor's moments are shared by all rows of a matrix; use another optimizer, or not lazy_rows");
    }
    for (const DirectoryParameter& parameter : pieces.make_directory().parameters()) {
      add_parameter(parameter.full_shape);
    }
  }

  void step(const OptimizerStep& step) override {
    beta2_ = 1 - std::pow(static_cast<double>(step.update), kBeta2DecayExponent);
    std::vector<double> sums = sum_squares(step);
    for (size_t parameter = 0; parameter < moments_.size(); ++parameter) update_moments(parameter, sums);
    std::vector<double> update_sums = sum_updates(step);
    for (size_t index = 0; index < pieces_.size(); ++index) {
      size_t parameter = pieces_.settings(index).parameter_index;
      if (pieces_.count(index) == 0) continue;
      update_weights(index,
                     step,
                     root_mean(parameter, sums[places_[parameter].weight]),
                     root_mean(parameter, update_sums[parameter]));
    }
  }

  std::vector<OptimizerVector> vectors() override {
    std::vector<OptimizerVector> result;
    for (size_t parameter = 0; parameter < moments_.size(); ++parameter) {
      const std::string& name = pieces_.directory()[parameter].name;
      const FactoredMoments& moments = moments_[parameter];
      if (!moments.row_mean.defined()) continue;
      result.push_back({"row_mean", name, moments.row_mean});
      result.push_back({"column_mean", name, moments.column_mean});
    }
    return result;
  }

 private:
  void add_parameter(const Shape& shape) {
    SumsPlace place{.weight = num_sums_, .rows = num_sums_ + 1, .columns = num_sums_ + 1};
    FactoredMoments moments;
    if (is_factored(shape)) {
      int64_t rows = shape.num_elements() / shape[-1], columns = shape.num_elements() / shape[-2];
      moments.row_mean = pieces_.context().host_zeros({rows}, DType::f32, MemoryTag::optimizer);
      moments.column_mean = pieces_.context().host_zeros({columns}, DType::f32, MemoryTag::optimizer);
      moments.row_factors.resize(static_cast<size_t>(rows));
      moments.column_factors.resize(static_cast<size_t>(columns));
      place.columns = place.rows + static_cast<size_t>(rows);
      num_sums_ = place.columns + static_cast<size_t>(columns);
    } else {
      num_sums_ = place.rows;
    }
    places_.push_back(place);
    moments_.push_back(std::move(moments));
  }

  double root_mean(size_t parameter, double sum) const {
    return std::sqrt(sum / static_cast<double>(pieces_.directory()[parameter].full_shape.num_elements()));
  }

  /// Over all ranks: Σ w² of each parameter, and Σ (g² + ε₁) of each row and column of the factored ones.
  std::vector<double> sum_squares(const OptimizerStep& step) {
    std::vector<double> sums(num_sums_);
    for (size_t index = 0; index < pieces_.size(); ++index) {
      if (!pieces_.settings(index).counts || pieces_.count(index) == 0) continue;
      const SumsPlace& place = places_[pieces_.settings(index).parameter_index];
      OptimizerWeight weight = pieces_.weight(index, step.update);
      sums[place.weight] += pieces_.kernels().sum_of_squares(weight, pieces_.count(index), pieces_.stream());
      const Shape& shape = pieces_.piece(index).parameter->full_shape;
      if (!is_factored(shape)) continue;
      pieces_.kernels().factored_sums({.grad = pieces_.grad(index),
                                       .map = weight.map,
                                       .count = pieces_.count(index),
                                       .rows = shape[-2],
                                       .columns = shape[-1],
                                       .gradient_scale = step.gradient_scale,
                                       .epsilon = kSquareEpsilon,
                                       .row_sums = &sums[place.rows],
                                       .column_sums = &sums[place.columns]},
                                      pieces_.stream());
    }
    sum_over_pieces(pieces_.context(), pieces_.sharing(), sums);
    return sums;
  }

  void update_moments(size_t parameter, const std::vector<double>& sums) {
    FactoredMoments& moments = moments_[parameter];
    if (!moments.row_mean.defined()) return;
    const Shape& shape = pieces_.directory()[parameter].full_shape;
    int64_t rows = shape[-2], columns = shape[-1];
    average_in(moments.row_mean, &sums[places_[parameter].rows], columns);
    average_in(moments.column_mean, &sums[places_[parameter].columns], rows);
    const float* row_mean = moments.row_mean.data<float>();
    for (int64_t first = 0; first < moments.row_mean.num_elements(); first += rows) {
      double mean = std::accumulate(row_mean + first, row_mean + first + rows, 0.0) / static_cast<double>(rows);
      for (int64_t row = first; row < first + rows; ++row) {
        moments.row_factors[static_cast<size_t>(row)] = static_cast<float>(std::sqrt(mean / row_mean[row]));
      }
    }
    const float* column_mean = moments.column_mean.data<float>();
    std::transform(
        column_mean, column_mean + moments.column_mean.num_elements(), moments.column_factors.begin(), [](float mean) {
          return static_cast<float>(1 / std::sqrt(static_cast<double>(mean)));
        });
  }

  void average_in(Tensor& mean, const double* sums, int64_t terms) const {
    auto* values = mean.data<float>();
    for (int64_t i = 0; i < mean.num_elements(); ++i) {
      values[i] = static_cast<float>(beta2_ * values[i] + (1 - beta2_) * sums[i] / static_cast<double>(terms));
    }
  }

  /// Over all ranks: Σ u² of each parameter. Updates the moments of those that are not factored.
  std::vector<double> sum_updates(const OptimizerStep& step) {
    std::vector<double> sums(moments_.size());
    for (size_t index = 0; index < pieces_.size(); ++index) {
      if (pieces_.count(index) == 0) continue;
      Tensor update = compute_update(index, step, true);
      double sum = pieces_.kernels().sum_of_squares({.weight = update.raw()}, pieces_.count(index), pieces_.stream());
      if (pieces_.settings(index).counts) sums[pieces_.settings(index).parameter_index] += sum;
    }
    sum_over_pieces(pieces_.context(), pieces_.sharing(), sums);
    return sums;
  }

  /// u = g/√v of a piece.
  Tensor compute_update(size_t index, const OptimizerStep& step, bool update_moments) {
    int64_t count = pieces_.count(index);
    Tensor update = pieces_.context().empty({count}, DType::f32, MemoryTag::workspace);
    const Shape& shape = pieces_.piece(index).parameter->full_shape;
    if (!is_factored(shape)) {
      pieces_.kernels().rms_update({.grad = pieces_.grad(index),
                                    .exp_avg_sq = exp_avg_sq_[index].pointer<float>(),
                                    .update = update.pointer<float>(),
                                    .count = count,
                                    .gradient_scale = step.gradient_scale,
                                    .beta2 = beta2_,
                                    .epsilon = kSquareEpsilon,
                                    .update_moments = update_moments},
                                   pieces_.stream());
      return update;
    }
    const FactoredMoments& moments = moments_[pieces_.settings(index).parameter_index];
    pieces_.kernels().factored_update({.grad = pieces_.grad(index),
                                       .update = update.pointer<float>(),
                                       .map = pieces_.weight(index, step.update).map,
                                       .count = count,
                                       .rows = shape[-2],
                                       .columns = shape[-1],
                                       .gradient_scale = step.gradient_scale,
                                       .row_factors = moments.row_factors.data(),
                                       .column_factors = moments.column_factors.data()},
                                      pieces_.stream());
    return update;
  }

  void update_weights(size_t index, const OptimizerStep& step, double weight_rms, double update_rms) {
    const PieceSettings& settings = pieces_.settings(index);
    double learning_rate = step.learning_rate * settings.learning_rate_factor;
    double decay = learning_rate * settings.weight_decay;
    double relative_step = std::min(learning_rate, 1 / std::sqrt(static_cast<double>(step.update)));
    double scale = std::max(kScaleEpsilon, weight_rms * std::abs(1 - decay));  // decay comes first
    Tensor update = compute_update(index, step, false);
    pieces_.kernels().apply_update({.weight = pieces_.weight(index, step.update),
                                    .update = update.pointer<float>(),
                                    .count = pieces_.count(index),
                                    .rate = scale * relative_step / std::max(1.0, update_rms / kClipThreshold),
                                    .decay = decay},
                                   pieces_.stream());
  }

  PieceSet& pieces_;
  std::vector<Tensor>& exp_avg_sq_;
  std::vector<FactoredMoments> moments_;  // by directory
  std::vector<SumsPlace> places_;
  size_t num_sums_ = 0;
  double beta2_ = 0;
};

}  // namespace

std::unique_ptr<UpdateRule> make_adafactor_rule(PieceSet& pieces) {
  return std::make_unique<AdafactorRule>(pieces);
}

}  // namespace weft
