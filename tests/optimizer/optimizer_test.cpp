#include "optimizer/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "optimizer/optimizer_run.h"
#include "optimizer/orthogonalize.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RankRun;
using testing::RunOptions;

RunOptions default_run(const OptimizerOptions& optimizer, DType dtype = DType::f32) {
  return {.optimizer = optimizer,
          .parameters = testing::all_shard_kinds(),
          .dtype = dtype,
          .start = [](const std::string& name,
                      int64_t element) { return static_cast<float>(bfloat16(testing::random_start(name, element))); },
          .gradient = testing::random_gradient};
}

std::unique_ptr<RankRun> one_rank(const RunOptions& options) {
  return std::make_unique<RankRun>(options, make_cpu_context(1), TensorParallelPlace{}, 0, 1, PieceSharing{});
}

std::vector<float> read_state(const Optimizer& optimizer, std::string_view state, size_t piece) {
  int64_t count = optimizer.pieces()[piece].end - optimizer.pieces()[piece].begin;
  std::vector<float> values(static_cast<size_t>(count));
  optimizer.read_state(state, piece, 0, count, values.data());
  return values;
}

std::vector<float> read_weight(const OptimizerPiece& piece) {
  std::vector<float> values(static_cast<size_t>(piece.end - piece.begin));
  convert_dtype(piece.weight.raw(), piece.weight.dtype(), values.data(), DType::f32, piece.end - piece.begin);
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

const OptimizerKind kAllKinds[] = {OptimizerKind::adamw,
                                   OptimizerKind::adam,
                                   OptimizerKind::lamb,
                                   OptimizerKind::lion,
                                   OptimizerKind::adafactor,
                                   OptimizerKind::muon,
                                   OptimizerKind::sgd};

TEST(MasterWeights, Bf16WithLowBitsEqualsF32ToTheBit) {
  for (OptimizerKind kind : {OptimizerKind::adamw, OptimizerKind::lion, OptimizerKind::sgd}) {
    OptimizerOptions optimizer{.kind = kind, .weight_decay = 0.1};
    auto f32 = one_rank(default_run(optimizer)), bf16 = one_rank(default_run(optimizer, DType::bf16));
    for (int64_t update = 1; update <= 60; ++update) {
      f32->step(update);
      bf16->step(update);
    }
    for (size_t piece = 0; piece < f32->optimizer().pieces().size(); ++piece) {
      std::vector<float> master = read_state(bf16->optimizer(), "master", piece);
      EXPECT_TRUE(same_bits(master, read_weight(f32->optimizer().pieces()[piece])));
      std::vector<float> weight = read_weight(bf16->optimizer().pieces()[piece]);
      for (size_t i = 0; i < weight.size(); ++i) {
        EXPECT_LE(std::abs(weight[i] - master[i]), std::ldexp(std::abs(master[i]), -8));
      }
    }
  }
}

TEST(MasterWeights, RoundedWeightsAreTheNearestBf16OfTheF32Run) {
  OptimizerOptions optimizer;
  auto f32 = one_rank(default_run(optimizer));
  optimizer.master_weights = MasterWeights::rounded;
  auto rounded = one_rank(default_run(optimizer));
  for (int64_t update = 1; update <= 20; ++update) {
    f32->step(update);
    rounded->step(update);
  }
  for (size_t piece = 0; piece < f32->optimizer().pieces().size(); ++piece) {
    std::vector<float> expected = read_weight(f32->optimizer().pieces()[piece]);
    EXPECT_TRUE(same_bits(read_state(rounded->optimizer(), "master", piece), expected));
    for (float& value : expected) value = static_cast<float>(bfloat16(value));
    EXPECT_TRUE(same_bits(read_weight(rounded->optimizer().pieces()[piece]), expected));
  }
}

TEST(StochasticRounding, IsUnbiased) {
  OptimizerOptions optimizer{
      .kind = OptimizerKind::sgd, .weight_decay = 0, .master_weights = MasterWeights::stochastic, .seed = 3};
  RunOptions options = default_run(optimizer, DType::bf16);
  options.parameters = {{"w", {40000}, {}, 0}};
  options.learning_rate = 1;
  options.start = [](const std::string&, int64_t) { return 1.0f; };
  float step = 0x1p-7f * 0.3f;  // of a bf16 ulp
  options.gradient = [&](const std::string&, int64_t, int64_t) { return -step; };
  auto run = one_rank(options);
  for (int64_t update = 1; update <= 10; ++update) run->step(update);
  double sum = 0;
  for (float weight : read_weight(run->optimizer().pieces()[0])) sum += weight;
  double mean = sum / 40000, deviation = 0x1p-7 * std::sqrt(10 * 0.3 * 0.7 / 40000);
  EXPECT_NEAR(mean, 1 + 10 * step, 4 * deviation);
  EXPECT_GT(std::abs(mean - 1), 100 * deviation);
}

/// w after one update of LAMB as bert4keras has it, with bias correction.
std::vector<double> lamb_reference(const std::vector<float>& start, const std::vector<double>& grad, double rate) {
  double weight_norm = 0, update_norm = 0;
  std::vector<double> updates;
  for (size_t i = 0; i < start.size(); ++i) {
    double m = 0.1 * grad[i] / (1 - 0.9), v = 0.001 * grad[i] * grad[i] / (1 - 0.999);
    updates.push_back(m / (std::sqrt(v) + 1e-6) + 0.1 * start[i]);
    weight_norm += start[i] * static_cast<double>(start[i]);
    update_norm += updates.back() * updates.back();
  }
  std::vector<double> result;
  for (size_t i = 0; i < start.size(); ++i) {
    result.push_back(start[i] - rate * std::sqrt(weight_norm / update_norm) * updates[i]);
  }
  return result;
}

TEST(Lamb, WithDecayInsideIsBert4kerasAndExcludedParametersAreAdamW) {
  OptimizerOptions optimizer{.kind = OptimizerKind::lamb, .epsilon = 1e-6, .weight_decay = 0.1};
  optimizer.layer_adaptation_exclude = {"norm"};
  auto run = one_rank(default_run(optimizer));
  optimizer.kind = OptimizerKind::adamw;
  auto adamw = one_rank(default_run(optimizer));
  std::vector<float> start = read_weight(run->optimizer().pieces()[0]);
  std::vector<double> grad;
  for (size_t i = 0; i < start.size(); ++i) {
    grad.push_back(testing::random_gradient("embed.weight", static_cast<int64_t>(i), 1));
  }
  run->step(1);
  adamw->step(1);
  std::vector<float> actual = read_weight(run->optimizer().pieces()[0]);
  std::vector<double> expected = lamb_reference(start, grad, 0.01);
  for (size_t i = 0; i < start.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6);
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_FLOAT_EQ(run->weight("norm.weight").data<float>()[i], adamw->weight("norm.weight").data<float>()[i]);
  }
}

