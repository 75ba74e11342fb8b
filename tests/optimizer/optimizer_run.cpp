#include "optimizer/optimizer_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <mutex>

#include "core/random.h"
#include "optimizer/element_map.h"
#include "optimizer/grad_norm.h"
#include "parallel/mesh.h"
#include "parallel/thread_communicator.h"

namespace weft::testing {
namespace {

uint32_t site(const std::string& name) {
  uint32_t sum = 0;
  for (char c : name) sum = sum * 31 + static_cast<unsigned char>(c);
  return sum;
}

/// Cuts [0, total) at places that are no multiples of anything.
int64_t cut(int64_t total, int index, int count) {
  if (index == 0) return 0;
  if (index == count) return total;
  return total * index / count + (index % 2 == 1 ? 1 : -2);
}

float sum_of_uniforms(const RandomKey& key, int64_t element) {
  auto index = static_cast<uint64_t>(element);
  return 1.7f * (key.uniform(3 * index) + key.uniform(3 * index + 1) + key.uniform(3 * index + 2) - 1.5f);
}

}  // namespace

float random_start(const std::string& name, int64_t element) {
  return sum_of_uniforms({.seed = 1, .step = 0, .site = site(name)}, element);
}

float random_gradient(const std::string& name, int64_t element, int64_t update) {
  return sum_of_uniforms({.seed = 2, .step = static_cast<uint32_t>(update), .site = site(name)}, element);
}

std::vector<TestParameter> all_shard_kinds() {
  return {{"embed.weight", {13, 8}, {.kind = ShardKind::vocabulary}, kOuterBlock},
          {"layers.0.up.weight", {10, 6}, {.kind = ShardKind::rows}, 0},
          {"layers.0.down.weight", {7, 10}, {.kind = ShardKind::columns}, 0},
          {"layers.0.q.weight", {8, 6}, {.kind = ShardKind::heads, .num_heads = 4, .num_kv_heads = 1}, 0},
          {"layers.0.k.weight", {2, 6}, {.kind = ShardKind::kv_heads, .num_heads = 1, .num_kv_heads = 1}, 0},
          {"layers.0.o.weight", {6, 8}, {.kind = ShardKind::head_columns, .num_heads = 4, .num_kv_heads = 1}, 0},
          {"layers.0.adapter.weight", {3, 7}, {}, 0},
          {"norm.weight", {6}, {}, kOuterBlock}};
}

RankRun::RankRun(const RunOptions& options,
                 const Context& context,
                 TensorParallelPlace place,
                 int data_rank,
                 int num_data_ranks,
                 const PieceSharing& sharing)
    : options_(options), context_(context), place_(place), sharing_(sharing), store_(place) {
  int64_t total = 0;
  for (const TestParameter& test : options.parameters) {
    store_.set_block(test.block);
    Parameter& parameter = store_.add(test.name, test.shape, test.shard);
    int64_t count = parameter.local_shape.num_elements();
    ElementMap map = element_map(parameter.full_shape, parameter.range, 0);
    std::vector<float> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = options.start(test.name, map.full_index(i));
    parameter.value = context.empty({count}, options.dtype, MemoryTag::weights);
    convert_dtype(values.data(), DType::f32, parameter.value.raw(), options.dtype, count);
    total += count;
  }
  int64_t begin = cut(total, data_rank, num_data_ranks), end = cut(total, data_rank + 1, num_data_ranks);
  std::vector<OptimizerPiece> pieces;
  int64_t offset = 0;
  for (const Parameter& parameter : store_.all()) {
    int64_t count = parameter.value.num_elements();
    int64_t first = std::clamp<int64_t>(begin - offset, 0, count), last = std::clamp<int64_t>(end - offset, 0, count);
    offset += count;
    if (first == last) continue;
    pieces.push_back({.parameter = &parameter,
                      .begin = first,
                      .end = last,
                      .weight = parameter.value.slice(first, last),
                      .grad = context.empty({last - first}, DType::f32, MemoryTag::grads)});
  }
  optimizer_ = make_optimizer(context, options.optimizer, std::move(pieces), place, sharing);
}

void RankRun::fill_gradients(int64_t update) {
  for (const OptimizerPiece& piece : optimizer_->pieces()) {
    ElementMap map = element_map(piece.parameter->full_shape, piece.parameter->range, piece.begin);
    Tensor grad = piece.grad;
    for (int64_t i = 0; i < piece.end - piece.begin; ++i) {
      grad.data<float>()[i] = options_.gradient(piece.parameter->name, map.full_index(i), update);
    }
  }
}

void RankRun::step(int64_t update) {
  fill_gradients(update);
  optimizer_->step(
      {.learning_rate = options_.learning_rate, .gradient_scale = options_.gradient_scale, .update = update});
}

double RankRun::grad_norm(int64_t update) {
  fill_gradients(update);
  return global_grad_norm(context_, optimizer_->pieces(), place_, sharing_);
}

const Tensor& RankRun::weight(const std::string& name) const {
  for (const Parameter& parameter : store_.all()) {
    if (parameter.name == name) return parameter.value;
  }
  throw std::runtime_error("no parameter " + name);
}

void RankRun::collect(RunResult& result) const {
  auto scatter = [](const OptimizerPiece& piece, const std::vector<float>& from, Values& to) {
    std::vector<float>& whole = to[piece.parameter->name];
    whole.resize(static_cast<size_t>(piece.parameter->full_shape.num_elements()), -12345.0f);
    ElementMap map = element_map(piece.parameter->full_shape, piece.parameter->range, piece.begin);
    for (size_t i = 0; i < from.size(); ++i) {
      float& element = whole[static_cast<size_t>(map.full_index(static_cast<int64_t>(i)))];
      bool is_new = element == -12345.0f || std::bit_cast<uint32_t>(element) == std::bit_cast<uint32_t>(from[i]);
      EXPECT_TRUE(is_new) << piece.parameter->name << ": ranks that hold the same element disagree";
      element = from[i];
    }
  };
  const std::vector<OptimizerPiece>& pieces = optimizer_->pieces();
  for (size_t index = 0; index < pieces.size(); ++index) {
    const OptimizerPiece& piece = pieces[index];
    std::vector<float> values(static_cast<size_t>(piece.end - piece.begin));
    convert_dtype(piece.weight.raw(), piece.weight.dtype(), values.data(), DType::f32, piece.end - piece.begin);
    scatter(piece, values, result.weights);
    for (const std::string& state : optimizer_->element_states()) {
      optimizer_->read_state(state, index, 0, piece.end - piece.begin, values.data());
      scatter(piece, values, result.states[state]);
    }
  }
}

RunResult run_on_ranks(const RunOptions& options, int num_data_ranks, int num_tensor_ranks) {
  RunResult result;
  std::mutex mutex;
  run_thread_ranks(num_data_ranks * num_tensor_ranks, [&](const std::shared_ptr<Communicator>& world) {
    Mesh mesh(world, num_tensor_ranks);
    Context context = make_cpu_context(1);
    PieceSharing sharing{.data_parallel = num_data_ranks > 1 ? &mesh.data_parallel() : nullptr,
                         .tensor_parallel = num_tensor_ranks > 1 ? &mesh.tensor_parallel() : nullptr};
    RankRun run(options,
                context,
                {mesh.tensor_parallel().rank(), num_tensor_ranks},
                mesh.data_parallel().rank(),
                num_data_ranks,
                sharing);
    for (int64_t update = 1; update <= options.num_updates; ++update) run.step(update);
    double norm = run.grad_norm(options.num_updates);
    std::lock_guard lock(mutex);
    run.collect(result);
    EXPECT_TRUE(result.last_grad_norm == 0 || result.last_grad_norm == norm);
    result.last_grad_norm = norm;
  });
  return result;
}

}  // namespace weft::testing
