#include "plan/training_plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/error.h"
#include "data/memory_rows.h"
#include "models/allocate.h"
#include "optimizer/optimizer.h"
#include "parallel/planned_communicator.h"
#include "train/flat_layout.h"
#include "train/step_batches.h"

namespace weft {
namespace {

/// Everything that decides what a tensor-parallel rank allocates.
std::vector<int64_t> local_sizes(const LanguageModel& model) {
  std::vector<int64_t> sizes;
  for (const Parameter& parameter : model.parameters().all()) {
    for (int64_t dim : parameter.local_shape) sizes.push_back(dim);
  }
  return sizes;
}

/// Bytes of optimizer state on each data-parallel rank, which share out every block's elements in equal parts
/// (FlatLayout).
std::vector<double> state_bytes_by_rank(const std::vector<Parameter*>& trained, const TrainingSetup& setup) {
  Context context;
  context.sequence_parallel = setup.sequence_parallel && setup.tensor > 1;
  std::map<int64_t, std::vector<Parameter*>> by_block;
  for (Parameter* parameter : trained) by_block[parameter->block].push_back(parameter);
  std::vector<double> bytes(static_cast<size_t>(setup.data));
  for (const auto& [block, parameters] : by_block) {
    FlatLayout layout(context, parameters, setup.data);
    for (const FlatEntry& entry : layout.entries()) {
      double element_bytes = optimizer_bytes_per_element(
          setup.engine.optimizer, setup.dtype, entry.parameter->full_shape, entry.parameter->block);
      int64_t end = entry.offset + entry.count;
      for (int64_t begin = entry.offset, next = 0; begin < end; begin = next) {
        int64_t part = begin / layout.part_size();
        next = std::min(end, (part + 1) * layout.part_size());
        bytes[static_cast<size_t>(part)] += static_cast<double>(next - begin) * element_bytes;
      }
    }
  }
  return bytes;
}

/// Adafactor's row and column means, which every rank holds of all parameters: a rank that is alone knows only of those
/// that it updates. Undefined where there are no others.
Tensor means_of_others(const Context& context,
                       const TrainingSetup& setup,
                       const std::vector<Parameter*>& trained,
                       const std::vector<OptimizerPiece>& pieces) {
  if (setup.engine.optimizer.kind != OptimizerKind::adafactor) return {};
  std::set<const Parameter*> own;
  for (const OptimizerPiece& piece : pieces) own.insert(piece.parameter);
  int64_t elements = 0;
  for (const Parameter* parameter : trained) {
    const Shape& shape = parameter->full_shape;
    if (shape.rank() < 2 || own.count(parameter) > 0) continue;
    elements += shape.num_elements() / shape[-1] + shape.num_elements() / shape[-2];
  }
  return elements == 0 ? Tensor() : context.empty({elements}, DType::f32, MemoryTag::optimizer);
}

/// The data-parallel rank that updates most.
int largest_data_rank(const std::vector<Parameter*>& trained, const TrainingSetup& setup) {
  if (setup.data == 1 || setup.engine.zero_stage == 0) return 0;
  std::vector<double> bytes = state_bytes_by_rank(trained, setup);
  return static_cast<int>(std::max_element(bytes.begin(), bytes.end()) - bytes.begin());
}

/// Says when forward ends and backward begins.
class PlannedObjective final : public Objective {
 public:
  PlannedObjective(std::shared_ptr<Objective> objective, PlannedAllocator& allocator)
      : objective_(std::move(objective)), allocator_(allocator) {}

  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    allocator_.begin("loss");
    ObjectiveLoss result = objective_->loss(context, input);
    // Of what was not computed it may be anything, and a step without a finite loss ends before its update.
    result.loss.fill_zero();
    allocator_.begin("backward");
    return result;
  }

  bool needs_reference() const override { return objective_->needs_reference(); }
  void add_reference(Context& context, const ObjectiveInput& input) override {
    objective_->add_reference(context, input);
  }
  void share_reference(Context& context, Communicator& data_parallel) override {
    objective_->share_reference(context, data_parallel);
  }

 private:
  std::shared_ptr<Objective> objective_;
  PlannedAllocator& allocator_;
};

/// Takes all values from the parameters at its end: they are the allocator's.
class BorrowedParameters {
 public:
  explicit BorrowedParameters(ParameterStore& store) : store_(store) {}
  ~BorrowedParameters() {
    for (Parameter& parameter : store_.all()) parameter.value = Tensor();
  }
  BorrowedParameters(const BorrowedParameters&) = delete;
  BorrowedParameters& operator=(const BorrowedParameters&) = delete;

