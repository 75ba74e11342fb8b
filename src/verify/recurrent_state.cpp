#include "verify/recurrent_state.h"

#include <algorithm>

#include "core/error.h"
#include "nn/parameter.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

/// Elements of one head's matrix, and which heads this rank has.
struct HeadLayout {
  int64_t size = 0;
  HeadRange mine;
  int64_t heads = 0;
};

HeadLayout layout_of(const LanguageModel& model, const CacheState& state) {
  const ModelInfo& info = model.info();
  return {.size = state.shape[1] * state.shape[2],
          .mine = kv_head_range(info.num_heads, model.parameters().place()),
          .heads = info.num_heads};
}

}  // namespace

std::unique_ptr<KvCache> make_state_cache(const Context& context,
                                          const LanguageModel& model,
                                          int64_t num_slots,
                                          DType dtype) {
  return std::make_unique<KvCache>(context, model.kv_cache_shape(dtype), num_slots, 1);
}

std::vector<int64_t> matrix_states(const KvCacheShape& shape) {
  std::vector<int64_t> indices;
  for (size_t i = 0; i < shape.states.size(); ++i) {
    if (shape.states[i].shape.rank() == 3) indices.push_back(static_cast<int64_t>(i));
  }
  return indices;
}

TokenValues gather_state(const Context& context, const LanguageModel& model, KvCache& cache, int64_t index) {
  const CacheState& state = cache.shape().states[static_cast<size_t>(index)];
  std::vector<float> local = to_floats(cache.state(index));
  if (state.shape.rank() != 3) return {.width = state.shape[0], .values = std::move(local)};
  HeadLayout layout = layout_of(model, state);
  int64_t width = layout.heads * layout.size;
  Tensor whole = context.host_zeros({cache.num_slots(), width}, DType::f32);
  int64_t local_width = (layout.mine.end - layout.mine.begin) * layout.size;
  for (int64_t slot = 0; slot < cache.num_slots(); ++slot) {
    std::copy_n(local.data() + slot * local_width,
                local_width,
                whole.data<float>() + slot * width + layout.mine.begin * layout.size);
  }
  if (context.tensor_parallel != nullptr && context.tensor_parallel->size() > 1) {
    context.tensor_parallel->all_reduce(whole, ReduceOp::sum);
  }
  return {.width = state.shape[2], .values = to_floats(whole)};
}

TokenValues gather_matrices(const Context& context, const LanguageModel& model, KvCache& cache) {
  std::vector<TokenValues> layers;
  for (int64_t index : matrix_states(cache.shape())) layers.push_back(gather_state(context, model, cache, index));
  TokenValues all;
  for (int64_t slot = 0; slot < cache.num_slots(); ++slot) {
    for (const TokenValues& layer : layers) {
      auto size = static_cast<std::ptrdiff_t>(layer.values.size()) / cache.num_slots();
      auto first = layer.values.begin() + slot * size;
      all.values.insert(all.values.end(), first, first + size);
    }
  }
  all.width = layers.empty() ? 1 : layers[0].width;
  return all;
}

void set_matrices(const LanguageModel& model, KvCache& cache, const std::vector<float>& values) {
  std::vector<int64_t> indices = matrix_states(cache.shape());
  const float* from = values.data();
  for (int64_t slot = 0; slot < cache.num_slots(); ++slot) {
    for (int64_t index : indices) {
      HeadLayout layout = layout_of(model, cache.shape().states[static_cast<size_t>(index)]);
      Tensor row = cache.state(index).slice(slot, slot + 1);
      WEFT_ASSERT(from + layout.heads * layout.size <= values.data() + values.size(), "too few values of states");
      row.set_values(from + layout.mine.begin * layout.size, DType::f32);
      from += layout.heads * layout.size;
    }
  }
}

}  // namespace weft