TEST(Options, DecayAndRatesFollowPatterns) {
  OptimizerOptions optimizer{.kind = OptimizerKind::sgd, .weight_decay = 0.5};
  optimizer.weight_decay_exclude = {"up"};
  optimizer.decay_vectors = false;
  optimizer.learning_rate_factors = {{"layers\\.0\\.o", 3}, {"layers", 2}};
  RunOptions options = default_run(optimizer);
  options.learning_rate = 0.1;
  options.start = [](const std::string&, int64_t) { return 1.0f; };
  options.gradient = [](const std::string&, int64_t, int64_t) { return 0.0f; };
  auto run = one_rank(options);
  run->step(1);
  auto first = [&](const std::string& name) { return run->weight(name).data<float>()[0]; };
  EXPECT_FLOAT_EQ(first("embed.weight"), 0.95f);
  EXPECT_FLOAT_EQ(first("layers.0.down.weight"), 0.9f);
  EXPECT_FLOAT_EQ(first("layers.0.o.weight"), 0.85f);
  EXPECT_FLOAT_EQ(first("layers.0.up.weight"), 1);
  EXPECT_FLOAT_EQ(first("norm.weight"), 1);
}

TEST(Options, LazyRowsKeepWeightAndMomentsWithoutGradient) {
  OptimizerOptions optimizer{.weight_decay = 0.5};
  optimizer.lazy_rows = true;
  RunOptions options = default_run(optimizer);
  options.gradient = [](const std::string& name, int64_t element, int64_t update) {
    bool is_zero = name == "embed.weight" && update == 2 && element / 8 == 4;
    return is_zero ? 0.0f : testing::random_gradient(name, element, update);
  };
  auto run = one_rank(options);
  run->step(1);
  std::vector<float> weight = read_weight(run->optimizer().pieces()[0]);
  std::vector<float> moment = read_state(run->optimizer(), "exp_avg", 0);
  run->step(2);
  std::vector<float> weight_after = read_weight(run->optimizer().pieces()[0]);
  std::vector<float> moment_after = read_state(run->optimizer(), "exp_avg", 0);
  for (size_t i = 0; i < weight.size(); ++i) {
    EXPECT_EQ(weight[i] == weight_after[i], i / 8 == 4) << i;
    EXPECT_EQ(moment[i] == moment_after[i], i / 8 == 4) << i;
  }
}

