#include "plan/training_plan.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "plan/planned_decoder.h"
#include "plan/planned_optimizer.h"
#include "plan/planned_shards.h"

namespace weft {
namespace {

PlannedParameters plan_parameters(LanguageModel& model, Adapter* adapter, const TrainingSetup& setup) {
  TrainedAndFrozen chosen = choose_parameters(model, adapter, setup.engine);
  PlannedParameters result{.trained = chosen.trained, .frozen = chosen.frozen, .loaded = {}};
  for (Parameter& parameter : model.parameters().all()) {
    if (!setup.loads_by_block) result.loaded.push_back(&parameter);
  }
  if (adapter == nullptr) return result;
  for (Parameter& parameter : adapter->parameters().all()) result.loaded.push_back(&parameter);
  return result;
}

/// Everything that decides what a tensor-parallel rank allocates.
std::vector<int64_t> local_sizes(const LanguageModel& model) {
  std::vector<int64_t> sizes;
  for (const Parameter& parameter : model.parameters().all()) {
    for (int64_t dim : parameter.local_shape) sizes.push_back(dim);
  }
  return sizes;
}

/// The data-parallel rank whose pieces take most optimizer state.
int largest_data_rank(const PlannedShards& shards, const TrainingSetup& setup) {
  int largest = 0;
  int64_t most = -1;
  for (int rank = 0; rank < (shards.shares_state() ? setup.data : 1); ++rank) {
    int64_t bytes = optimizer_piece_bytes(setup.engine.optimizer, setup.dtype, shards.pieces(rank));
    if (bytes > most) {
      most = bytes;
      largest = rank;
    }
  }
  return largest;
}

/// TrainingEngine as memory.
class PlannedEngine {
 public:
  PlannedEngine(const PlanContext& context,
                const TrainingSetup& setup,
                const PlannedParameters& parameters,
                const PlannedDecoder& decoder,
                LanguageModel& model)
      : context_(context),
        setup_(setup),
        decoder_(decoder),
        embedding_(model.embedding_table()),
        hidden_size_(model.info().hidden_size),
        shards_(context,
                parameters,
                {.zero_stage = setup.engine.zero_stage,
                 .data = setup.data,
                 .overlap_reduction = setup.engine.overlap_gradient_reduction,
                 .recompute = setup.engine.recompute,
                 .recompute_every = setup.engine.recompute_every}),
        optimizer_(context,
                   setup.engine.optimizer,
                   parameters.trained,
                   shards_.pieces(largest_data_rank(shards_, setup)),
                   shards_.shares_state() || setup.tensor > 1) {
    context_.blocks = &shards_;
    shards_.share_weights();
  }

  void step() {
    compute_gradients();
    if (setup_.engine.adversarial == Adversarial::fgm) {
      PlannedMemory originals = context_.empty(embedding_piece_bytes(), MemoryTag::workspace);
      compute_gradients();
    }
    context_.ledger->begin("update");
    optimizer_.step();
    shards_.share_weights();
    if (!setup_.writes_samples) return;
    context_.ledger->begin("samples");
    shards_.pass_whole_weights();
  }

 private:
  void compute_gradients() {
    if (setup_.engine.adversarial == Adversarial::gradient_penalty) {
      run_penalised();
    } else {
      // More than two micro-batches do what the second does.
      bool has_more = setup_.num_micro_batches > 1;
      run_pass(true, !has_more, {});
      if (has_more) run_pass(false, true, {});
    }
    shards_.finish_gradients();
  }

  /// The gradients of all micro-batches' embeddings, then two passes of each with the embeddings moved.
  void run_penalised() {
    std::vector<PlannedMemory> gradients;
    for (int64_t i = 0; i < setup_.num_micro_batches; ++i) {
      PlannedTensor offset = embedding_offset();
      attach_slot(offset);
      run_pass(i == 0, false, offset);
      gradients.push_back(take_grad(offset.slot));
    }
    for (int64_t i = 1; i <= setup_.num_micro_batches; ++i) {
      run_pass(false, false, embedding_offset());
      run_pass(false, i == setup_.num_micro_batches, embedding_offset());
    }
  }

