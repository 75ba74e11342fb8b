#include "plan/training_suggestion.h"

#include <algorithm>
#include <map>

#include "core/error.h"

namespace weft {
namespace {

constexpr int kMaxTensorParallel = 64;

struct RecomputeChoice {
  Recompute recompute;
  int64_t every;
};
constexpr RecomputeChoice kRecomputeChoices[] = {
    {Recompute::none, 1}, {Recompute::selective, 1}, {Recompute::block, 2}, {Recompute::block, 1}};

/// Stage 1 moves no more bytes than stage 0; 2 reduces gradients of every micro-batch, 3 gathers weights as well.
struct StageRange {
  int first, last;
};
constexpr StageRange kStagesOfEqualWork[] = {{0, 1}, {2, 2}, {3, 3}};

/// The model on every tensor-parallel degree that divides the devices and that its heads and the batch allow.
class Candidates {
 public:
  Candidates(const OpenedModel& opened, const SuggestionRequest& request) : request_(request) {
    for (int tensor = 1; tensor <= std::min(request.num_devices, kMaxTensorParallel); ++tensor) {
      if (request.num_devices % tensor != 0 || request.batch_rows % (request.num_devices / tensor) != 0) continue;
      try {
        planners_[tensor] = std::make_unique<TrainingPlanner>(opened, request.lora, tensor);
      } catch (const Error& error) {
        // The ranks cannot share the model; what is wrong on one rank is wrong for good.
        if (error.code() != ExitCode::bad_input || tensor == 1) throw;
      }
    }
  }

  /// In the order of preference, until `accept` returns true.
  template <typename Accept>
  void visit(const Accept& accept) const {
    for (const RecomputeChoice& choice : kRecomputeChoices) {
      for (const StageRange& stages : kStagesOfEqualWork) {
        for (const auto& [tensor, planner] : planners_) {
          for (int stage = stages.first; stage <= stages.last; ++stage) {
            if (visit_rows(*planner, with(choice, stage, tensor), accept)) return;
          }
        }
      }
    }
  }

 private:
  TrainingSetup with(const RecomputeChoice& choice, int stage, int tensor) const {
    TrainingSetup setup = request_.setup;
    setup.engine.recompute = choice.recompute;
    setup.engine.recompute_every = choice.every;
    setup.engine.zero_stage = stage;
    setup.tensor = tensor;
    setup.data = request_.num_devices / tensor;
    setup.sequence_parallel = setup.sequence_parallel && tensor > 1;
    return setup;
  }

  template <typename Accept>
  bool visit_rows(const TrainingPlanner& planner, TrainingSetup setup, const Accept& accept) const {
    if (setup.data == 1 && setup.engine.zero_stage > 0) return false;  // there is nobody to share with
    // Quantized weights are not shared out.
    if (setup.quantization != Quantization::none && setup.engine.zero_stage == 3) return false;
    int64_t rank_rows = request_.batch_rows / setup.data;
    for (int64_t rows = rank_rows; rows >= 1; --rows) {
      if (rank_rows % rows != 0) continue;
      setup.micro_batch_rows = rows;
      setup.num_micro_batches = rank_rows / rows;
      if (accept(TrainingSuggestion{setup, planner.plan(setup)})) return true;
    }
    return false;
  }

  const SuggestionRequest& request_;
  std::map<int, std::unique_ptr<TrainingPlanner>> planners_;
};

}  // namespace

std::optional<TrainingSuggestion> suggest_training(const OpenedModel& opened, const SuggestionRequest& request) {
  std::optional<TrainingSuggestion> found;
  Candidates(opened, request).visit([&](const TrainingSuggestion& one) {
    if (one.memory.peak_total > request.device_bytes) return false;
    found = one;
    return true;
  });
  return found;
}

TrainingSuggestion least_training(const OpenedModel& opened, const SuggestionRequest& request) {
  std::optional<TrainingSuggestion> least;
  Candidates(opened, request).visit([&](const TrainingSuggestion& one) {
    if (!least || one.memory.peak_total < least->memory.peak_total) least = one;
    return false;
  });
  if (!least) {
    fail_input("{} devices cannot share {} rows and this model's heads; change the number of devices or the batch size",
               request.num_devices,
               request.batch_rows);
  }
  return *least;
}

int smallest_device_count(const OpenedModel& opened, SuggestionRequest request, int max_devices) {
  for (; request.num_devices <= max_devices; request.num_devices *= 2) {
    if (suggest_training(opened, request)) return request.num_devices;
  }
  return 0;
}

}  // namespace weft