TEST(Options, LookaheadMovesHalfTheWayBack) {
  OptimizerOptions optimizer{.kind = OptimizerKind::sgd, .weight_decay = 0, .lookahead_steps = 2};
  RunOptions options = default_run(optimizer);
  options.learning_rate = 1;
  options.start = [](const std::string&, int64_t) { return 1.0f; };
  options.gradient = [](const std::string&, int64_t, int64_t) { return 0.25f; };
  auto run = one_rank(options);
  std::vector<float> seen;
  for (int64_t update = 1; update <= 4; ++update) {
    run->step(update);
    seen.push_back(run->weight("norm.weight").data<float>()[0]);
  }
  EXPECT_THAT(seen, ElementsAre(0.75f, 0.75f, 0.5f, 0.5f));
}

TEST(Ema, SwapsAndSwapsBackToTheBit) {
  for (MasterWeights master :
       {MasterWeights::none, MasterWeights::full, MasterWeights::stochastic, MasterWeights::rounded}) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      OptimizerOptions optimizer{.ema_momentum = 0.5, .master_weights = master};
      auto run = one_rank(default_run(optimizer, dtype));
      for (int64_t update = 1; update <= 3; ++update) run->step(update);
      Optimizer& swapped = run->optimizer();
      std::vector<float> weight = read_weight(swapped.pieces()[0]), average = read_state(swapped, "ema", 0);
      swapped.swap_ema();
      std::vector<float> as_average = read_weight(swapped.pieces()[0]);
      for (size_t i = 0; i < average.size(); ++i) {
        EXPECT_NEAR(as_average[i], average[i], std::ldexp(std::abs(average[i]), -8));
      }
      EXPECT_FALSE(same_bits(as_average, weight));
      swapped.swap_ema();
      EXPECT_TRUE(same_bits(read_weight(swapped.pieces()[0]), weight));
      EXPECT_TRUE(same_bits(read_state(swapped, "ema", 0), average));
    }
  }
}

TEST(Ema, OfAnOptimizerWithoutIsAnError) {
  EXPECT_THROW(one_rank(default_run({}))->optimizer().swap_ema(), Error);
}

/// Copies weights, states and vectors.
void restore(Optimizer& to, Optimizer& from) {
  for (size_t piece = 0; piece < from.pieces().size(); ++piece) {
    Tensor weight = to.pieces()[piece].weight;
    std::memcpy(weight.raw(), from.pieces()[piece].weight.raw(), weight.bytes());
    for (const std::string& state : from.element_states()) {
      std::vector<float> values = read_state(from, state, piece);
      auto count = static_cast<int64_t>(values.size()), middle = count / 3;
      to.write_state(state, piece, 0, middle, values.data());
      to.write_state(state, piece, middle, count, values.data() + middle);
    }
  }
  std::vector<OptimizerVector> vectors = from.vectors(), restored = to.vectors();
  ASSERT_EQ(vectors.size(), restored.size());
  for (size_t i = 0; i < vectors.size(); ++i) {
    EXPECT_EQ(vectors[i].name + vectors[i].parameter, restored[i].name + restored[i].parameter);
    std::memcpy(restored[i].values.raw(), vectors[i].values.raw(), vectors[i].values.bytes());
  }
}

