// The promise: the same answer at every split, gradients included.

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "autograd/tape.h"
#include "core/error.h"
#include "models/small_decoders.h"
#include "parallel/thread_communicator.h"

namespace weft {
namespace {

using testing::NamedDecoder;

struct Outcome {
  std::vector<double> logits;
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;  // whole, assembled from the ranks' slices
};

Batch two_sequences() {
  Batch batch;
  batch.add({3, 36, 7, 7, 1});
  batch.add({0, 18, 19, 20, 2, 5, 11});
  return batch;
}

std::vector<double> values_of(const Tensor& tensor) {
  return {tensor.data<double>(), tensor.data<double>() + tensor.num_elements()};
}

void place_slice(const Parameter& parameter, const Tensor& grad, std::vector<double>& whole) {
  whole.resize(static_cast<size_t>(parameter.full_shape.num_elements()));
  int64_t full_width = parameter.full_shape.rank() == 1 ? 1 : parameter.full_shape[1];
  int64_t local_width = parameter.local_shape.rank() == 1 ? 1 : parameter.local_shape[1];
  int64_t row_begin = parameter.range.dim == 0 ? parameter.range.begin : 0;
  int64_t column_begin = parameter.range.dim == 1 ? parameter.range.begin : 0;
  for (int64_t row = 0; row < parameter.local_shape[0]; ++row) {
    for (int64_t column = 0; column < local_width; ++column) {
      whole[static_cast<size_t>((row_begin + row) * full_width + column_begin + column)] =
          grad.data<double>()[row * local_width + column];
    }
  }
}

Outcome run(const DecoderConfig& config, int size) {
  Outcome outcome;
  std::mutex mutex;
  run_thread_ranks(size, [&](const std::shared_ptr<Communicator>& communicator) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = communicator.get();
    auto model = testing::make_random(context, config, {communicator->rank(), size}, DType::f64);
    set_trainable(*model, true);
    Tape tape;
    context.tape = &tape;
    Tensor hidden = model->hidden(context, two_sequences(), nullptr);
    std::vector<int32_t> targets = {36, 7, 7, 1, -1, 18, 19, 20, 2, 5, 11, -1};
    LanguageModelLoss loss = language_model_loss(context, *model, hidden, targets, {});
    tape.backward(context, loss.loss);
    context.tape = nullptr;
    finish_gradients(context, *model);
    Tensor logits = model->logits(context, hidden.detach());
    std::lock_guard lock(mutex);
    for (const Parameter& parameter : model->parameters().all()) {
      const Tensor& grad = parameter.value.grad_slot()->tensor;
      if (grad) place_slice(parameter, grad, outcome.gradients[parameter.name]);
    }
    if (communicator->rank() == 0) {
      outcome.logits = values_of(logits);
      outcome.loss = *loss.loss.data<double>();
    } else {
      EXPECT_EQ(outcome.logits.empty() || outcome.logits == values_of(logits), true);
    }
  });
  return outcome;
}

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 1e-6;
  for (double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], 1e-10 * largest) << what << " element " << i;
}

class TensorParallel : public ::testing::TestWithParam<std::tuple<int, NamedDecoder>> {};

TEST_P(TensorParallel, GivesWhatOneRankGives) {
  auto [size, decoder] = GetParam();
  if (size > decoder.config.info.num_kv_heads && size % decoder.config.info.num_kv_heads != 0) {
    EXPECT_THROW(make_decoder(decoder.config, {0, size}), Error);
    return;
  }
  Outcome one = run(decoder.config, 1);
  Outcome many = run(decoder.config, size);
  EXPECT_NEAR(many.loss, one.loss, 1e-12);
  expect_near(many.logits, one.logits, "logits");
  ASSERT_EQ(many.gradients.size(), one.gradients.size());
  for (const auto& [name, gradient] : one.gradients) expect_near(many.gradients[name], gradient, name);
}

INSTANTIATE_TEST_SUITE_P(All,
                         TensorParallel,
                         ::testing::Combine(::testing::Values(2, 4), ::testing::ValuesIn(testing::small_decoders())),
                         [](const auto& info) {
                           return std::get<1>(info.param).name + "_on_" + std::to_string(std::get<0>(info.param));
                         });

TEST(TensorParallel, DegreesThatDoNotFitAreRefused) {
  EXPECT_THROW(make_decoder(testing::small_decoder(4, 4), {0, 3}), Error);  // 32 intermediate columns
  EXPECT_THROW(make_decoder(testing::small_decoder(6, 2), {0, 3}), Error);
  EXPECT_THROW(make_decoder(testing::small_decoder(2, 2), {0, 4}), Error);
}

}  // namespace
}  // namespace weft
