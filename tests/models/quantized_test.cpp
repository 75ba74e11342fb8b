// Models with weights of 8 and 4 bits.
#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "kernels/guarded.h"
#include "models/training_pass.h"
#include "parallel/thread_communicator.h"

namespace weft {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::values_of;

/// Wide enough that no rank's slice cuts a group of weights.
DecoderConfig wide_decoder() {
  DecoderConfig config = testing::small_decoder(4, 2);
  config.info.hidden_size = 96;
  config.info.intermediate_size = 128;
  config.info.head_dim = 32;
  config.attention_scale = 1 / std::sqrt(32.0);
  config.inverse_frequency = rope_frequencies({}, 32);
  return config;
}

std::vector<double> logits_of(Context& context, LanguageModel& model) {
  Tensor hidden = model.hidden(context, testing::two_sequences(), nullptr);
  return values_of(model.logits(context, hidden));
}

std::unique_ptr<LanguageModel> make_model(Context& context,
                                          const LoadOptions& options,
                                          TensorParallelPlace place = {}) {
  auto model = make_decoder(wide_decoder(), place);
  initialise_parameters(context, *model, options, 17);
  return model;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

class QuantizedModel : public ::testing::Test {
 protected:
  std::vector<double> logits(const LoadOptions& options) {
    auto model = make_model(context_, options);
    return logits_of(context_, *model);
  }
  Context context_ = make_cpu_context(2);
};

TEST_F(QuantizedModel, IsOffByWhatRoundingTheWeightsCosts) {
  std::vector<double> exact = logits({.dtype = DType::f32});
  for (DType dtype : {DType::f32, DType::bf16}) {
    double int8 = distance(logits({.dtype = dtype, .quantization = Quantization::int8}), exact);
    double int4 = distance(logits({.dtype = dtype, .quantization = Quantization::int4}), exact);
    EXPECT_LT(int8, 0.03) << dtype_name(dtype);
    EXPECT_LT(int4, 0.3) << dtype_name(dtype);
    EXPECT_GT(int4, 3 * int8) << dtype_name(dtype);
    EXPECT_GT(int8, 1e-4) << dtype_name(dtype);
  }
}

TEST_F(QuantizedModel, KeepsNormsWholeAndGivesTheOutputHeadEightBits) {
  auto model = make_model(context_, {.dtype = DType::bf16, .quantization = Quantization::int4});
  for (const Parameter& parameter : model->parameters().all()) {
    Layout expected = !parameter.is_matrix             ? Layout::row_major
                      : parameter.block == kOuterBlock ? Layout::int8
                                                       : Layout::int4;
    EXPECT_EQ(parameter.value.layout(), expected) << parameter.name;
  }
}

TEST_F(QuantizedModel, TakesTheBytesThatArePlanned) {
  for (Quantization quantization : {Quantization::none, Quantization::int8, Quantization::int4}) {
    LoadOptions options{.dtype = DType::bf16, .quantization = quantization};
    auto model = make_model(context_, options);
    int64_t total = 0;
    for (const Parameter& parameter : model->parameters().all()) {
      EXPECT_EQ(parameter_bytes(context_, parameter, options), static_cast<int64_t>(parameter.value.bytes()));
      total += parameter_bytes(context_, parameter, options);
    }
    EXPECT_EQ(context_.allocator->memory().current(MemoryTag::weights), total);
  }
}

TEST_F(QuantizedModel, IsTheSameOnTwoRanks) {
  for (Quantization quantization : {Quantization::int8, Quantization::int4}) {
    LoadOptions options{.dtype = DType::f32, .quantization = quantization};
    std::vector<double> one = logits(options), two;
    run_thread_ranks(2, [&](const std::shared_ptr<Communicator>& communicator) {
      Context context = make_cpu_context(1);
      context.tensor_parallel = communicator.get();
      auto model = make_model(context, options, {.rank = communicator->rank(), .size = communicator->size()});
      std::vector<double> mine = logits_of(context, *model);
      if (communicator->rank() == 0) two = mine;
    });
    EXPECT_LT(distance(two, one), 1e-5) << quantization_name(quantization);
  }
}

TEST_F(QuantizedModel, TakesAnAdapterBesideItsWeights) {
  for (Quantization quantization : {Quantization::int8, Quantization::int4}) {
    auto exact = make_model(context_, {.dtype = DType::f32});
    auto rounded = make_model(context_, {.dtype = DType::f32, .quantization = quantization});
    std::vector<double> base = logits_of(context_, *rounded);
    Adapter adapter(*exact, {.rank = 2}), beside(*rounded, {.rank = 2});
    testing::randomise(adapter, context_, DType::f32);
    testing::randomise(beside, context_, DType::f32);
    adapter.attach();
    beside.attach();
    std::vector<double> expected = logits_of(context_, *exact), actual = logits_of(context_, *rounded);
    EXPECT_LT(distance(actual, expected), quantization == Quantization::int8 ? 0.03 : 0.3);
    EXPECT_GT(distance(actual, base), 1e-3);
    EXPECT_THROW(beside.merge(context_), Error);
  }
}

/// Gives the matrices of a model's blocks, and all else, the values that a quantized one computes with.
void copy_values(const Context& context, LanguageModel& from, LanguageModel& to) {
  for (Parameter& parameter : to.parameters().all()) {
    Tensor& value = from.parameters().find(parameter.name)->value;
    if (value.layout() == Layout::row_major) {
      parameter.value.copy_from(value);
      continue;
    }
    std::vector<int32_t> rows;
    for (int64_t row = 0; row < value.size(0); ++row) rows.push_back(static_cast<int32_t>(row));
    context.kernels().linear.unpack_rows({.packed = value.raw(),
                                          .indices = rows.data(),
                                          .rows = parameter.value.raw(),
                                          .num_indices = value.size(0),
                                          .out_features = value.size(0),
                                          .in_features = value.size(1),
                                          .dtype = value.dtype(),
                                          .layout = value.layout()},
                                         context.stream());
  }
}

struct AdapterPass {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;
};

/// Forward and backward with a random adapter, the only one to be trained; from a quantized model if there is one.
AdapterPass adapter_pass(int ranks, Quantization quantization, bool widens_first, DType dtype = DType::f32) {
  AdapterPass result;
  std::mutex mutex;
  run_thread_ranks(ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = communicator.get();
    context.training = true;
    TensorParallelPlace place{.rank = communicator->rank(), .size = communicator->size()};
    LoadOptions options{.dtype = dtype, .for_training = true, .quantization = quantization};
    auto model = make_model(context, options, place);
    if (widens_first) {
      auto whole = make_model(context, {.dtype = dtype, .for_training = true}, place);
      copy_values(context, *model, *whole);
      model = std::move(whole);
    }
    LoraOptions lora{.rank = 3, .alpha = 6};
    auto adapter = testing::attach_random(*model, &lora, context, dtype);
    Tape tape;
    context.tape = &tape;
    Batch batch = testing::two_sequences();
    Tensor hidden = model->hidden(context, batch, nullptr);
    Tensor loss = language_model_loss(context, *model, hidden, testing::next_tokens(batch), {}).loss;
    tape.backward(context, loss);
    context.tape = nullptr;
    std::vector<Parameter*> parameters = testing::all_parameters(*model, adapter.get());
    GradientFinisher(place).finish(context, parameters);
    std::lock_guard lock(mutex);
    result.loss = values_of(loss)[0];
    testing::collect_gradients(parameters, result.gradients);
  });
  return result;
}

void expect_same_gradients(const AdapterPass& actual, const AdapterPass& expected, double tolerance) {
  EXPECT_NEAR(actual.loss, expected.loss, tolerance * expected.loss);
  ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
  for (const auto& [name, gradient] : expected.gradients) {
    EXPECT_NE(name.find("lora_"), std::string::npos) << name;
    ASSERT_EQ(actual.gradients.at(name).size(), gradient.size()) << name;
    EXPECT_LT(distance(actual.gradients.at(name), gradient), tolerance) << name;
  }
}

TEST_F(QuantizedModel, GivesAnAdapterTheGradientsOfItsWidenedWeights) {
  for (Quantization quantization : {Quantization::int8, Quantization::int4}) {
    AdapterPass expected = adapter_pass(1, quantization, true);
    EXPECT_EQ(expected.gradients.size(), 2 * 7 * 3u);
    expect_same_gradients(adapter_pass(1, quantization, false), expected, 2e-5);
    expect_same_gradients(adapter_pass(1, quantization, false, DType::bf16), expected, 0.05);
    EXPECT_GT(std::abs(adapter_pass(1, Quantization::none, false).loss - expected.loss), 1e-4 * expected.loss);
    // Ranks whose slices are whole groups round the same.
    expect_same_gradients(adapter_pass(2, quantization, false), expected, 1e-4);
  }
}

TEST_F(QuantizedModel, KeepsWhatTrainingReadsByRowsWhole) {
  auto model = make_model(context_, {.dtype = DType::bf16, .for_training = true, .quantization = Quantization::int4});
  for (const Parameter& parameter : model->parameters().all()) {
    bool is_rounded = parameter.is_matrix && parameter.block != kOuterBlock;
    EXPECT_EQ(parameter.value.layout(), is_rounded ? Layout::int4 : Layout::row_major) << parameter.name;
  }
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST_F(QuantizedModel, IsTheSameOnADeviceWhoseMemoryOnlyKernelsTouch) {
  for (Quantization quantization : {Quantization::int8, Quantization::int4}) {
    LoadOptions options{.dtype = DType::f32, .quantization = quantization};
    Context guarded = make_context(make_guarded_allocator(), 2);
    auto model = make_model(guarded, options);
    Tensor hidden = model->hidden(guarded, testing::two_sequences(), nullptr);
    EXPECT_EQ(values_of(on_host(model->logits(guarded, hidden))), logits(options));
  }
}

TEST_F(QuantizedModel, IsRefusedInTypesWithoutKernels) {
  auto load = [](Context context, const LoadOptions& options) {
    return message_of([&] { make_model(context, options); });
  };
  EXPECT_THAT(load(context_, {.dtype = DType::f64, .quantization = Quantization::int4}),
              AllOf(HasSubstr("int4"), HasSubstr("f64")));
  EXPECT_THAT(message_of([] { parse_quantization("int5"); }), AllOf(HasSubstr("int5"), HasSubstr("int4")));
}

}  // namespace
}  // namespace weft