TEST(State, RestoredGoesOnToTheBit) {
  for (OptimizerKind kind : kAllKinds) {
    for (MasterWeights master :
         {MasterWeights::none, MasterWeights::full, MasterWeights::stochastic, MasterWeights::rounded}) {
      SCOPED_TRACE(std::to_string(static_cast<int>(kind)) + " " + std::to_string(static_cast<int>(master)));
      OptimizerOptions optimizer{.kind = kind, .momentum = 0.9, .ema_momentum = 0.5, .lookahead_steps = 3};
      optimizer.master_weights = master;
      DType dtype = master == MasterWeights::rounded ? DType::f32 : DType::bf16;
      auto straight = one_rank(default_run(optimizer, dtype)), first = one_rank(default_run(optimizer, dtype)),
           second = one_rank(default_run(optimizer, dtype));
      for (int64_t update = 1; update <= 4; ++update) straight->step(update);
      for (int64_t update = 1; update <= 2; ++update) first->step(update);
      restore(second->optimizer(), first->optimizer());
      for (int64_t update = 3; update <= 4; ++update) second->step(update);
      for (size_t piece = 0; piece < straight->optimizer().pieces().size(); ++piece) {
        EXPECT_TRUE(same_bits(read_weight(straight->optimizer().pieces()[piece]),
                              read_weight(second->optimizer().pieces()[piece])));
        for (const std::string& state : straight->optimizer().element_states()) {
          EXPECT_TRUE(
              same_bits(read_state(straight->optimizer(), state, piece), read_state(second->optimizer(), state, piece)))
              << state;
        }
      }
    }
  }
}

TEST(State, NamesAreTorchs) {
  EXPECT_THAT(one_rank(default_run({}, DType::bf16))->optimizer().element_states(),
              ElementsAre("master", "exp_avg", "exp_avg_sq"));
  EXPECT_THAT(one_rank(default_run({}))->optimizer().element_states(), ElementsAre("exp_avg", "exp_avg_sq"));
  auto run = one_rank(default_run({.kind = OptimizerKind::muon}));
  EXPECT_FALSE(run->optimizer().has_state("momentum_buffer", 0));
  EXPECT_TRUE(run->optimizer().has_state("exp_avg", 0));
  EXPECT_TRUE(run->optimizer().has_state("momentum_buffer", 1));
  std::vector<float> absent = read_state(run->optimizer(), "momentum_buffer", 0);
  EXPECT_THAT(absent, ::testing::Each(0.0f));
  EXPECT_THROW(read_state(run->optimizer(), "velocity", 0), Error);
}

TEST(State, BytesAreThosePlanned) {
  for (OptimizerKind kind : kAllKinds) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      for (MasterWeights master : {MasterWeights::none, MasterWeights::full, MasterWeights::rounded}) {
        OptimizerOptions optimizer{.kind = kind, .momentum = 0.9, .ema_momentum = 0.5, .master_weights = master};
        Context context = make_cpu_context(1);
        RankRun run(default_run(optimizer, dtype), context, {}, 0, 1, {});
        double expected = 0;
        for (const OptimizerPiece& piece : run.optimizer().pieces()) {
          const Parameter& parameter = *piece.parameter;
          expected += static_cast<double>(piece.end - piece.begin) *
                      optimizer_bytes_per_element(optimizer, dtype, parameter.full_shape, parameter.block);
          bool is_factored = kind == OptimizerKind::adafactor && parameter.full_shape.rank() >= 2;
          if (is_factored) expected += 4.0 * static_cast<double>(parameter.full_shape[0] + parameter.full_shape[1]);
        }
        EXPECT_EQ(static_cast<double>(context.allocator->memory().current(MemoryTag::optimizer)), expected);
      }
    }
  }
}

std::string message_of(const OptimizerOptions& optimizer) {
  try {
    one_rank(default_run(optimizer));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    return error.what();
  }
  return "no error";
}

TEST(Errors, NameTheOptionAndThePattern) {
  OptimizerOptions optimizer;
  optimizer.weight_decay_exclude = {"norm", "bias["};
  EXPECT_THAT(message_of(optimizer), HasSubstr("weight_decay_exclude: \"bias[\" is no regular expression"));
  optimizer = {};
  optimizer.learning_rate_factors = {{"(", 2}};
  EXPECT_THAT(message_of(optimizer), HasSubstr("learning_rate_factors: \"(\""));
  EXPECT_THAT(message_of({.kind = OptimizerKind::adafactor, .lazy_rows = true}), HasSubstr("lazy_rows"));
}

