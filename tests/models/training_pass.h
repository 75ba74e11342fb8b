// One training pass of a small decoder on ranks that are threads: loss, logits and whole gradients.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "autograd/block.h"
#include "autograd/tape.h"
#include "models/adapter.h"
#include "models/small_decoders.h"
#include "parallel/thread_communicator.h"

namespace weft::testing {

struct Outcome {
  std::vector<double> logits;
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;  // whole, assembled from the ranks' slices
};

struct PassOptions {
  int ranks = 1;
  bool sequence_parallel = false;
  const LoraOptions* lora = nullptr;
  bool train_base = true;
  bool with_offset = false;  // embedding_offset; its gradient is called "offset"
  LossReduction reduction = LossReduction::mean;
  DType dtype = DType::f64;
  BlockHooks* hooks = nullptr;
  int64_t first_token = 0;
  Batch batch = {};  // two_sequences() if empty
};

/// The same recomputation for every block; may be shared by ranks.
class RecomputeHooks final : public BlockHooks {
 public:
  explicit RecomputeHooks(Recompute recompute) : recompute_(recompute) {}
  Recompute recompute(int64_t) const override { return recompute_; }
  void before_forward(Context&, int64_t) override {}
  void after_forward(Context&, int64_t) override {}
  void before_backward(Context&, int64_t) override {}
  void after_backward(Context&, int64_t) override {}

 private:
  Recompute recompute_;
};

inline Batch two_sequences() {
  Batch batch;
  batch.add({3, 36, 7, 7, 1});
  batch.add({0, 18, 19, 20, 2, 5, 11});
  return batch;
}

/// The next token of each sequence; −1 at its end.
inline std::vector<int32_t> next_tokens(const Batch& batch) {
  std::vector<int32_t> targets(batch.ids.begin() + 1, batch.ids.end());
  targets.push_back(-1);
  for (const BatchSequence& sequence : batch.sequences)
    targets[static_cast<size_t>(sequence.begin + sequence.length - 1)] = -1;
  return targets;
}

inline std::vector<double> values_of(const Tensor& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
  for (int64_t i = 0; i < tensor.num_elements(); ++i)
    values[static_cast<size_t>(i)] =
        tensor.dtype() == DType::f64 ? tensor.data<double>()[i] : double{tensor.data<float>()[i]};
  return values;
}

inline void place_slice(const Parameter& parameter, const Tensor& grad, std::vector<double>& whole) {
  whole.resize(static_cast<size_t>(parameter.full_shape.num_elements()));
  int64_t full_width = parameter.full_shape.rank() == 1 ? 1 : parameter.full_shape[1];
  int64_t local_width = parameter.local_shape.rank() == 1 ? 1 : parameter.local_shape[1];
  int64_t row_begin = parameter.range.dim == 0 ? parameter.range.begin : 0;
  int64_t column_begin = parameter.range.dim == 1 ? parameter.range.begin : 0;
  std::vector<double> local = values_of(grad);
  for (int64_t row = 0; row < parameter.local_shape[0]; ++row) {
    for (int64_t column = 0; column < local_width; ++column) {
      whole[static_cast<size_t>((row_begin + row) * full_width + column_begin + column)] =
          local[static_cast<size_t>(row * local_width + column)];
    }
  }
}

/// Both factors random, so that no gradient vanishes; the same at every split.
inline void randomise(Adapter& adapter, const Context& context, DType dtype) {
  adapter.initialise(context, dtype, 5);
  uint32_t site = 0;
  for (Parameter& parameter : adapter.parameters().all()) {
    RandomKey key{.seed = 77, .step = 0, .site = site++};
    int64_t width = parameter.local_shape[1];
    int64_t row_begin = parameter.range.dim == 0 ? parameter.range.begin : 0;
    int64_t column_begin = parameter.range.dim == 1 ? parameter.range.begin : 0;
    for (int64_t i = 0; i < parameter.local_shape.num_elements(); ++i) {
      auto index = static_cast<uint64_t>((row_begin + i / width) * parameter.full_shape[1] + column_begin + i % width);
      float value = 0.2f * (key.uniform(index) - 0.5f);
      std::byte* target = static_cast<std::byte*>(parameter.value.raw()) + static_cast<size_t>(i) * dtype_bytes(dtype);
      convert_dtype(&value, DType::f32, target, dtype, 1);
    }
  }
}

/// An adapter with random factors that the model runs with from now on and that wants gradients; null without options.
inline std::unique_ptr<Adapter> attach_random(LanguageModel& model,
                                              const LoraOptions* options,
                                              const Context& context,
                                              DType dtype) {
  if (options == nullptr) return nullptr;
  auto adapter = std::make_unique<Adapter>(model, *options);
  randomise(*adapter, context, dtype);
  set_trainable(adapter->parameters(), true);
  adapter->attach();
  return adapter;
}

/// Of a model and its adapter, if it has one.
inline std::vector<Parameter*> all_parameters(LanguageModel& model, Adapter* adapter) {
  std::vector<Parameter*> parameters;
  for (Parameter& parameter : model.parameters().all()) parameters.push_back(&parameter);
  if (adapter == nullptr) return parameters;
  for (Parameter& parameter : adapter->parameters().all()) parameters.push_back(&parameter);
  return parameters;
}

/// Puts a rank's slices of finished gradients in their places.
inline void collect_gradients(const std::vector<Parameter*>& parameters,
                              std::map<std::string, std::vector<double>>& gradients) {
  for (const Parameter* parameter : parameters) {
    const auto& slot = parameter->value.grad_slot();
    if (slot != nullptr && slot->tensor) place_slice(*parameter, slot->tensor, gradients[parameter->name]);
  }
}

/// What one rank needs for a pass.
struct Rank {
  Rank(const DecoderConfig& config, const PassOptions& options, const std::shared_ptr<Communicator>& communicator)
      : context(make_cpu_context(1)) {
    context.tensor_parallel = communicator.get();
    context.sequence_parallel = options.sequence_parallel;
    context.training = true;
    context.random = {.seed = 3, .step = 4, .site = 0};
    context.first_token = options.first_token;
    context.blocks = options.hooks;
    model = make_random(context, config, {communicator->rank(), communicator->size()}, options.dtype);
    set_trainable(*model, options.train_base);
    batch = options.batch.ids.empty() ? two_sequences() : options.batch;
    if (options.with_offset) add_offset(config, options.dtype);
    adapter = attach_random(*model, options.lora, context, options.dtype);
  }