 private:
  ParameterStore& store_;
};

/// More than two micro-batches do what the second does, but for the penalty, which keeps a gradient of each.
std::vector<MicroBatch> micro_batches_of(const TrainingSetup& setup) {
  bool keeps_all = setup.engine.adversarial == Adversarial::gradient_penalty;
  int64_t count = keeps_all ? setup.num_micro_batches : std::min<int64_t>(setup.num_micro_batches, 2);
  std::shared_ptr<const TrainingData> rows = setup.rows;
  if (rows == nullptr) rows = make_memory_rows({full_row(setup.sequence_length)}, false, 0);
  return deal_out(*rows, 0, count * setup.micro_batch_rows, setup.micro_batch_rows, {}).micro_batches;
}

/// A step of a rank.
void run_step(const TrainingSetup& setup,
              LanguageModel& model,
              Adapter* adapter,
              const std::shared_ptr<PlannedAllocator>& allocator) {
  TensorParallelPlace place = model.parameters().place();
  TrainedAndFrozen chosen = choose_parameters(model, adapter, setup.engine);
  Mesh mesh = make_planned_mesh(largest_data_rank(chosen.trained, setup), setup.data, place.rank, place.size);
  Context context = make_context(allocator, setup.num_threads);
  if (place.size > 1) context.tensor_parallel = &mesh.tensor_parallel();
  context.sequence_parallel = setup.sequence_parallel && place.size > 1;
  auto load = [&](std::optional<int64_t> block) {
    LoadOptions options{.dtype = setup.dtype, .for_training = true, .quantization = setup.quantization, .block = block};
    allocate_parameters(context, model, options);
  };
  EngineOptions options = setup.engine;
  auto objective = options.objective != nullptr ? options.objective : std::shared_ptr(make_language_objective());
  options.objective = std::make_shared<PlannedObjective>(objective, *allocator);
  options.dtype = setup.dtype;
  if (adapter != nullptr) {
    for (Parameter& parameter : adapter->parameters().all()) {
      parameter.value = context.empty(parameter.local_shape, setup.dtype, MemoryTag::weights);
    }
  }
  if (setup.loads_by_block) {
    options.load_block = load;
  } else {
    load(std::nullopt);
  }
  TrainingEngine engine(context, mesh, model, adapter, options);
  Tensor means = means_of_others(context, setup, chosen.trained, engine.optimizer().pieces());
  engine.set_before_update([&] { allocator->begin("update"); });
  std::vector<MicroBatch> micro_batches = micro_batches_of(setup);
  if (options.objective->needs_reference()) {
    engine.add_reference(micro_batches);
    engine.share_reference();
  }
  engine.step(micro_batches, 0, {});
  if (!setup.writes_samples) return;
  allocator->begin("samples");
  engine.with_whole_weights([](Context&) {});
}

}  // namespace

TrainingRow full_row(int64_t length) {
  TrainingRow row;
  row.ids.assign(static_cast<size_t>(length), 0);
  row.targets.assign(static_cast<size_t>(length), 0);
  row.targets.back() = -1;
  row.spans = {{.begin = 0, .length = static_cast<int32_t>(length)}};
  return row;
}

struct TrainingPlanner::Rank {
  TensorParallelPlace place;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Adapter> adapter;
  bool is_like_another = false;  // allocates what an earlier rank does
};

TrainingPlanner::TrainingPlanner(const OpenedModel& opened, const std::optional<LoraOptions>& lora, int tensor) {
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
  auto allocator = std::make_shared<PlannedAllocator>();
  allocator->begin("load");
  {
    BorrowedParameters of_model(rank.model->parameters());
    std::optional<BorrowedParameters> of_adapter;
    if (rank.adapter) of_adapter.emplace(rank.adapter->parameters());
    run_step(setup, *rank.model, rank.adapter.get(), allocator);
  }
  return {.peaks = allocator->peaks(),
          .peak_total = allocator->memory().peak_total(),
          .at_peak = allocator->at_peak(),
          .moment = allocator->peak_moment(),
          .place = rank.place};
}

}  // namespace weft
