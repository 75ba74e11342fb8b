// Steps of the engine, and what memory they took: what plans of training are compared with.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "data/memory_rows.h"
#include "parallel/mesh.h"
#include "parallel/thread_communicator.h"
#include "plan/training_plan.h"
#include "train/step_batches.h"

namespace weft::testing {

using MakeModel = std::function<std::unique_ptr<LanguageModel>(TensorParallelPlace place)>;

/// What a rank used.
struct Measured {
  TensorParallelPlace place;
  BytesByTag peaks{};
  int64_t peak_total = 0;
};

inline Measured train_rank(const TrainingSetup& setup,
                           const std::optional<LoraOptions>& lora,
                           const MakeModel& make,
                           const std::shared_ptr<Communicator>& world) {
  constexpr uint32_t kSteps = 2;
  Mesh mesh(world, setup.tensor);
  Context context = make_cpu_context(1);
  if (setup.tensor > 1) context.tensor_parallel = &mesh.tensor_parallel();
  context.sequence_parallel = setup.sequence_parallel;
  TensorParallelPlace place{mesh.tensor_parallel().rank(), setup.tensor};
  auto model = make(place);
  auto load = [&](std::optional<int64_t> block) {
    LoadOptions how{.dtype = setup.dtype, .for_training = true, .quantization = setup.quantization, .block = block};
    initialise_parameters(context, *model, how, 17);
  };
  EngineOptions options = setup.engine;
  if (setup.loads_by_block) {
    options.load_block = load;
    options.dtype = setup.dtype;
  } else {
    load(std::nullopt);
  }
  std::unique_ptr<Adapter> adapter;
  if (lora) {
    adapter = std::make_unique<Adapter>(*model, *lora);
    adapter->initialise(context, setup.dtype, 3);
    adapter->attach();
  }
  TrainingEngine engine(context, mesh, *model, adapter.get(), options);
  std::shared_ptr<const TrainingData> rows = setup.rows;
  if (rows == nullptr) rows = make_memory_rows({full_row(setup.sequence_length)}, false, 0);
  int64_t num_rows = setup.data * setup.num_micro_batches * setup.micro_batch_rows;
  StepBatches batches = deal_out(*rows, 0, num_rows, setup.micro_batch_rows, {mesh.data_parallel().rank(), setup.data});
  for (uint32_t step = 0; step < kSteps; ++step) {
    engine.step(batches.micro_batches, 1e-4, {.seed = 1, .step = step});
  }
  if (setup.writes_samples) engine.with_whole_weights([](Context&) {});
  const MemoryTracker& memory = context.allocator->memory();
  Measured measured{.place = place, .peaks = {}, .peak_total = memory.peak_total()};
  for (size_t tag = 0; tag < kNumMemoryTags; ++tag) measured.peaks[tag] = memory.peak(static_cast<MemoryTag>(tag));
  return measured;
}

/// On threads. Objectives are of one rank each: `setup` gives a rank its own.
inline std::vector<Measured> train_all(const std::function<TrainingSetup()>& setup,
                                       const std::optional<LoraOptions>& lora,
                                       const MakeModel& make) {
  std::vector<Measured> all;
  std::mutex mutex;
  TrainingSetup first = setup();
  run_thread_ranks(first.data * first.tensor, [&](const std::shared_ptr<Communicator>& world) {
    Measured measured = train_rank(setup(), lora, make, world);
    std::lock_guard lock(mutex);
    all.push_back(measured);
  });
  return all;
}

}  // namespace weft::testing
