// Every training run of the golden files, on meshes of data × tensor ranks and at every ZeRO stage.
#include <gtest/gtest.h>

#include <mutex>
#include <string>

#include "parallel/thread_communicator.h"
#include "support/paths.h"
#include "verify/training_golden.h"
#include "verify/verify_training_run.h"

namespace weft {
namespace {

struct TrainingCase {
  std::string model;
  std::string run;
};

struct MeshCase {
  int data, tensor, zero_stage;
  Recompute recompute = Recompute::none;
};

std::vector<TrainingCase> cases() {
  std::vector<TrainingCase> all = {{"text_lm", "full"}, {"text_lm", "lora"}};
  for (const char* model : {"llama", "gemma2", "bert_mlm"}) {
    for (const char* run :
         {"full", "full_nodecay1d", "accum2_tokens", "accum2_mean", "bf16_f32compute", "bf16_bf16compute", "lora"}) {
      all.push_back({model, run});
    }
  }
  return all;
}

struct RankFiles {
  GoldenFile golden;
  OpenedModel model;
};

std::vector<RankFiles> open_for_ranks(const std::string& folder, int num_ranks) {
  std::vector<RankFiles> files;
  files.reserve(static_cast<size_t>(num_ranks));
  for (int rank = 0; rank < num_ranks; ++rank) {
    files.push_back({GoldenFile(folder + "/golden.h5"), open_model({.path = folder, .family = {}, .compat = {}})});
  }
  return files;
}

VerifyReport verify_on(const TrainingCase& training, const MeshCase& mesh_case) {
  std::string folder = test_data("train/") + training.model;
  int num_ranks = mesh_case.data * mesh_case.tensor;
  std::vector<RankFiles> files = open_for_ranks(folder, num_ranks);
  VerifyReport report;
  run_thread_ranks(num_ranks, [&](const std::shared_ptr<Communicator>& ranks) {
    Mesh mesh(ranks, mesh_case.tensor);
    RankFiles& mine = files[static_cast<size_t>(ranks->rank())];
    VerifyReport of_rank = verify_training_run(
        make_cpu_context(1),
        mesh,
        mine.model,
        mine.golden,
        {.run = training.run, .zero_stage = mesh_case.zero_stage, .recompute = mesh_case.recompute, .tolerance = {}});
    if (ranks->rank() == 0) report = std::move(of_rank);
  });
  return report;
}

class TrainingRuns : public ::testing::TestWithParam<TrainingCase> {};

TEST_P(TrainingRuns, agrees_on_every_mesh_and_zero_stage) {
  const MeshCase meshes[] = {{1, 1, 0},
                             {1, 1, 0, Recompute::selective},
                             {2, 1, 0},
                             {2, 1, 1},
                             {2, 1, 2, Recompute::block},
                             {2, 1, 3},
                             {1, 2, 0},
                             {2, 2, 1},
                             {2, 2, 3, Recompute::block}};
  for (const MeshCase& mesh : meshes) {
    VerifyReport report = verify_on(GetParam(), mesh);
    EXPECT_TRUE(report.passed()) << mesh.data << "×" << mesh.tensor << " stage " << mesh.zero_stage << "\n"
                                 << to_text(report);
    EXPECT_GE(report.compared.size(), 2u);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrainingRuns, ::testing::ValuesIn(cases()), [](const auto& param) {
  return param.param.model + "_" + param.param.run;
});

// Under ZeRO 3 a rank that computed nothing would leave the others alone in gathering the blocks.
TEST(HeldOutText, gives_every_rank_something_to_compute) {
  GoldenFile golden(test_data("train/text_lm/golden.h5"));
  TrainingGolden training(golden, true);
  const int num_ranks = 23;  // for 21 rows
  int idle_ranks = 0;
  float total = 0;
  for (int rank = 0; rank < num_ranks; ++rank) {
    std::vector<MicroBatch> micro_batches = training.held_out(rank, num_ranks);
    ASSERT_EQ(micro_batches.size(), 1u) << rank;
    EXPECT_FALSE(micro_batches[0].targets.empty()) << rank;
    float of_rank = 0;
    for (size_t i = 0; i < micro_batches[0].targets.size(); ++i) {
      if (micro_batches[0].targets[i] >= 0) of_rank += micro_batches[0].weights[i];
    }
    idle_ranks += of_rank == 0 ? 1 : 0;
    total += of_rank;
  }
  EXPECT_EQ(idle_ranks, 2);
  EXPECT_NEAR(total, 1, 1e-5);
  GoldenFile without(test_data("train/llama/golden.h5"));
  EXPECT_TRUE(TrainingGolden(without, true).held_out(0, 2).empty());
}

TEST(TrainingRun, names_the_runs_that_there_are) {
  std::string folder = test_data("train/llama");
  GoldenFile golden(folder + "/golden.h5");
  OpenedModel opened = open_model({.path = folder, .family = {}, .compat = {}});
  Mesh mesh(make_single_communicator(), 1);
  try {
    verify_training_run(make_cpu_context(1), mesh, opened, golden, {.run = "ful", .tolerance = {}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("full_nodecay1d"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace weft