using Matrix = std::vector<std::vector<double>>;

Matrix multiply(const Matrix& a, const Matrix& b) {
  Matrix result(a.size(), std::vector<double>(b[0].size()));
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t k = 0; k < b.size(); ++k) {
      for (size_t j = 0; j < b[0].size(); ++j) result[i][j] += a[i][k] * b[k][j];
    }
  }
  return result;
}

Matrix transposed(const Matrix& a) {
  Matrix result(a[0].size(), std::vector<double>(a.size()));
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < a[0].size(); ++j) result[j][i] = a[i][j];
  }
  return result;
}

/// The published iteration in double, X ← aX + (bA + cA²)X on the matrix as it is.
Matrix newton_schulz(Matrix x) {
  double norm = 0;
  for (const auto& row : x) {
    for (double value : row) norm += value * value;
  }
  for (auto& row : x) {
    for (double& value : row) value /= std::sqrt(norm);
  }
  for (int step = 0; step < 5; ++step) {
    Matrix gram = multiply(x, transposed(x)), square = multiply(gram, gram);
    for (size_t i = 0; i < gram.size(); ++i) {
      for (size_t j = 0; j < gram.size(); ++j) {
        gram[i][j] = -4.7750 * gram[i][j] + 2.0315 * square[i][j] + (i == j ? 3.4445 : 0);
      }
    }
    x = multiply(gram, x);
  }
  return x;
}

TEST(Muon, FirstUpdateIsTheOrthogonalisedGradient) {
  OptimizerOptions optimizer{.kind = OptimizerKind::muon, .momentum = 0.95, .weight_decay = 0.1};
  RunOptions options = default_run(optimizer);
  auto run = one_rank(options);
  for (const char* name : {"layers.0.up.weight", "layers.0.down.weight"}) {
    const Parameter* parameter = nullptr;
    for (const OptimizerPiece& piece : run->optimizer().pieces()) {
      if (piece.parameter->name == name) parameter = piece.parameter;
    }
    auto rows = static_cast<size_t>(parameter->full_shape[0]), columns = static_cast<size_t>(parameter->full_shape[1]);
    Matrix grad(rows, std::vector<double>(columns));
    for (size_t i = 0; i < rows * columns; ++i) {
      grad[i / columns][i % columns] = testing::random_gradient(name, static_cast<int64_t>(i), 1);
    }
    Matrix update = newton_schulz(grad);
    auto fresh = one_rank(options);
    fresh->step(1);
    double scale = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)));
    for (size_t i = 0; i < rows * columns; ++i) {
      double start = options.start(name, static_cast<int64_t>(i));
      double expected = start * (1 - 0.01 * 0.1) - 0.01 * scale * update[i / columns][i % columns];
      EXPECT_NEAR(fresh->weight(name).data<float>()[i], expected, 2e-6) << name << " " << i;
    }
  }
}

TEST(Muon, OrthogonalisesAtTheSizeOfRealMatrices) {
  Context context = make_cpu_context(2);
  Tensor matrix = context.empty({192, 64}, DType::f32);
  for (int64_t i = 0; i < matrix.num_elements(); ++i) matrix.data<float>()[i] = testing::random_start("matrix", i);
  Tensor result = orthogonalize(context, matrix);
  // The columns' gram matrix has eigenvalues in [0.7², 1.2²], so its diagonal too.
  for (int64_t column = 0; column < 64; ++column) {
    double square = 0;
    for (int64_t row = 0; row < 192; ++row) square += std::pow(result.data<float>()[row * 64 + column], 2);
    EXPECT_GT(square, 0.4);
    EXPECT_LT(square, 1.5);
  }
  Tensor zeros = context.zeros({4, 8}, DType::f32);
  Tensor still = orthogonalize(context, zeros);
  for (int64_t i = 0; i < 32; ++i) EXPECT_EQ(still.data<float>()[i], 0);
}

}  // namespace
}  // namespace weft
