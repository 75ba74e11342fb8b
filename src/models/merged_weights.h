// The weights of a checkpoint with an adapter added, a few rows at a time and without loading the model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/adapter_file.h"
#include "models/registry.h"

namespace weft {

class MergedWeights {
 public:
  /// `adapter` names an adapter's folder; empty: the checkpoint's weights as they are. Throws Error(bad_input) when the
  /// two do not belong together. `base` must outlive it.
  MergedWeights(const OpenedModel& base, const std::string& adapter, const Context& context);
  ~MergedWeights();

  const LanguageModel& model() const { return *model_; }
  /// Where a parameter lies in the checkpoint. Throws Error(bad_input) when the tensor there has another shape,
  /// unless the adapter brings the whole parameter.
  WeightSource source(const Parameter& parameter) const;
  /// Rows [begin, end) of a parameter, W + scale · B·A summed in f32; valid until the next call.
  const std::vector<float>& rows(const Parameter& parameter, const WeightSource& source, int64_t begin, int64_t end);

 private:
  bool is_replaced(const Parameter& parameter) const;
  void add_update(const Parameter& parameter, int64_t begin, int64_t end);

  const OpenedModel& base_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Adapter> adapter_;
  double scale_ = 0;
  std::vector<float> values_;
};

/// Elements of a row of a parameter.
int64_t row_width(const Parameter& parameter);

}  // namespace weft
