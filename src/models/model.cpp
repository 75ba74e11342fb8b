#include "models/model.h"

#include <algorithm>

#include "autograd/tape.h"
#include "core/error.h"
#include "nn/layers.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "parallel/communicator.h"

namespace weft {

void Batch::add(const std::vector<int32_t>& tokens, int64_t past, int64_t slot) {
  sequences.push_back(
      {.begin = num_tokens(), .length = static_cast<int64_t>(tokens.size()), .past = past, .slot = slot});
  ids.insert(ids.end(), tokens.begin(), tokens.end());
}

void Batch::add_source(const std::vector<int32_t>& tokens, int64_t slot) {
  sources.push_back(
      {.begin = static_cast<int64_t>(source_ids.size()), .length = static_cast<int64_t>(tokens.size()), .slot = slot});
  source_ids.insert(source_ids.end(), tokens.begin(), tokens.end());
}

void Batch::add(const std::vector<int32_t>& tokens, const std::vector<int32_t>& segments, int64_t past, int64_t slot) {
  WEFT_ASSERT(segments.size() == tokens.size());
  segment_ids.resize(ids.size());
  segment_ids.insert(segment_ids.end(), segments.begin(), segments.end());
  add(tokens, past, slot);
}

NamedLinear named_linear(Linear& linear) {
  const std::string& weight = linear.weight->name;
  return {weight.substr(0, weight.size() - std::string_view(".weight").size()), &linear};
}

Tensor LanguageModel::head_input(Context& /*context*/, const Tensor& hidden, const Batch* /*batch*/) {
  return hidden;
}

Tensor LanguageModel::local_logits(Context& context, const Tensor& hidden, const Batch* batch) {
  LanguageModelHead output = head();
  WEFT_ASSERT(output.weight != nullptr, "{} has no output layer", info().family);
  Tensor x = head_input(context, hidden, batch);
  LinearParameters parameters = {&output.weight->value, output.bias == nullptr ? nullptr : &output.bias->value};
  DType dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor result = std::move(linear_group(context, x, {&parameters, 1}, dtype).front());
  return output.soft_cap > 0 ? soft_cap(context, result, output.soft_cap) : result;
}

Tensor LanguageModel::pooled(Context& /*context*/, const Tensor& /*hidden*/, const Batch& /*batch*/) {
  return {};
}

Tensor LanguageModel::pair_logits(Context& /*context*/, const Tensor& /*pooled*/) {
  return {};
}

Tensor LanguageModel::replaced_logits(Context& /*context*/, const Tensor& /*hidden*/) {
  return {};
}

std::vector<int32_t> Batch::first_tokens() const {
  std::vector<int32_t> first;
  first.reserve(sequences.size());
  for (const BatchSequence& sequence : sequences) first.push_back(static_cast<int32_t>(sequence.begin));
  return first;
}

void Batch::add_condition(const Condition& one) {
  if (one.label >= 0) condition_labels.push_back(one.label);
  condition_values.insert(condition_values.end(), one.values.begin(), one.values.end());
}

Batch Batch::of_tokens(std::span<const int32_t> tokens) const {
  Batch some;
  auto width = static_cast<std::ptrdiff_t>(sequences.empty() ? 0 : condition_values.size() / sequences.size());
  WEFT_ASSERT(!condition.defined());
  for (int32_t token : tokens) {
    auto behind = std::upper_bound(
        sequences.begin(), sequences.end(), token, [](int64_t at, const BatchSequence& one) { return at < one.begin; });
    auto sequence = behind - sequences.begin() - 1;
    some.add({ids[static_cast<size_t>(token)]});
    if (!condition_labels.empty()) some.condition_labels.push_back(condition_labels[static_cast<size_t>(sequence)]);
    auto values = condition_values.begin() + sequence * width;
    some.condition_values.insert(some.condition_values.end(), values, values + width);
  }
  return some;
}

Tensor LanguageModel::task_logits(Context& /*context*/, const Tensor& /*hidden*/, const Batch& /*batch*/) {
  return {};
}

Tensor LanguageModel::sequence_vectors(Context& context, const Tensor& hidden, const Batch& batch) {
  Tensor vectors = pooled(context, hidden, batch);
  if (vectors) return vectors;
  return gather_rows(context, hidden, batch.first_tokens());
}

Tensor LanguageModel::logits(Context& context, const Tensor& hidden, const Batch* batch) {
  return gather_columns_from_tp(context, local_logits(context, hidden, batch), info().vocab_size);
}

int64_t LanguageModel::vocabulary_begin() const {
  return even_part_begin(info().vocab_size, parameters_.place().rank, parameters_.place().size);
}

KvCacheShape LanguageModel::kv_cache_shape(DType dtype) const {
  HeadRange heads = kv_head_range(info().num_kv_heads, parameters_.place());
  return {.num_layers = info().num_layers,
          .num_kv_heads = heads.end - heads.begin,
          .head_dim = info().head_dim,
          .dtype = dtype,
          .has_source = info().has_source};
}

Tensor logits_of_tokens(
    Context& context, LanguageModel& model, const Tensor& hidden, const Batch& batch, std::span<const int32_t> tokens) {
  bool is_every_token = std::ssize(tokens) == batch.num_tokens();
  Tensor some = is_every_token ? hidden : gather_rows(context, hidden, tokens);
  if (!model.info().condition.is_there()) return model.logits(context, some);
  Batch of_tokens = batch.of_tokens(tokens);
  return model.logits(context, some, &of_tokens);
}

LanguageModelLoss language_model_loss(Context& context,
                                      LanguageModel& model,
                                      const Tensor& hidden,
                                      const std::vector<int32_t>& targets,
                                      const std::vector<float>& weights,
                                      LossReduction reduction,
                                      const Batch* batch) {
  LanguageModelHead head = model.head();
  WEFT_ASSERT(head.weight != nullptr, "{} has no output layer", model.info().family);
  CrossEntropy result = linear_cross_entropy(context,
                                             model.head_input(context, hidden, batch),
                                             head.weight->value,
                                             targets,
                                             weights,
                                             {.reduction = reduction,
                                              .vocab_size = model.info().vocab_size,
                                              .soft_cap = head.soft_cap,
                                              .bias = head.bias == nullptr ? nullptr : &head.bias->value});
  return {std::move(result.loss), std::move(result.token_loss)};
}

void set_trainable(LanguageModel& model, bool trainable) {
  set_trainable(model.parameters(), trainable);
}

void set_trainable(ParameterStore& parameters, bool trainable) {
  for (Parameter& parameter : parameters.all()) {
    if (!trainable) {
      parameter.value.set_grad_slot(nullptr);
      continue;
    }
    auto slot = std::make_shared<GradSlot>();
    slot->tag = MemoryTag::grads;
    parameter.value.set_grad_slot(std::move(slot));
  }
}

GradientFinisher::GradientFinisher(TensorParallelPlace place) : place_(place) {}
GradientFinisher::~GradientFinisher() = default;

Communicator& GradientFinisher::group_of(Context& context, int replicas) {
  if (replicas == place_.size) return *context.tensor_parallel;
  std::unique_ptr<Communicator>& group = same_heads_[replicas];
  if (group == nullptr) group = context.tensor_parallel->split(place_.rank / replicas, place_.rank);
  return *group;
}

void GradientFinisher::finish(Context& context, std::span<Parameter* const> parameters) {
  if (place_.size == 1) return;
  for (Parameter* parameter : parameters) {
    const auto& slot = parameter->value.grad_slot();
    if (slot == nullptr) continue;
    int replicas = has_partial_gradient(context, *parameter) ? place_.size : shard_replicas(parameter->shard, place_);
    if (replicas == 1) continue;
    GradTarget target =
        grad_target(context, *slot, parameter->local_shape, parameter_grad_dtype(parameter->value.dtype()));
    if (!target.accumulate) target.tensor.fill_zero();
    group_of(context, replicas).all_reduce(target.tensor, ReduceOp::sum);
  }
}

void finish_gradients(Context& context, LanguageModel& model) {
  std::vector<Parameter*> parameters;
  for (Parameter& parameter : model.parameters().all()) parameters.push_back(&parameter);
  GradientFinisher(model.parameters().place()).finish(context, parameters);
}

}  // namespace weft
