#include "generate/sampler.h"

#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace weft {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The arithmetic written down once more, in double, by sorting everything. `past` as bert4keras3 sees it.
struct ReferenceSampler {
  std::vector<double> weights;
  std::vector<bool> kept;

  ReferenceSampler(std::span<const float> logits, std::span<const int32_t> past, const SamplerOptions& options) {
    std::vector<double> scores(logits.begin(), logits.end());
    std::map<int32_t, int64_t> counts;
    for (int32_t id : past) ++counts[id];
    for (auto [id, count] : counts) {
      int64_t exponent = 1;
      if (options.penalty_range)
        exponent = count < options.penalty_range->first ? 0 : std::min(count, options.penalty_range->second);
      double factor = std::pow(options.penalty, exponent);
      double& score = scores[static_cast<size_t>(id)];
      score = score > 0 ? score / factor : score * factor;
    }
    double best = *std::max_element(scores.begin(), scores.end());
    for (double score : scores) weights.push_back(std::exp((score - best) / options.temperature));
    double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (double& weight : weights) weight /= total;
    for (int32_t id : options.forbidden_ids) weights[static_cast<size_t>(id)] = 0;
    keep(options);
  }

  void keep(const SamplerOptions& options) {
    std::vector<size_t> order(weights.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return weights[a] > weights[b]; });
    if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));
    kept.assign(weights.size(), false);
    double before = 0;
    for (size_t rank = 0; rank < order.size(); ++rank) {
      double weight = weights[order[rank]];
      bool is_in_nucleus = rank == 0 || before <= options.top_p;
      if (is_in_nucleus && weight >= options.min_p * weights[order[0]]) kept[order[rank]] = true;
      before += weight;
    }
  }

  int32_t draw(double uniform) const {
    double total = 0;
    for (size_t id = 0; id < weights.size(); ++id) total += kept[id] ? weights[id] : 0;
    double target = uniform * total;
    for (size_t id = 0; id < weights.size(); ++id) {
      if (!kept[id]) continue;
      if (target < weights[id]) return static_cast<int32_t>(id);
      target -= weights[id];
    }
    return -1;
  }
};

double uniform_of(uint64_t seed, uint64_t sequence, uint64_t step) {
  RandomKey key{seed, static_cast<uint32_t>(step), static_cast<uint32_t>(sequence)};
  return static_cast<double>((uint64_t{key.bits(0)} << 32 | key.bits(1)) >> 11) * 0x1p-53;
}

std::vector<float> random_logits(size_t count, uint64_t seed, float spread) {
  std::vector<float> logits(count);
  RandomKey key{seed, 0, 99};
  for (size_t i = 0; i < count; ++i)
    logits[i] = spread * (key.uniform(i) + key.uniform(i + count) + key.uniform(i + 2 * count) - 1.5f);
  return logits;
}

SamplerOptions drawing() {
  SamplerOptions options;
  options.greedy = false;
  return options;
}

int32_t sample_once(std::vector<float> logits,
                    std::vector<int32_t> past,
                    const SamplerOptions& options,
                    uint64_t step = 0) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  return sampler.sample(logits, {.past = past, .options = &options, .sequence = 0, .step = step});
}

TEST(Argmax, FirstOfEqualsAtEveryLengthAndPlace) {
  for (size_t length = 1; length < 70; ++length) {
    for (size_t place = 0; place < length; ++place) {
      std::vector<float> values(length, -2.0f);
      values[place] = 3.0f;
      values[length - 1] = 3.0f;
      EXPECT_EQ(argmax(values), static_cast<int64_t>(place));
    }
  }
  std::vector<float> long_values(5000, 0.0f);
  long_values[1023] = long_values[1024] = long_values[4999] = 1.0f;
  EXPECT_EQ(argmax(long_values), 1023);
}

TEST(Sampler, DrawsWhatTheReferenceDrawsForEveryFilter) {
  std::vector<SamplerOptions> cases;
  for (double temperature : {0.7, 1.0, 3.0}) {
    for (int64_t top_k : {0, 1, 5, 700, 1500}) {
      for (double top_p : {1.0, 0.9, 0.3, 1e-6}) {
        for (double min_p : {0.0, 0.1}) {
          SamplerOptions options = drawing();
          options.temperature = temperature;
          options.top_k = top_k;
          options.top_p = top_p;
          options.min_p = min_p;
          options.seed = 1234567890123;
          cases.push_back(options);
        }
      }
    }
  }
  for (size_t vocab_size : {1u, 7u, 64u, 3001u}) {
    for (float spread : {0.0f, 1.0f, 20.0f}) {
      std::vector<float> logits = random_logits(vocab_size, vocab_size, spread);
      Sampler sampler(static_cast<int64_t>(vocab_size));
      for (SamplerOptions& options : cases) {
        if (vocab_size > 5) options.forbidden_ids = {3, 5, 3};
        ReferenceSampler reference(logits, {}, options);
        for (uint64_t step = 0; step < 8; ++step) {
          std::vector<float> copy = logits;
          EXPECT_EQ(sampler.sample(copy, {.past = {}, .options = &options, .sequence = 2, .step = step}),
                    reference.draw(uniform_of(options.seed, 2, step)))
              << "V " << vocab_size << " spread " << spread << " T " << options.temperature << " k " << options.top_k
              << " p " << options.top_p << " min p " << options.min_p;
        }
      }
    }
  }
}

