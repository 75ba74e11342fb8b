#include "models/merged_weights.h"

#include <algorithm>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/weight_layout.h"

namespace weft {

MergedWeights::MergedWeights(const OpenedModel& base, const std::string& adapter, const Context& context)
    : base_(base), model_(base.make({})) {
  if (adapter.empty()) return;
  OpenedAdapter opened = open_adapter(adapter);
  scale_ = opened.options.scale();
  adapter_ = read_adapter(context, *model_, opened, DType::f32);
}

MergedWeights::~MergedWeights() = default;

WeightSource MergedWeights::source(const Parameter& parameter) const {
  WeightSource source = find_source(base_.weight_map(), parameter, model_->info().num_layers);
  if (!is_replaced(parameter)) check_source(base_, parameter, source);
  return source;
}

bool MergedWeights::is_replaced(const Parameter& parameter) const {
  if (adapter_ == nullptr) return false;
  const std::vector<ReplacedParameter>& replaced = adapter_->replaced();
  return std::any_of(
      replaced.begin(), replaced.end(), [&](const ReplacedParameter& one) { return one.parameter == &parameter; });
}

const std::vector<float>& MergedWeights::rows(const Parameter& parameter,
                                              const WeightSource& source,
                                              int64_t begin,
                                              int64_t end) {
  int64_t width = row_width(parameter);
  values_.resize(static_cast<size_t>((end - begin) * width));
  if (adapter_ != nullptr) {
    for (const ReplacedParameter& one : adapter_->replaced()) {
      if (one.parameter != &parameter) continue;
      const float* from = one.value.data<float>() + begin * width;
      std::copy(from, from + values_.size(), values_.begin());
      return values_;
    }
  }
  read_rows(*base_.reader, source, parameter, begin, end, values_.data(), DType::f32);
  if (adapter_ != nullptr) add_update(parameter, begin, end);
  return values_;
}

void MergedWeights::add_update(const Parameter& parameter, int64_t begin, int64_t end) {
  constexpr std::string_view kWeight = ".weight";
  const std::string& name = parameter.name;
  if (!name.ends_with(kWeight)) return;
  std::string stem = adapter_tensor_name(name.substr(0, name.size() - kWeight.size()));
  const Parameter* a = adapter_->parameters().find(stem + ".lora_A.weight");
  const Parameter* b = adapter_->parameters().find(stem + ".lora_B.weight");
  if (a == nullptr || b == nullptr) return;
  int64_t rank = a->full_shape[0];
  int64_t width = row_width(parameter);
  for (int64_t row = begin; row < end; ++row) {
    float* target = values_.data() + (row - begin) * width;
    for (int64_t k = 0; k < rank; ++k) {
      float factor = static_cast<float>(scale_) * b->value.data<float>()[row * rank + k];
      const float* from = a->value.data<float>() + k * width;
      for (int64_t column = 0; column < width; ++column) target[column] += factor * from[column];
    }
  }
}

int64_t row_width(const Parameter& parameter) {
  return parameter.full_shape.rank() == 1 ? 1 : parameter.full_shape[1];
}

}  // namespace weft
