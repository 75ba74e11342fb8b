#include "train/evaluation.h"

#include "core/error.h"

namespace weft {

double scalar_of(const Tensor& tensor) {
  return tensor.dtype() == DType::f64 ? *tensor.data<double>() : static_cast<double>(*tensor.data<float>());
}

double evaluate_objective(Context& context,
                          LanguageModel& model,
                          Objective& objective,
                          std::span<const MicroBatch> micro_batches,
                          Communicator& data_parallel,
                          const MicroBatchHook& hook,
                          Adapter* adapter) {
  WEFT_ASSERT(context.tape == nullptr && !context.training);
  objective.begin_evaluation();
  double sum = 0;
  for (const MicroBatch& micro_batch : micro_batches) {
    context.first_token = micro_batch.first_token;
    Tensor hidden = model.hidden(context, micro_batch.batch, nullptr);
    ObjectiveLoss result = objective.loss(context,
                                          {.model = model,
                                           .micro_batch = micro_batch,
                                           .batch = micro_batch.batch,
                                           .hidden = hidden,
                                           .factor = 1,
                                           .data_parallel = data_parallel,
                                           .adapter = adapter});
    sum += scalar_of(result.loss);
    if (hook) hook(micro_batch, result);
  }
  return sum;
}

}  // namespace weft
