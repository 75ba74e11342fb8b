// Small training problems, run on any mesh of thread ranks.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "models/small_decoders.h"
#include "parallel/mesh.h"
#include "parallel/thread_communicator.h"
#include "support/late_communicator.h"
#include "train/engine.h"

namespace weft::testing {

struct MeshShape {
  int data = 1;
  int tensor = 1;
};

/// Rows of random ids, of uneven length, with some targets left out.
inline std::vector<std::vector<int32_t>> random_rows(int64_t count, int64_t vocab_size, uint64_t seed) {
  std::vector<std::vector<int32_t>> rows;
  RandomKey key{.seed = seed};
  for (int64_t r = 0; r < count; ++r) {
    auto length = static_cast<size_t>(5 + key.bits(static_cast<uint64_t>(r)) % 6);
    std::vector<int32_t>& row = rows.emplace_back();
    for (size_t t = 0; t < length; ++t) {
      uint32_t bits = key.bits(1000 + static_cast<uint64_t>(r) * 100 + t);
      row.push_back(static_cast<int32_t>(bits % static_cast<uint32_t>(vocab_size)));
    }
  }
  return rows;
}

/// Rows dealt out as the trainer does: contiguous shares, every token weighs 1 / (tokens of all rows).
inline std::vector<MicroBatch> share_of(const std::vector<std::vector<int32_t>>& rows,
                                        int64_t num_micro_batches,
                                        int rank,
                                        int num_ranks) {
  size_t tokens = 0;
  for (const auto& row : rows) tokens += row.size() - 1;
  auto per_rank = static_cast<int64_t>(rows.size()) / num_ranks;
  int64_t per_batch = per_rank / num_micro_batches;
  std::vector<MicroBatch> result(static_cast<size_t>(num_micro_batches));
  int64_t first_token = 0;
  for (int64_t r = 0; r < static_cast<int64_t>(rows.size()); ++r) {
    const auto& row = rows[static_cast<size_t>(r)];
    if (r / per_rank == rank) {
      MicroBatch& batch = result[static_cast<size_t>((r - rank * per_rank) / per_batch)];
      if (batch.targets.empty()) batch.first_token = first_token;
      batch.batch.add(row);
      for (size_t t = 0; t < row.size(); ++t) batch.targets.push_back(t + 1 < row.size() ? row[t + 1] : -1);
      batch.weights.resize(batch.targets.size(), 1.0f / static_cast<float>(tokens));
    }
    first_token += static_cast<int64_t>(row.size());
  }
  return result;
}

struct Curve {
  std::vector<double> losses, norms;
  int64_t peak_weight_bytes = 0;  // before the first step
  std::vector<float> weights;     // all trained parameters, whole, in the model's order
};

/// A parameter's whole value from this tensor-parallel group.
inline std::vector<float> whole_value(Context& context, Communicator& tensor_parallel, const Parameter& parameter) {
  Tensor full = context.zeros({parameter.full_shape.num_elements()}, DType::f32);
  TensorParallelPlace place{tensor_parallel.rank(), tensor_parallel.size()};
  if (is_first_holder(parameter.shard, place)) {
    std::vector<float> local(static_cast<size_t>(parameter.local_shape.num_elements()));
    convert_dtype(
        parameter.value.raw(), parameter.value.dtype(), local.data(), DType::f32, parameter.value.num_elements());
    int64_t width = parameter.full_shape.rank() == 1 ? 1 : parameter.full_shape[1];
    int64_t local_width = parameter.local_shape.rank() == 1 ? 1 : parameter.local_shape[1];
    for (int64_t i = 0; i < static_cast<int64_t>(local.size()); ++i) {
      int64_t row = i / local_width, column = i % local_width;
      (parameter.range.dim == 0 ? row : column) += parameter.range.begin;
      full.data<float>()[row * width + column] = local[static_cast<size_t>(i)];
    }
  }
  tensor_parallel.all_reduce(full, ReduceOp::sum);
  return {full.data<float>(), full.data<float>() + full.num_elements()};
}

struct Problem {
  DecoderConfig config;
  DType dtype = DType::f32;
  EngineOptions options;
  std::optional<LoraOptions> lora;
  Quantization quantization = Quantization::none;  // of the weights beside it
  int64_t steps = 4;
  int64_t num_micro_batches = 1;
  double learning_rate = 2e-3;
  int64_t distinct_batches = 100;  // after which the rows come again
  bool sequence_parallel = false;
  bool loads_by_block = false;
  bool late_calls = false;  // started collectives are made at the last moment
  uint64_t seed = 5;
};

/// Trains on thread ranks; the curve is rank 0's.
inline Curve train_on(const Problem& problem, MeshShape shape) {
  Curve curve;
  run_thread_ranks(shape.data * shape.tensor, [&](const std::shared_ptr<Communicator>& world) {
    Mesh mesh(problem.late_calls ? make_late_communicator(world) : world, shape.tensor);
    Context context = make_cpu_context(1);
    if (shape.tensor > 1) context.tensor_parallel = &mesh.tensor_parallel();
    context.sequence_parallel = problem.sequence_parallel;
    TensorParallelPlace place{mesh.tensor_parallel().rank(), shape.tensor};
    auto model = make_decoder(problem.config, place);
    auto load = [&](std::optional<int64_t> block) {
      LoadOptions how{
          .dtype = problem.dtype, .for_training = true, .quantization = problem.quantization, .block = block};
      initialise_parameters(context, *model, how, 17);
    };
    EngineOptions options = problem.options;
    if (problem.loads_by_block) {
      options.load_block = load;
      options.dtype = problem.dtype;
    } else {
      load(std::nullopt);
    }
    std::unique_ptr<Adapter> adapter;
    if (problem.lora) {
      adapter = std::make_unique<Adapter>(*model, *problem.lora);
      adapter->initialise(context, problem.dtype, 3);
      adapter->attach();
    }
    TrainingEngine engine(context, mesh, *model, adapter.get(), options);
    Curve mine;
    mine.peak_weight_bytes = context.allocator->memory().peak(MemoryTag::weights);
    for (int64_t step = 0; step < problem.steps; ++step) {
      auto rows =
          random_rows(4, problem.config.info.vocab_size, static_cast<uint64_t>(100 + step % problem.distinct_batches));
      auto batches = share_of(rows, problem.num_micro_batches, mesh.data_parallel().rank(), shape.data);
      RandomKey random{.seed = problem.seed, .step = static_cast<uint32_t>(step)};
      StepResult result = engine.step(batches, problem.learning_rate, random);
      mine.losses.push_back(result.loss);
      mine.norms.push_back(result.grad_norm);
    }
    engine.with_whole_weights([&](Context& whole) {
      ParameterStore& store = adapter ? adapter->parameters() : model->parameters();
      for (const Parameter& parameter : store.all()) {
        std::vector<float> values = whole_value(whole, mesh.tensor_parallel(), parameter);
        mine.weights.insert(mine.weights.end(), values.begin(), values.end());
      }
    });
    if (world->rank() == 0) curve = std::move(mine);
  });
  return curve;
}

}  // namespace weft::testing