TEST(Sampler, TopPKeepsTheTokenThatCrossesAndNoOther) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
  auto drawn_with = [&](double top_p) {
    SamplerOptions options = drawing();
    options.top_p = top_p;
    std::map<int32_t, int> counts;
    for (uint64_t step = 0; step < 400; ++step) ++counts[sample_once(logits, {}, options, step)];
    std::vector<int32_t> ids;
    ids.reserve(counts.size());
    for (auto [id, count] : counts) ids.push_back(id);
    return ids;
  };
  EXPECT_THAT(drawn_with(0.4), testing::ElementsAre(1));
  EXPECT_THAT(drawn_with(0.7), testing::ElementsAre(1, 3));
  EXPECT_THAT(drawn_with(0.9), testing::ElementsAre(0, 1, 3));
  EXPECT_THAT(drawn_with(0.99), testing::ElementsAre(0, 1, 2, 3));
}

TEST(Sampler, FrequenciesFollowTheRenormalisedProbabilities) {
  std::vector<float> logits = random_logits(50, 5, 4.0f);
  SamplerOptions options = drawing();
  options.temperature = 0.8;
  options.top_k = 12;
  options.top_p = 0.95;
  ReferenceSampler reference(logits, {}, options);
  double total = 0;
  for (size_t id = 0; id < logits.size(); ++id) total += reference.kept[id] ? reference.weights[id] : 0;
  constexpr int kDraws = 40000;
  std::vector<int> counts(logits.size());
  for (uint64_t step = 0; step < kDraws; ++step) ++counts[static_cast<size_t>(sample_once(logits, {}, options, step))];
  double chi_square = 0;
  int degrees = -1;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!reference.kept[id]) {
      EXPECT_EQ(counts[id], 0);
      continue;
    }
    double expected = kDraws * reference.weights[id] / total;
    chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
    ++degrees;
  }
  EXPECT_GT(degrees, 4);
  EXPECT_LT(chi_square, degrees + 4 * std::sqrt(2.0 * degrees));
}

TEST(Sampler, TiesGoToTheLowestId) {
  std::vector<float> logits(3000, 1.0f);
  EXPECT_EQ(sample_once(logits, {}, {}), 0);
  SamplerOptions options = drawing();
  options.top_k = 3;
  for (uint64_t step = 0; step < 50; ++step) EXPECT_LT(sample_once(logits, {}, options, step), 3);
  options.top_k = 2000;
  options.top_p = 0.01;  // 30 of 3000, and the one that crosses
  for (uint64_t step = 0; step < 200; ++step) EXPECT_LE(sample_once(logits, {}, options, step), 30);
}

TEST(Sampler, PenaltyDividesPositiveAndMultipliesOtherLogits) {
  SamplerOptions options;
  options.penalty = 2.0;
  EXPECT_EQ(sample_once({4.0f, 3.0f, 1.0f}, {0}, options), 1);        // 2, 3, 1
  EXPECT_EQ(sample_once({-1.0f, -1.5f, -3.0f}, {0}, options), 1);     // -2, -1.5, -3
  EXPECT_EQ(sample_once({4.0f, 3.0f, 1.0f}, {0, 0, 0}, options), 1);  // once, however often it occurred
  EXPECT_EQ(sample_once({4.0f, 1.5f, 1.0f}, {0, 0, 0}, options), 0);
}

TEST(Sampler, PenaltyRangeCountsOccurrences) {
  SamplerOptions options;
  options.penalty = 2.0;
  options.penalty_range = {2, 3};
  EXPECT_EQ(sample_once({4.0f, 3.0f}, {0}, options), 0);           // below 2: none
  EXPECT_EQ(sample_once({4.0f, 1.5f}, {0, 0}, options), 1);        // 4 / 4
  EXPECT_EQ(sample_once({4.0f, 0.4f}, {0, 0, 0, 0}, options), 0);  // 4 / 8, not 4 / 16
  EXPECT_EQ(sample_once({4.0f, 0.6f}, {0, 0, 0, 0}, options), 1);
}

TEST(Sampler, SlidingWindowForgets) {
  SamplerOptions options;
  options.penalty = 2.0;
  options.penalty_window = 2;
  EXPECT_EQ(sample_once({4.0f, 3.0f, 1.0f}, {0, 2}, options), 1);
  EXPECT_EQ(sample_once({4.0f, 3.0f, 1.0f}, {0, 2, 2}, options), 0);
}

