// Tokens chosen on the GPU are those that the host chooses from the same logits.
#include <cstring>
#include <limits>

#include "cuda/cuda_test.h"
#include "kernels/row_sampler.h"

namespace weft {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Rows of logits and how a token of each is chosen.
struct SampleCase {
  int64_t width = 0;
  std::vector<float> logits = {};
  std::vector<SampleChoice> choices = {};
  std::vector<LogitChange> changes = {};
  std::vector<int32_t> late_ids = {};  // empty: there are none

  int64_t rows() const { return static_cast<int64_t>(choices.size()); }
  SampleArgs args() {
    return {.logits = logits.data(),
            .late_ids = late_ids.empty() ? nullptr : late_ids.data(),
            .choices = choices.data(),
            .changes = changes.data(),
            .num_changes = static_cast<int64_t>(changes.size()),
            .rows = rows(),
            .width = width};
  }
};

std::vector<float> random_logits(int64_t count, uint32_t seed, float spread) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

/// A row for each of many settings.
SampleCase case_of_all_cuts(int64_t width, float spread, uint32_t seed) {
  SampleCase all{.width = width};
  for (float scale : {1.0f, 1.4f, 0.3f}) {
    for (int32_t top_k : {0, 1, 5, 700, 40000}) {
      for (double top_p : {1.0, 0.95, 0.3, 1e-6}) {
        for (float min_p : {0.0f, 0.1f}) {
          SampleChoice choice{.top_p = top_p, .seed = uint64_t{123456789012345} + seed, .scale = scale, .min_p = min_p};
          choice.top_k = top_k < width ? top_k : 0;
          choice.step = static_cast<uint32_t>(all.rows());
          choice.sequence = seed;
          all.choices.push_back(choice);
        }
      }
    }
  }
  all.logits = random_logits(all.rows() * width, seed, spread);
  return all;
}

std::vector<int32_t> ids_on_host(SampleCase sampled) {
  SampleArgs args = sampled.args();
  std::vector<int32_t> ids(sampled.choices.size(), -7);
  args.ids = ids.data();
  sample_on_host(args);
  return ids;
}

Tensor on_gpu(const void* values, int64_t count, DType dtype) {
  Tensor tensor = Tensor::empty(gpu(), {count}, dtype);
  tensor.copy_from_host(values);
  return tensor;
}

Stream gpu_stream() {
  return {.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()};
}

std::vector<int32_t> ids_on_gpu(SampleCase sampled) {
  SampleArgs args = sampled.args();
  Tensor logits = on_gpu(args.logits, args.rows * args.width, DType::f32);
  std::vector<int32_t> ids(sampled.choices.size(), -7);
  Tensor device_ids = on_gpu(ids.data(), args.rows, DType::i32), late_ids;
  args.logits = logits.pointer<float>();
  args.ids = device_ids.pointer<int32_t>();
  if (args.late_ids != nullptr) {
    late_ids = on_gpu(args.late_ids, args.rows, DType::i32);
    args.late_ids = late_ids.pointer<int32_t>();
  }
  kernels(DeviceType::cuda).sampling.sample(args, gpu_stream());
  device_ids.copy_to_host(ids.data());
  return ids;
}

void expect_same_ids(const SampleCase& sampled, const std::string& what) {
  std::vector<int32_t> expected = ids_on_host(sampled), actual = ids_on_gpu(sampled);
  for (size_t row = 0; row < expected.size(); ++row) {
    const SampleChoice& choice = sampled.choices[row];
    ASSERT_EQ(actual[row], expected[row]) << what << ", row " << row << ": scale " << choice.scale << ", top_k "
                                          << choice.top_k << ", top_p " << choice.top_p << ", min_p " << choice.min_p;
  }
}

#define WEFT_NEEDS_GPU_SAMPLER() \
  WEFT_NEEDS_GPU();              \
  if (kernels(DeviceType::cuda).sampling.sample == nullptr) GTEST_SKIP() << "switched off by WEFT_SAMPLE_ON_HOST"

TEST(CudaSample, ChoosesWhatTheHostChoosesForEveryCut) {
  WEFT_NEEDS_GPU_SAMPLER();
  for (int64_t width : {1, 7, 1000, 5003, 32000}) {
    for (float spread : {0.0f, 1.0f, 20.0f}) {
      for (uint32_t seed = 0; seed < (width < 10000 ? 3u : 1u); ++seed) {
        expect_same_ids(case_of_all_cuts(width, spread, seed),
                        "width " + std::to_string(width) + ", spread " + std::to_string(spread));
      }
    }
  }
}

TEST(CudaSample, ChoosesWhatTheHostChoosesInLargeVocabularies) {
  WEFT_NEEDS_GPU_SAMPLER();
  for (int64_t width : {151936, 256000, 300001}) {
    for (int32_t top_k : {0, 40, 100000}) {
      SampleCase sampled{.width = width};
      for (double top_p : {1.0, 0.9}) {
        sampled.choices.push_back({.top_p = top_p, .seed = 5, .step = 9, .scale = 1.25f, .top_k = top_k});
        sampled.choices.push_back({.top_p = top_p, .seed = 5, .step = 10, .sequence = 1, .top_k = top_k});
      }
      sampled.logits = random_logits(sampled.rows() * width, 3, 3.0f);
      expect_same_ids(sampled, "width " + std::to_string(width));
    }
  }
}

/// Among them rows of which most weights are equal, so that the cut falls among them.
TEST(CudaSample, KeepsTheLowestIdsOfEqualWeights) {
  WEFT_NEEDS_GPU_SAMPLER();
  constexpr int64_t kWidth = 9000;
  SampleCase sampled{.width = kWidth};
  for (uint32_t step = 0; step < 40; ++step) {
    sampled.choices.push_back({.step = step, .top_k = 3});
    sampled.choices.push_back({.top_p = 0.01, .step = step, .top_k = 2000});
    sampled.choices.push_back({.top_p = 0.75, .step = step});
    sampled.choices.push_back({.top_p = 0.5, .step = step, .min_p = 0.5f});
  }
  sampled.logits.assign(static_cast<size_t>(sampled.rows() * kWidth), 1.0f);
  for (size_t i = 0; i < sampled.logits.size(); i += 3) sampled.logits[i] = i % 2 == 0 ? 1.5f : -40.0f;
  expect_same_ids(sampled, "equal weights");
}

/// What is no more kept and what is lie side by side, so that every draw tells.
TEST(CudaSample, EndsAmongEqualWeightsWithinAFewIds) {
  WEFT_NEEDS_GPU_SAMPLER();
  SampleCase sampled{.width = 8};
  for (uint32_t step = 0; step < 30; ++step) {
    for (int32_t top_k = 0; top_k < 8; ++top_k) {
      sampled.choices.push_back({.step = step, .top_k = top_k});
      sampled.choices.push_back({.step = step, .min_p = 1, .top_k = top_k});
      sampled.choices.push_back({.top_p = 0.1 * top_k + 0.05, .step = step});
    }
  }
  for (int64_t row = 0; row < sampled.rows(); ++row) {
    sampled.logits.insert(sampled.logits.end(), {1.0f, 1.0f, 1.5f, 0.5f, 1.0f, 1.5f, 0.5f, 0.5f});
  }
  expect_same_ids(sampled, "a few ids");
}

TEST(CudaSample, ChangesLogitsAsTheHostDoes) {
  WEFT_NEEDS_GPU_SAMPLER();
  constexpr int64_t kWidth = 3000;
  for (bool has_late_ids : {false, true}) {
    SampleCase sampled{.width = kWidth};
    for (int32_t row = 0; row < 30; ++row) {
      SampleChoice choice{.top_p = row % 2 == 0 ? 1 : 0.8, .seed = 3, .step = static_cast<uint32_t>(row)};
      choice.is_greedy = row % 3 == 0 ? 1 : 0;
      choice.first_change = static_cast<int32_t>(sampled.changes.size());
      choice.num_bans = row % 5 * 100;
      choice.num_changes = choice.num_bans + row % 4 * 150;
      choice.late_factor = row % 7 == 0 ? 1.0f : 3.0f;
      for (int32_t i = 0; i < choice.num_changes; ++i) {
        LogitChange change{.id = (i * 7 + row) % static_cast<int32_t>(kWidth), .factor = 1.5f, .late_factor = 2.5f};
        if (i < choice.num_bans) change.ban = i % 2 == 0 ? LogitBan::with_share : LogitBan::without_share;
        sampled.changes.push_back(change);
      }
      // One that a change has, one that none has, and none.
      if (has_late_ids) sampled.late_ids.push_back(row % 3 == 2 ? -1 : row % 3 == 1 ? row : 2999 - row);
      sampled.choices.push_back(choice);
    }
    sampled.logits = random_logits(sampled.rows() * kWidth, 8, 2.0f);
    // The late ids count: they are the likeliest.
    for (size_t row = 0; row < sampled.late_ids.size(); ++row) {
      if (sampled.late_ids[row] >= 0) sampled.logits[row * kWidth + static_cast<size_t>(sampled.late_ids[row])] = 12;
    }
    expect_same_ids(sampled, has_late_ids ? "with late ids" : "without");
  }
}

TEST(CudaSample, PassesOverNotANumberAndFindsNothingWhereNothingIsFinite) {
  WEFT_NEEDS_GPU_SAMPLER();
  constexpr int64_t kWidth = 2000;
  SampleCase sampled{.width = kWidth};
  for (int32_t row = 0; row < 8; ++row) {
    sampled.choices.push_back({.top_p = row % 2 == 0 ? 0.9 : 1, .is_greedy = row >= 4 ? 1 : 0});
  }
  sampled.logits = random_logits(sampled.rows() * kWidth, 2, 1.0f);
  auto row_of = [&](size_t row) { return sampled.logits.begin() + static_cast<std::ptrdiff_t>(row) * kWidth; };
  std::fill_n(row_of(0), kWidth, kNan);
  *(row_of(0) + 1234) = -3;
  for (size_t row : {1u, 4u}) std::fill_n(row_of(row), kWidth, -kInfinity);
  for (size_t row : {2u, 5u}) *(row_of(row) + 7) = kInfinity;
  std::fill_n(row_of(6), kWidth, kNan);
  for (int i = 0; i < kWidth; i += 2) *(row_of(3) + i) = kNan;
  std::vector<int32_t> ids = ids_on_gpu(sampled);
  EXPECT_EQ(ids[0], 1234);
  for (size_t row : {1u, 2u, 4u, 5u, 6u}) EXPECT_EQ(ids[row], -1) << row;
  EXPECT_EQ(ids[3] % 2, 1);
  EXPECT_EQ(ids, ids_on_host(sampled));
}

/// More rows than are worked on at a time; a row's token depends on no other row.
TEST(CudaSample, ManyRowsAreChosenAsEachAlone) {
  WEFT_NEEDS_GPU_SAMPLER();
  SampleCase many{.width = 20000};
  for (uint32_t row = 0; row < 130; ++row) {
    many.choices.push_back({.top_p = 0.9, .seed = 1, .step = row, .top_k = row % 2 == 0 ? 50 : 0});
  }
  many.logits = random_logits(many.rows() * many.width, 4, 2.5f);
  std::vector<int32_t> ids = ids_on_gpu(many);
  EXPECT_EQ(ids, ids_on_host(many));
  for (size_t row : {0u, 63u, 64u, 129u}) {
    SampleCase one{.width = many.width, .choices = {many.choices[row]}};
    auto begin = many.logits.begin() + static_cast<std::ptrdiff_t>(row) * many.width;
    one.logits.assign(begin, begin + many.width);
    EXPECT_EQ(ids_on_gpu(one)[0], ids[row]) << row;
  }
}

/// As a decoding step does it: logits come anew, the late ids are what the step before has chosen.
TEST(CudaSample, RunsAsPartOfAGraph) {
  WEFT_NEEDS_GPU_SAMPLER();
  SampleCase sampled{.width = 32000};
  for (uint32_t row = 0; row < 2; ++row) {
    sampled.choices.push_back({.top_p = 0.9, .seed = 7, .sequence = row, .top_k = 50, .late_factor = 1.3f});
  }
  sampled.logits = random_logits(sampled.rows() * sampled.width, 6, 3.0f);
  sampled.changes.assign(64, {});
  Tensor original = on_gpu(sampled.logits.data(), sampled.rows() * sampled.width, DType::f32);
  std::vector<int32_t> ids = {5, 6};
  Tensor places[2] = {on_gpu(ids.data(), 2, DType::i32), on_gpu(ids.data(), 2, DType::i32)};
  for (uint32_t step = 0; step < 12; ++step) {
    SampleCase now = sampled;
    for (int32_t row = 0; row < 2; ++row) {
      SampleChoice& choice = now.choices[static_cast<size_t>(row)];
      choice.step = step;
      choice.first_change = row * 20;
      choice.num_changes = static_cast<int32_t>(step);
      for (int32_t i = 0; i < choice.num_changes; ++i) {
        now.changes[static_cast<size_t>(choice.first_change + i)] = {.id = 11 * i + row, .factor = 0.5f};
      }
    }
    now.late_ids = ids;
    std::vector<int32_t> expected = ids_on_host(now);
    gpu()->run_step(201 + step % 2, [&] {
      Tensor logits = Tensor::empty(gpu(), original.shape(), DType::f32);
      logits.copy_from(original);
      SampleArgs args = now.args();
      args.logits = logits.pointer<float>();
      args.late_ids = places[step % 2].pointer<int32_t>();
      args.ids = places[1 - step % 2].pointer<int32_t>();
      kernels(DeviceType::cuda).sampling.sample(args, gpu_stream());
    });
    places[1 - step % 2].copy_to_host(ids.data());
    EXPECT_EQ(ids, expected) << "step " << step;
  }
}

}  // namespace
}  // namespace weft