  PlannedTensor embedding_offset() const { return planned_empty(context_, batch().num_tokens(), hidden_size_); }

  void run_pass(bool is_first, bool is_last, const PlannedTensor& offset) {
    PlannedTape tape;
    PlanContext context = context_;
    context.tape = &tape;
    shards_.begin_micro_batch(is_first, is_last);
    context_.ledger->begin("forward");
    shards_.before_forward(context, kOuterBlock);
    decoder_.run(context, batch(), offset);
    shards_.end_micro_batch(context);
  }

  PlannedBatch batch() const { return {setup_.micro_batch_rows, setup_.sequence_length}; }

  int64_t embedding_piece_bytes() const {
    int64_t elements = 0;
    for (const PlannedPiece& piece : optimizer_.pieces()) {
      if (piece.parameter == &embedding_) elements += piece.count;
    }
    return elements * static_cast<int64_t>(dtype_bytes(setup_.dtype));
  }

  PlanContext context_;
  const TrainingSetup& setup_;
  const PlannedDecoder& decoder_;
  const Parameter& embedding_;
  int64_t hidden_size_;
  PlannedShards shards_;
  PlannedOptimizer optimizer_;
};

}  // namespace

struct TrainingPlanner::Rank {
  TensorParallelPlace place;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Adapter> adapter;
  bool is_like_another = false;  // allocates what an earlier rank does
};

TrainingPlanner::TrainingPlanner(const OpenedModel& opened, const std::optional<LoraOptions>& lora, int tensor)
    : opened_(opened), lora_(lora) {
  std::set<std::vector<int64_t>> seen;
  for (int rank = 0; rank < tensor; ++rank) {
    auto one = std::make_unique<Rank>();
    one->place = {rank, tensor};
    one->model = opened.make(one->place);
    if (lora) {
      one->adapter = std::make_unique<Adapter>(*one->model, *lora);
      one->adapter->attach();
    }
    one->is_like_another = !seen.insert(local_sizes(*one->model)).second;
    ranks_.push_back(std::move(one));
  }
}

TrainingPlanner::~TrainingPlanner() = default;

TrainingMemory TrainingPlanner::plan(const TrainingSetup& setup) const {
  TrainingMemory largest;
  for (const auto& rank : ranks_) {
    if (rank->is_like_another) continue;
    TrainingMemory memory = plan_rank(setup, rank->place.rank);
    if (memory.peak_total > largest.peak_total) largest = memory;
  }
  return largest;
}

TrainingMemory TrainingPlanner::plan_rank(const TrainingSetup& setup, int tensor_rank) const {
  WEFT_ASSERT(setup.tensor == static_cast<int>(ranks_.size()) && setup.sequence_length > 1);
  const Rank& rank = *ranks_[static_cast<size_t>(tensor_rank)];
  PlannedParameters parameters = plan_parameters(*rank.model, rank.adapter.get(), setup);
  std::set<const Parameter*> trained(parameters.trained.begin(), parameters.trained.end());
  PlannedDecoder decoder(
      opened_,
      *rank.model,
      [&](const Parameter& parameter) { return trained.count(&parameter) > 0; },
      lora_ && lora_->dropout > 0);
  MemoryLedger ledger;
  {
    PlanContext context{.ledger = &ledger,
                        .dtype = setup.dtype,
                        .num_threads = setup.num_threads,
                        .tensor_parallel = setup.tensor,
                        .sequence_parallel = setup.sequence_parallel && setup.tensor > 1};
    PlannedEngine engine(context, setup, parameters, decoder, *rank.model);
    engine.step();
  }
  return {.peaks = ledger.peaks(),
          .peak_total = ledger.peak_total(),
          .at_peak = ledger.at_peak(),
          .moment = ledger.peak_moment(),
          .place = rank.place};
}

}  // namespace weft
