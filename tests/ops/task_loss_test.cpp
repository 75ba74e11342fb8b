// The losses of structured tasks: gradients against finite differences, values against all that there is counted out.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "ops/contrastive.h"
#include "ops/crf.h"
#include "ops/global_pointer.h"
#include "ops/loss.h"
#include "ops/loss_node.h"
#include "ops/multilabel.h"
#include "parallel/thread_communicator.h"
#include "support/grad_check.h"

namespace weft {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using Inputs = std::vector<Tensor>;

class TaskLoss : public ::testing::Test {
 protected:
  Tensor random(const Shape& shape, uint64_t seed, double scale = 1.0) {
    return random_tensor(context_, shape, seed, scale);
  }
  Context context_ = make_cpu_context(1);
};

/// Scores of all label sequences of some rows.
struct AllPaths {
  double log_sum = 0;
  double best = -INFINITY;
  std::vector<int32_t> best_path;
  double of_labels = 0;
};

AllPaths count_paths(const std::vector<double>& emissions,
                     const std::vector<double>& transitions,
                     size_t labels,
                     const CrfSequence& sequence) {
  size_t steps = sequence.rows.size();
  size_t count = 1;
  for (size_t t = 0; t < steps; ++t) count *= labels;
  AllPaths all;
  double sum = 0;
  for (size_t number = 0; number < count; ++number) {
    std::vector<int32_t> path;
    size_t rest = number;
    double score = 0;
    for (size_t t = 0; t < steps; ++t) {
      path.push_back(static_cast<int32_t>(rest % labels));
      rest /= labels;
      score += emissions[static_cast<size_t>(sequence.rows[t]) * labels + static_cast<size_t>(path[t])];
      if (t > 0) score += transitions[static_cast<size_t>(path[t - 1]) * labels + static_cast<size_t>(path[t])];
    }
    sum += std::exp(score);
    if (score > all.best) all.best = score, all.best_path = path;
    if (path == sequence.labels) all.of_labels = score;
  }
  all.log_sum = std::log(sum);
  return all;
}

const std::vector<CrfSequence> kSequences = {{.rows = {0, 1, 3, 4}, .labels = {2, 0, 0, 1}, .weight = 0.5f},
                                             {.rows = {5}, .labels = {1}, .weight = 2},
                                             {.rows = {}, .labels = {}, .weight = 1},
                                             {.rows = {6, 7, 8}, .labels = {2, 2, 1}, .weight = 1}};

TEST_F(TaskLoss, CrfIsTheLogarithmOfTheLabelsShareOfAllPaths) {
  Tensor emissions = random({9, 3}, 1, 2.0), transitions = random({3, 3}, 2);
  std::vector<double> scaled = to_doubles(transitions);
  for (double& value : scaled) value *= 3;
  double expected = 0;
  for (const CrfSequence& sequence : kSequences) {
    if (sequence.rows.empty()) continue;
    AllPaths all = count_paths(to_doubles(emissions), scaled, 3, sequence);
    expected += static_cast<double>(sequence.weight) * (all.log_sum - all.of_labels);
  }
  EXPECT_NEAR(*crf_loss(context_, emissions, transitions, 3, kSequences).data<double>(), expected, 1e-12);
}

TEST_F(TaskLoss, ViterbiFindsTheBestOfAllPaths) {
  for (uint64_t seed = 1; seed < 20; ++seed) {
    Tensor emissions = random({6, 3}, seed), transitions = random({3, 3}, 100 + seed);
    CrfSequence all_rows{.rows = {0, 1, 2, 3, 4, 5}, .labels = {}};
    AllPaths all = count_paths(to_doubles(emissions), to_doubles(transitions), 3, all_rows);
    EXPECT_EQ(viterbi(to_doubles(emissions), to_doubles(transitions), 3), all.best_path);
  }
}

TEST_F(TaskLoss, GradientOfCrf) {
  check_gradients(context_, {random({9, 3}, 1, 2.0), random({3, 3}, 2)}, [](Context& context, const Inputs& in) {
    return crf_loss(context, in[0], in[1], 3, kSequences);
  });
}

TEST_F(TaskLoss, GradientOfPointer) {
  std::vector<PointerSequence> sequences = {
      {.begin = 0, .length = 4, .marks = {{.label = 0, .first = 1, .last = 2}, {.label = 1, .first = 0, .last = 3}}},
      {.begin = 5, .length = 3, .marks = {}, .weight = 0.25f}};
  PointerShape shape{.labels = 2, .size = 4};
  check_gradients(context_, {random({8, 16}, 1)}, [&](Context& context, const Inputs& in) {
    return pointer_loss(context, in[0], shape, sequences);
  });
}

TEST_F(TaskLoss, PointerIsTheSumOverMarkedAndUnmarkedPairs) {
  PointerShape shape{.labels = 1, .size = 2};
  Tensor outputs = random({3, 4}, 1);
  std::vector<float> scores = pointer_scores(outputs, shape, 0, 3);
  double marked = 1, others = 1;
  for (size_t i = 0; i < scores.size(); ++i) {
    EXPECT_EQ(std::isinf(scores[i]), i % 3 < i / 3) << "a last token before the first";
    if (i == 1) marked += std::exp(-static_cast<double>(scores[i]));
    if (i != 1) others += std::exp(static_cast<double>(scores[i]));
  }
  std::vector<PointerSequence> sequences = {{.begin = 0, .length = 3, .marks = {{.label = 0, .first = 0, .last = 1}}}};
  Tensor loss = pointer_loss(context_, outputs, shape, sequences);
  EXPECT_NEAR(*loss.data<double>(), std::log(marked) + std::log(others), 1e-6);
}

TEST_F(TaskLoss, GradientOfPointersToPairs) {
  std::vector<PointerSequence> sequences = {
      {.begin = 0, .length = 4, .marks = {{.label = 0, .first = 1, .last = 2}, {.label = 2, .first = 3, .last = 1}}},
      {.begin = 5, .length = 3, .marks = {{.label = 1, .first = 2, .last = 0}}, .weight = 0.25f}};
  PointerShape shape{.labels = 3, .size = 4, .pair_labels = 2};
  check_gradients(context_, {random({8, 24}, 1)}, [&](Context& context, const Inputs& in) {
    return pointer_loss(context, in[0], shape, sequences);
  });
}

/// As bert4keras' GlobalPointer has them with RoPE and tril_mask False.
TEST_F(TaskLoss, PairsAreProductsInAnyOrder) {
  PointerShape shape{.labels = 2, .size = 2, .pair_labels = 1};
  Tensor outputs = random({3, 8}, 1);
  std::vector<float> scores = pointer_scores(outputs, shape, 0, 3);
  auto element = [&](int64_t row, int64_t column) { return outputs.data<double>()[row * 8 + column]; };
  for (int64_t first = 0; first < 3; ++first) {
    for (int64_t last = 0; last < 3; ++last) {
      double product = element(first, 4) * element(last, 6) + element(first, 5) * element(last, 7);
      EXPECT_NEAR(scores[static_cast<size_t>(9 + first * 3 + last)], product / std::sqrt(2.0), 1e-6);
      EXPECT_EQ(std::isinf(scores[static_cast<size_t>(first * 3 + last)]), last < first);
    }
  }
}

/// Threads share the labels where there are many.
TEST_F(TaskLoss, PointersAreTheSameOnThreads) {
  PointerShape shape{.labels = 24, .size = 2, .pair_labels = 20};
  std::vector<PointerSequence> sequences = {{.begin = 0, .length = 5, .marks = {{.label = 20, .first = 4, .last = 1}}}};
  Tensor outputs = random({5, 96}, 1);
  Context threads = make_cpu_context(3);
  EXPECT_EQ(*pointer_loss(threads, outputs, shape, sequences).data<double>(),
            *pointer_loss(context_, outputs, shape, sequences).data<double>());
}

/// Scores depend on how far apart two tokens are, not on where they stand.
TEST_F(TaskLoss, PointerIsRelative) {
  PointerShape shape{.labels = 1, .size = 4};
  Tensor one = random({1, 8}, 1);
  Tensor outputs = context_.empty({5, 8}, DType::f64);
  for (int64_t r = 0; r < 5; ++r) std::copy_n(one.data<double>(), 8, outputs.data<double>() + r * 8);
  std::vector<float> scores = pointer_scores(outputs, shape, 0, 5);
  EXPECT_NEAR(scores[0 * 5 + 2], scores[2 * 5 + 4], 1e-6);
  EXPECT_GT(std::abs(scores[0 * 5 + 1] - scores[0 * 5 + 2]), 1e-3);
}

const std::vector<std::vector<int32_t>> kLabels = {{0, 2}, {}, {1}, {0, 1, 2, 3}};

TEST_F(TaskLoss, MultilabelIsTheSumOverMarkedAndUnmarkedClasses) {
  Tensor logits = random({4, 4}, 1, 2.0);
  std::vector<double> values = to_doubles(logits);
  std::vector<float> weights = {1, 0.5f, 0, 2};
  double expected = 0;
  for (size_t r = 0; r < 4; ++r) {
    double marked = 1, others = 1;
    for (int32_t c = 0; c < 4; ++c) {
      bool is_marked = std::find(kLabels[r].begin(), kLabels[r].end(), c) != kLabels[r].end();
      double score = values[r * 4 + static_cast<size_t>(c)];
      (is_marked ? marked : others) += std::exp(is_marked ? -score : score);
    }
    expected += static_cast<double>(weights[r]) * (std::log(marked) + std::log(others));
  }
  Tensor loss = multilabel_cross_entropy(context_, logits, kLabels, weights);
  EXPECT_NEAR(*loss.data<double>(), expected, 1e-12);
}

TEST_F(TaskLoss, GradientOfMultilabel) {
  std::vector<float> weights = {1, 0.5f, 0, 2};
  check_gradients(context_, {random({4, 4}, 1, 2.0)}, [&](Context& context, const Inputs& in) {
    return multilabel_cross_entropy(context, in[0], kLabels, weights);
  });
}

TEST_F(TaskLoss, GradientOfContrastive) {
  std::unique_ptr<Communicator> alone = make_single_communicator();
  std::vector<float> weights = {0.5f, 0.5f, 1, 1, 0, 0};
  check_gradients(context_, {random({6, 4}, 1)}, [&](Context& context, const Inputs& in) {
    return contrastive_loss(context, in[0], weights, 5, *alone);
  });
}

TEST_F(TaskLoss, CosentIsTheSumOverPairsInTheWrongOrder) {
  std::unique_ptr<Communicator> alone = make_single_communicator();
  Tensor vectors = random({8, 4}, 1);
  std::vector<float> scores = {0.5f, 2, 0.5f, -1}, weights = {0.1f, 0.1f, 0.1f, 0.1f, 0.1f, 0.1f, 0, 0};
  std::vector<double> values = to_doubles(vectors), cosines;
  for (size_t p = 0; p < 3; ++p) {
    double both = 0, a = 0, b = 0;
    for (size_t i = 0; i < 4; ++i) {
      double x = values[8 * p + i], y = values[8 * p + 4 + i];
      both += x * y, a += x * x, b += y * y;
    }
    cosines.push_back(both / std::sqrt(a * b));
  }
  double expected = std::log(1 + std::exp(5 * (cosines[0] - cosines[1])) + std::exp(5 * (cosines[2] - cosines[1])));
  Tensor loss = cosent_loss(context_, vectors, scores, weights, 5, *alone);
  EXPECT_NEAR(*loss.data<double>(), 0.6 * expected, 1e-6);
}

TEST_F(TaskLoss, GradientOfCosent) {
  std::unique_ptr<Communicator> alone = make_single_communicator();
  std::vector<float> scores = {0.5f, 2, 0.5f, -1}, weights = {0.5f, 0.5f, 1, 1, 1, 1, 0, 0};
  check_gradients(context_, {random({8, 4}, 1)}, [&](Context& context, const Inputs& in) {
    return cosent_loss(context, in[0], scores, weights, 5, *alone);
  });
}

/// Of rows from `begin` on.
using LossOfRows = std::function<Tensor(Context& context, const Tensor& rows, size_t begin, Communicator& ranks)>;

/// Loss and gradient of rows on several ranks, of which one has fewer, are those of all rows on one.
void expect_same_on_ranks(Context& of_one, const Tensor& vectors, const LossOfRows& loss_of_rows) {
  auto gradient_of = [&](Context& context, Tensor x, size_t begin, Communicator& ranks, double& loss) {
    Tape tape;
    context.tape = &tape;
    x.set_grad_slot(std::make_shared<GradSlot>());
    Tensor result = loss_of_rows(context, x, begin, ranks);
    loss = *result.data<double>();
    tape.backward(context, result);
    context.tape = nullptr;
    return to_doubles(take_grad(x.grad_slot()));
  };
  double expected_loss = 0;
  std::unique_ptr<Communicator> alone = make_single_communicator();
  std::vector<double> expected = gradient_of(of_one, vectors.detach(), 0, *alone, expected_loss);
  run_thread_ranks(2, [&](const std::shared_ptr<Communicator>& ranks) {
    Context context = make_cpu_context(1);
    int64_t begin = ranks->rank() == 0 ? 0 : 4, end = ranks->rank() == 0 ? 4 : 6;
    double loss = 0;
    std::vector<double> mine =
        gradient_of(context, vectors.slice(begin, end).detach(), static_cast<size_t>(begin), *ranks, loss);
    for (size_t i = 0; i < mine.size(); ++i) {
      EXPECT_NEAR(mine[i], expected[static_cast<size_t>(begin) * 4 + i], 1e-12);
    }
    Tensor sum = context.empty({1}, DType::f64);
    *sum.data<double>() = loss;
    ranks->all_reduce(sum, ReduceOp::sum);
    EXPECT_NEAR(*sum.data<double>(), expected_loss, 1e-12);
  });
}

TEST_F(TaskLoss, ContrastiveIsTheSameOnAnyNumberOfRanks) {
  std::vector<float> weights(6, 0.2f);
  expect_same_on_ranks(
      context_, random({6, 4}, 1), [&](Context& context, const Tensor& rows, size_t /*begin*/, Communicator& ranks) {
        std::span<const float> some(weights.data(), static_cast<size_t>(rows.size(0)));
        return contrastive_loss(context, rows, some, 5, ranks);
      });
}

TEST_F(TaskLoss, CosentIsTheSameOnAnyNumberOfRanks) {
  std::vector<float> weights(6, 0.2f), scores = {0.5f, 2, 1};
  expect_same_on_ranks(
      context_, random({6, 4}, 1), [&](Context& context, const Tensor& rows, size_t begin, Communicator& ranks) {
        auto count = static_cast<size_t>(rows.size(0));
        std::span<const float> some(scores.data() + begin / 2, count / 2);
        return cosent_loss(context, rows, some, std::span<const float>(weights).first(count), 5, ranks);
      });
}

TEST_F(TaskLoss, gradient_of_mean_of_rows) {
  std::vector<RowRange> ranges = {{.begin = 0, .length = 3}, {.begin = 4, .length = 1}};
  check_gradients(context_, {random({5, 3}, 1)}, [&](Context& context, const Inputs& in) {
    return mean_of_rows(context, in[0], ranges);
  });
}

TEST_F(TaskLoss, GradientOfColumns) {
  std::vector<ColumnTarget> targets = {{.begin = 0, .length = 3, .column = 0, .target = 2, .weight = 0.5f},
                                       {.begin = 0, .length = 3, .column = 1, .target = 0, .weight = 1},
                                       {.begin = 3, .length = 2, .column = 1, .target = 1, .weight = 2}};
  check_gradients(context_, {random({5, 2}, 1)}, [&](Context& context, const Inputs& in) {
    return column_cross_entropy(context, in[0], targets);
  });
}

}  // namespace
}  // namespace weft
