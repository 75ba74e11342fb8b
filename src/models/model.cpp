#include "models/model.h"

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/collective.h"
#include "ops/cross_entropy.h"
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
                                      CausalLanguageModel& model,
                                      const Tensor& hidden,
                                      const std::vector<int32_t>& targets,
                                      const std::vector<float>& weights) {
  CrossEntropy result =
      cross_entropy(context, model.local_logits(context, hidden), targets, weights, model.vocabulary_begin());
  return {std::move(result.loss), std::move(result.token_loss)};
}

void set_trainable(CausalLanguageModel& model, bool trainable) {
  for (Parameter& parameter : model.parameters().all()) {
    if (!trainable) {
      parameter.value.set_grad_slot(nullptr);
      continue;
    }
    auto slot = std::make_shared<GradSlot>();
    slot->tag = MemoryTag::grads;
    parameter.value.set_grad_slot(std::move(slot));
  }
}

void finish_gradients(Context& context, CausalLanguageModel& model) {
  if (context.tensor_parallel == nullptr || context.tensor_parallel->size() == 1) return;
  TensorParallelPlace place = model.parameters().place();
  std::unique_ptr<Communicator> same_heads;
  for (Parameter& parameter : model.parameters().all()) {
    int replicas = shard_replicas(parameter.shard, place);
    const auto& slot = parameter.value.grad_slot();
    if (replicas == 1 || slot == nullptr || !slot->tensor) continue;
    if (same_heads == nullptr) same_heads = context.tensor_parallel->split(place.rank / replicas, place.rank);
    same_heads->all_reduce(slot->tensor, ReduceOp::sum);
  }
}

}  // namespace weft
