#include "models/model.h"

#include <cstring>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/collective.h"
#include "parallel/communicator.h"

namespace weft {

void Batch::add(const std::vector<int32_t>& tokens, int64_t past, int64_t slot) {
  sequences.push_back(
      {.begin = num_tokens(), .length = static_cast<int64_t>(tokens.size()), .past = past, .slot = slot});
  ids.insert(ids.end(), tokens.begin(), tokens.end());
}

Tensor CausalLanguageModel::logits(Context& context, const Tensor& hidden) {
  return gather_columns_from_tp(context, local_logits(context, hidden), info().vocab_size);
}

int64_t CausalLanguageModel::vocabulary_begin() const {
  return even_part_begin(info().vocab_size, parameters_.place().rank, parameters_.place().size);
}

KvCacheShape CausalLanguageModel::kv_cache_shape(DType dtype) const {
  HeadRange heads = kv_head_range(info().num_kv_heads, parameters_.place());
  return {.num_layers = info().num_layers,
          .num_kv_heads = heads.end - heads.begin,
          .head_dim = info().head_dim,
          .dtype = dtype};
}

LanguageModelLoss language_model_loss(Context& context,
                                      const CausalLanguageModel& model,
                                      const Tensor& hidden,
                                      const std::vector<int32_t>& targets,
                                      const std::vector<float>& weights,
                                      LossReduction reduction) {
  LanguageModelHead head = model.head();
  WEFT_ASSERT(head.weight != nullptr, "{} has no output layer", model.info().family);
  CrossEntropy result =
      linear_cross_entropy(context,
                           hidden,
                           head.weight->value,
                           targets,
                           weights,
                           {.reduction = reduction, .vocab_size = model.info().vocab_size, .soft_cap = head.soft_cap});
  return {std::move(result.loss), std::move(result.token_loss)};
}

void set_trainable(CausalLanguageModel& model, bool trainable) {
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
    if (!target.accumulate) std::memset(target.tensor.raw(), 0, target.tensor.bytes());
    group_of(context, replicas).all_reduce(target.tensor, ReduceOp::sum);
  }
}

void finish_gradients(Context& context, CausalLanguageModel& model) {
  std::vector<Parameter*> parameters;
  for (Parameter& parameter : model.parameters().all()) parameters.push_back(&parameter);
  GradientFinisher(model.parameters().place()).finish(context, parameters);
}

}  // namespace weft