  /// Forward and backward; gradients are finished.
  double run(LossReduction reduction) {
    Tape tape;
    context.tape = &tape;
    hidden = model->hidden(context, batch, nullptr);
    LanguageModelLoss loss = language_model_loss(context, *model, hidden, next_tokens(batch), {}, reduction);
    tape.backward(context, loss.loss);
    context.tape = nullptr;
    GradientFinisher(model->parameters().place()).finish(context, all_parameters(*model, adapter.get()));
    return values_of(loss.loss)[0];
  }

  void collect(std::map<std::string, std::vector<double>>& gradients) {
    collect_gradients(all_parameters(*model, adapter.get()), gradients);
    if (batch.embedding_offset) gradients["offset"] = values_of(batch.embedding_offset.grad_slot()->tensor);
  }

  void add_offset(const DecoderConfig& config, DType dtype) {
    Shape shape = {batch.num_tokens(), config.info.hidden_size};
    batch.embedding_offset = context.empty(shape, dtype);
    for (int64_t i = 0; i < shape.num_elements(); ++i)
      batch.embedding_offset.data<double>()[i] = 0.01 * RandomKey{.seed = 6}.uniform(static_cast<uint64_t>(i));
    batch.embedding_offset.set_grad_slot(std::make_shared<GradSlot>());
  }

  Context context;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Adapter> adapter;
  Batch batch;
  Tensor hidden;
};

inline Outcome run_pass(const DecoderConfig& config, const PassOptions& options) {
  Outcome outcome;
  std::mutex mutex;
  run_thread_ranks(options.ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    Rank rank(config, options, communicator);
    double loss = rank.run(options.reduction);
    Tensor logits = rank.model->logits(rank.context, rank.hidden.detach());
    std::lock_guard lock(mutex);
    rank.collect(outcome.gradients);
    EXPECT_TRUE(outcome.logits.empty() || outcome.logits == values_of(logits)) << "ranks differ";
    outcome.logits = values_of(logits);
    outcome.loss = loss;
  });
  return outcome;
}

inline void expect_near(const std::vector<double>& actual,
                        const std::vector<double>& expected,
                        const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 1e-6;
  for (double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], 1e-10 * largest) << what << " element " << i;
}

/// Equal up to rounding in double.
inline void expect_same(const Outcome& actual, const Outcome& expected) {
  EXPECT_NEAR(actual.loss, expected.loss, 1e-12 * std::max(1.0, std::abs(expected.loss)));
  expect_near(actual.logits, expected.logits, "logits");
  ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
  for (const auto& [name, gradient] : expected.gradients) {
    ASSERT_TRUE(actual.gradients.count(name) == 1) << name;
    expect_near(actual.gradients.at(name), gradient, name);
  }
}

}  // namespace weft::testing
