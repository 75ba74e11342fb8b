// One optimizer step on any mesh of data × tensor parallel ranks: forward, backward, reduction, clipping, update. Knows
// nothing of files, schedules or metrics.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "models/adapter.h"
#include "models/model.h"
#include "optimizer/optimizer.h"
#include "parallel/mesh.h"
#include "tasks/objective.h"

namespace weft {

enum class Adversarial : uint8_t { none, fgm, gradient_penalty };

struct EngineOptions {
  std::shared_ptr<Objective> objective = nullptr;  // null: that of language models
  OptimizerOptions optimizer;
  double clip_norm = 1;  // 0: none
  int zero_stage = 0;
  bool overlap_gradient_reduction = true;
  Recompute recompute = Recompute::none;
  int64_t recompute_every = 1;  // with Recompute::block: every k-th block
  Adversarial adversarial = Adversarial::none;
  double adversarial_epsilon = 0.5;
  bool train_norms = false;              // with an adapter: the norms' weights too
  std::vector<std::string> freeze = {};  // regular expressions searched in names of parameters that are not trained
  /// Loads the parameters that have no value yet, a block at a time (parameter_shards.h); null: all are there.
  std::function<void(int64_t block)> load_block = nullptr;
  DType dtype = DType::f32;  // that they are loaded in
};

/// The parameters of a model, and all of an adapter's, as the engine takes them. Pointers stay the model's.
struct TrainedAndFrozen {
  std::vector<Parameter*> trained, frozen;
};
TrainedAndFrozen choose_parameters(LanguageModel& model, Adapter* adapter, const EngineOptions& options);

struct StepResult {
  double loss = 0;                   // of the whole step, the same on every rank
  double grad_norm = 0;              // before clipping
  bool skipped = false;              // loss or norm were not finite: nothing was updated
  std::vector<Metric> metrics = {};  // of an objective that measures steps
};

class TrainingEngine {
 public:
  /// Takes over a model (row-major weights); with an adapter only that is trained. Collective over the mesh.
  /// All references must outlive the engine.
  TrainingEngine(
      const Context& context, const Mesh& mesh, LanguageModel& model, Adapter* adapter, const EngineOptions& options);
  ~TrainingEngine();

  /// Collective: every rank gives as many micro-batches. `random` seeds dropout.
  StepResult step(std::span<const MicroBatch> micro_batches, double learning_rate, const RandomKey& random);
  /// Σ weight · loss over all data-parallel ranks, without gradients. Collective.
  double evaluate(std::span<const MicroBatch> micro_batches);
  /// What an objective that needs it keeps of the model as it is now, of this rank's micro-batches; called until all
  /// have been given, then share_reference. Collective.
  void add_reference(std::span<const MicroBatch> micro_batches);
  void share_reference();
  /// Of the last evaluate().
  const std::vector<Metric>& metrics() const;
  /// Called before weights change, in each update and in with_averages, when all that was last written may change: a
  /// checkpoint that is being written from live memory must be done by then.
  void set_before_update(std::function<void()> hook);
  /// After the pieces' weights were set from outside (a restored checkpoint): brings the other ranks' parts.
  /// Collective.
  void share_weights();
  /// Runs `body` with all parameters of this rank's slice in place (ZeRO 3 gathers them). Collective.
  void with_whole_weights(const std::function<void(Context&)>& body);

  /// Runs `body` with the moving averages of the trained weights in their place; afterwards the weights are what they
  /// were, to the bit. Collective. Error(failure) without ema_momentum.
  void with_averages(const std::function<void()>& body);

  /// Updates made so far; set when resuming.
  int64_t updates() const;
  void set_updates(int64_t updates);
  Optimizer& optimizer();
  /// Of frozen parameters that no rank keeps as a whole (ZeRO 3): what this one keeps. Without gradients.
  std::vector<OptimizerPiece> frozen_pieces();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace weft