TEST(Sampler, BlockWindowJumps) {
  SamplerOptions options;
  options.penalty = 2.0;
  options.penalty_window = 4;
  options.window_mode = PenaltyWindow::block;
  // Id 1 stands at position 0: within the block before the current one up to position 7, gone when position 8 is to be
  // written.
  std::vector<float> logits = {0.0f, 4.0f, 3.0f, -1.0f};
  EXPECT_EQ(sample_once(logits, {1, 3, 3, 3, 3}, options), 2);
  EXPECT_EQ(sample_once(logits, {1, 3, 3, 3, 3, 3, 3}, options), 2);
  EXPECT_EQ(sample_once(logits, {1, 3, 3, 3, 3, 3, 3, 3}, options), 1);
}

TEST(Sampler, PaddedLengthCountsUnwrittenZerosAsBert4keras3Does) {
  SamplerOptions options;
  options.penalty = 2.0;
  std::vector<float> logits = {4.0f, 3.0f, 1.0f};
  EXPECT_EQ(sample_once(logits, {2, 2}, options), 0);
  options.padded_length = 8;
  EXPECT_EQ(sample_once(logits, {2, 2}, options), 1);                    // six zeros not yet written
  EXPECT_EQ(sample_once(logits, {2, 2, 2, 2, 2, 2, 2, 2}, options), 0);  // none left
  options.penalty_window = 4;
  options.window_mode = PenaltyWindow::block;
  EXPECT_EQ(sample_once(logits, {2, 2}, options), 1);
  options.penalty_range = {1, 9};
  // In block 0 there are 2 unwritten zeros and 4 more for the block before it: 100 / 2^6 = 1.56.
  EXPECT_EQ(sample_once({100.0f, 1.5f, 0.0f}, {2, 2}, options), 0);
  EXPECT_EQ(sample_once({100.0f, 1.6f, 0.0f}, {2, 2}, options), 1);
}

TEST(Sampler, PenaltyLeavesNoTraceInTheNextCall) {
  Sampler sampler(3);
  SamplerOptions options;
  options.penalty = 2.0;
  options.penalty_range = {1, 9};
  std::vector<int32_t> past = {0, 0, 0};
  std::vector<float> logits = {4.0f, 3.0f, 1.0f};
  EXPECT_EQ(sampler.sample(logits, {.past = past, .options = &options, .sequence = 0, .step = 0}), 1);
  logits = {4.0f, 3.0f, 1.0f};
  EXPECT_EQ(sampler.sample(logits, {.past = {}, .options = &options, .sequence = 0, .step = 1}), 0);
}

TEST(Sampler, DrawDependsOnSeedSequenceAndStepOnly) {
  std::vector<float> logits = random_logits(1000, 3, 2.0f);
  SamplerOptions options = drawing();
  auto draws = [&](uint64_t seed, uint64_t sequence) {
    options.seed = seed;
    Sampler sampler(1000);
    std::vector<int32_t> ids;
    for (uint64_t step = 0; step < 20; ++step) {
      std::vector<float> copy = logits;
      ids.push_back(sampler.sample(copy, {.past = {}, .options = &options, .sequence = sequence, .step = step}));
    }
    return ids;
  };
  EXPECT_EQ(draws(1, 0), draws(1, 0));
  EXPECT_NE(draws(1, 0), draws(1, 1));
  EXPECT_NE(draws(1, 0), draws(2, 0));
}

TEST(Sampler, ForbiddenIdsAreNeverDrawnEvenWhenLikeliest) {
  SamplerOptions options;
  options.forbidden_ids = {0};
  EXPECT_EQ(sample_once({1e4f, 1.0f, 2.0f}, {}, options), 2);
  options.greedy = false;
  options.top_p = 0.5;
  for (uint64_t step = 0; step < 50; ++step) EXPECT_NE(sample_once({1e4f, 1.0f, 2.0f}, {}, options, step), 0);
}

TEST(Sampler, NoFiniteLogitIsAnError) {
  SamplerOptions options;
  EXPECT_THROW(sample_once({NAN, NAN}, {}, options), Error);
  options.forbidden_ids = {0, 1};
  EXPECT_THROW(sample_once({1.0f, 2.0f}, {}, options), Error);
  options.greedy = false;
  EXPECT_THROW(sample_once({1.0f, 2.0f}, {}, options), Error);
  options.forbidden_ids = {};
  EXPECT_THROW(sample_once({kInfinity, 2.0f}, {}, options), Error);
}

TEST(Sampler, MeaninglessOptionsAreRefused) {
  auto refused = [](auto change) {
    SamplerOptions options;
    change(options);
    try {
      check_sampler_options(options, 10);
    } catch (const Error& error) {
      return error.code() == ExitCode::usage;
    }
    return false;
  };
  EXPECT_FALSE(refused([](SamplerOptions&) {}));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.temperature = -1; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.temperature = NAN; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.top_k = -1; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.top_p = 0; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.min_p = 1.5; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.penalty = 0; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.penalty_range = {3, 3}; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) { options.forbidden_ids = {10}; }));
  EXPECT_TRUE(refused([](SamplerOptions& options) {
    options.penalty_window = 3;
    options.window_mode = PenaltyWindow::block;
    options.padded_length = 16;
  }));
}

}  // namespace
}  // namespace weft
