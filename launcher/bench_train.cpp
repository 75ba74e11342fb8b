// weft bench train: full steps of the training engine on random ids.
#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "launcher/bench_runs.h"
#include "launcher/mpi_session.h"
#include "plan/speed_bounds.h"
#include "train/engine.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kSeed = 20240;
constexpr double kLearningRate = 1e-5;
constexpr int kWarmUpSteps = 2;

/// Destroyed in a working order.
struct BenchedTraining {
  std::unique_ptr<Mesh> mesh;
  Context context;
  OpenedModel opened;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Adapter> adapter;
  std::unique_ptr<TrainingEngine> engine;
};

Recompute parse_recompute(const std::string& name) {
  if (name == "selective") return Recompute::selective;
  return name == "block" ? Recompute::block : Recompute::none;
}

void load_model(const BenchOptions& options, MpiSession& session, BenchedTraining& run) {
  refuse_quantization(options.common, "training");
  int tensor_parallel = std::max(1, options.common.tensor_parallel);
  run.context =
      make_device_context(options.common.device, resolve_threads(options.common, session), session.local_rank());
  run.mesh = std::make_unique<Mesh>(communicator_for(run.context, session.world()), tensor_parallel);
  if (tensor_parallel > 1) run.context.tensor_parallel = &run.mesh->tensor_parallel();
  run.opened = open_model(options.common.model);
  run.model = run.opened.make({run.mesh->tensor_parallel().rank(), tensor_parallel});
  LoadOptions load{
      .dtype = parse_dtype(options.common.dtype), .for_training = true, .num_threads = run.context.num_threads};
  if (run.opened.reader == nullptr) {
    initialise_parameters(run.context, *run.model, load, kSeed);
  } else {
    load_parameters(run.context, run.opened, *run.model, load);
  }
  if (options.training.lora_rank == 0) return;
  run.adapter = std::make_unique<Adapter>(
      *run.model,
      LoraOptions{.rank = options.training.lora_rank, .alpha = 2.0 * static_cast<double>(options.training.lora_rank)});
  run.adapter->initialise(run.context, load.dtype, kSeed);
  run.adapter->attach();
}

MasterWeights master_weights(const BenchOptions& options) {
  if (parse_dtype(options.common.dtype) == DType::f32) return MasterWeights::none;
  return options.training.has_masters ? MasterWeights::full : MasterWeights::stochastic;
}

void make_engine(const BenchOptions& options, BenchedTraining& run) {
  EngineOptions engine;
  engine.optimizer.master_weights = master_weights(options);
  engine.zero_stage = options.training.zero_stage;
  engine.recompute = parse_recompute(options.training.recompute);
  run.engine = std::make_unique<TrainingEngine>(run.context, *run.mesh, *run.model, run.adapter.get(), engine);
}

/// This data-parallel rank's rows of one step; other tokens at every step.
MicroBatch random_batch(const BenchedTraining& run, const BenchOptions& options, int step) {
  Communicator& ranks = run.mesh->data_parallel();
  int64_t rows = options.workload.batch;
  int64_t length = options.training.sequence_length;
  RandomKey key{.seed = kSeed, .step = static_cast<uint32_t>(step), .site = static_cast<uint32_t>(ranks.rank())};
  auto vocab_size = static_cast<uint32_t>(run.model->info().vocab_size);
  float weight = 1.0f / static_cast<float>(rows * (length - 1) * ranks.size());
  MicroBatch result;
  result.first_token = rows * length * ranks.rank();
  uint64_t index = 0;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(key.bits(index++) % vocab_size));
    result.batch.add(ids);
    result.targets.insert(result.targets.end(), ids.begin() + 1, ids.end());
    result.targets.push_back(-1);
    result.weights.insert(result.weights.end(), static_cast<size_t>(length - 1), weight);
    result.weights.push_back(0);
  }
  return result;
}

double seconds_of_step(BenchedTraining& run, const BenchOptions& options, int step) {
  std::vector<MicroBatch> batches;
  batches.push_back(random_batch(run, options, step));
  auto start = Clock::now();
  StepResult result = run.engine->step(batches, kLearningRate, {.seed = kSeed, .step = static_cast<uint32_t>(step)});
  run.context.allocator->synchronize();
  if (result.skipped) fail(ExitCode::failure, "the loss is {}: there is nothing to time", result.loss);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check_length(const BenchedTraining& run, const BenchOptions& options) {
  int64_t limit = run.model->info().max_positions;
  if (limit == 0 || options.training.sequence_length <= limit) return;
  fail_input(
      "--sequence is {}, the model was made for {} positions; use fewer", options.training.sequence_length, limit);
}

/// To be called before the peaks are measured, which takes memory too.
void add_memory(const MemoryTracker& memory, BenchResult& result) {
  for (size_t i = 0; i < kNumMemoryTags; ++i) {
    auto tag = static_cast<MemoryTag>(i);
    if (memory.peak(tag) == 0) continue;
    result.details.emplace_back("peak_" + std::string(memory_tag_name(tag)) + "_bytes",
                                static_cast<double>(memory.peak(tag)));
  }
  result.details.emplace_back("peak_bytes", static_cast<double>(memory.peak_total()));
  result.details.emplace_back("peak_resident_bytes", static_cast<double>(peak_resident_bytes()));
}

double adapter_weights(const BenchedTraining& run) {
  double count = 0;
  if (run.adapter == nullptr) return 0;
  for (const Parameter& parameter : run.adapter->parameters().all()) {
    count += static_cast<double>(parameter.full_shape.num_elements());
  }
  return count;
}

}  // namespace

BenchResult bench_train(const BenchOptions& options, MpiSession& session) {
  BenchedTraining run;
  load_model(options, session, run);
  check_length(run, options);
  make_engine(options, run);
  BenchResult result{.unit = "tokens/s", .formula = "ranks x matrix peak / operations a token"};
  auto tokens =
      static_cast<double>(options.workload.batch * options.training.sequence_length * run.mesh->data_parallel().size());
  for (int step = 0; step < kWarmUpSteps + options.repetitions; ++step) {
    double seconds = seconds_of_step(run, options, step);
    if (step >= kWarmUpSteps) result.values.push_back(tokens / seconds);
  }
  result.details = {{"seconds_per_step", tokens / result.median()}};
  add_memory(run.context.allocator->memory(), result);
  run.mesh->world().barrier();
  MachinePeaks peaks = measure_machine_peaks(parse_dtype(options.common.dtype), run.context.stream());
  double flops = training_flops_per_token(
      *run.model, options.training.sequence_length, static_cast<int64_t>(adapter_weights(run)));
  result.bound = session.size() * peaks.matmul_flops_per_second / flops;
  result.details.emplace_back("flops_per_token", flops);
  result.details.emplace_back("matmul_flops_per_second", peaks.matmul_flops_per_second);
  report_memory(options.common, session, run.context);
  return result;
}

}  // namespace weft
