#include "plan/memory_plan.h"

#include <algorithm>

#include "core/error.h"
#include "generate/generator.h"
#include "generate/request_support.h"
#include "kernels/planned.h"
#include "models/allocate.h"
#include "parallel/planned_communicator.h"

namespace weft {
namespace {

std::vector<int32_t> tokens(int64_t count) {
  return std::vector<int32_t>(static_cast<size_t>(count), 0);
}

/// One that the model's norms take; nothing for models whose norms take none.
Condition some_condition(const ModelInfo& info) {
  if (!info.condition.is_there()) return {};
  if (!info.condition.labels.empty()) return {.label = 0};
  return {.values = std::vector<float>(static_cast<size_t>(info.condition.width))};
}

/// Prompts (sources of an encoder-decoder) and answers of one length.
void generate(Context& context, LanguageModel& model, DType dtype, const Workload& workload) {
  Generator generator(context,
                      model,
                      {.cache_dtype = dtype,
                       .max_batch = workload.batch,
                       .prefill_chunk = workload.prefill_chunk,
                       .tokenizer = nullptr});
  std::vector<GenerationRequest> requests(static_cast<size_t>(workload.batch));
  for (GenerationRequest& request : requests) {
    set_text(request, model.info(), tokens(workload.prompt_tokens));
    // Prompts that begin alike would be computed once.
    if (!model.info().has_source) request.prompt.front() = static_cast<int32_t>(&request - requests.data());
    request.condition = some_condition(model.info());
    request.max_new_tokens = workload.new_tokens;
  }
  generator.run(requests);
}

/// Texts that are read at a time, and what is asked of their hidden states.
void encode(Context& context, LanguageModel& model, const Workload& workload) {
  Batch batch;
  for (int64_t i = 0; i < workload.batch; ++i) {
    batch.add(tokens(workload.context()));
    batch.add_condition(some_condition(model.info()));
  }
  Tensor hidden = model.hidden(context, batch, nullptr);
  if (model.info().task_head.kind != TaskHead::Kind::none) {
    model.task_logits(context, hidden, batch);
  } else {
    model.sequence_vectors(context, hidden, batch);
  }
}

bool fits(
    const OpenedModel& opened, int num_ranks, const LoadOptions& weights, const Workload& workload, int64_t bytes) {
  try {
    return plan_largest_rank(opened, num_ranks, weights, workload).plan.total() <= bytes;
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_input) throw;
    return false;  // the ranks cannot share the model
  }
}

}  // namespace

MemoryPlan plan_memory(const OpenedModel& opened,
                       TensorParallelPlace place,
                       const LoadOptions& weights,
                       const Workload& workload) {
  auto allocator = std::make_shared<PlannedAllocator>();
  Context context = make_context(allocator, workload.num_threads);
  std::unique_ptr<Communicator> ranks = make_planned_communicator(place.rank, place.size);
  if (place.size > 1) context.tensor_parallel = ranks.get();
  std::unique_ptr<LanguageModel> model = opened.make(place);
  allocate_parameters(context, *model, weights);
  if (writes_texts(model->info())) {
    generate(context, *model, weights.dtype, workload);
  } else {
    encode(context, *model, workload);
  }
  const MemoryTracker& memory = allocator->memory();
  return {.weights = memory.peak(MemoryTag::weights),
          .kv_cache = memory.peak(MemoryTag::kv_cache),
          .activations = memory.peak(MemoryTag::activations),
          .workspace = memory.peak(MemoryTag::workspace),
          .comm = memory.peak(MemoryTag::comm)};
}

LargestRank plan_largest_rank(const OpenedModel& opened,
                              int num_ranks,
                              const LoadOptions& weights,
                              const Workload& workload) {
  LargestRank largest{.rank = 0, .plan = plan_memory(opened, {.rank = 0, .size = num_ranks}, weights, workload)};
  for (int rank = 1; rank < num_ranks; ++rank) {
    MemoryPlan plan = plan_memory(opened, {.rank = rank, .size = num_ranks}, weights, workload);
    if (plan.total() > largest.plan.total()) largest = {.rank = rank, .plan = plan};
  }
  return largest;
}

int smallest_fitting_degree(
    const OpenedModel& opened, const LoadOptions& weights, const Workload& workload, int64_t bytes, int max_size) {
  for (int size = 1; size <= max_size; ++size) {
    if (fits(opened, size, weights, workload, bytes)) return size;
  }
  return 0;
}

}  // namespace weft
