// Training on preferred answers from the config to metrics and checkpoints: what torch computes, resumed and refused
// runs.
#include "support/paths.h"
#include "support/task_runs.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

const fs::path kTrain = test_data("train");

class PreferenceRuns : public testing::TaskRuns {
 protected:
  void SetUp() override {
    TaskRuns::SetUp();
    fs::create_directory(folder_ / "model");
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy_file(kTrain / "text_lm" / name, folder_ / "model" / name);
    }
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy_file(fs::path(test_data("tiny_tokenizer")) / name, folder_ / "model" / name);
    }
    fs::copy_file(kTrain / "preference" / "pairs.jsonl", folder_ / "pairs.jsonl");
  }

  Outcome train(const std::string& run, int num_ranks, const std::string& more, const std::string& flags = "") const {
    return train_config(R"(
model { path: "model" }
task { kind: PREFERENCE }
data { sources { path: "pairs.jsonl" } sequence_length: 128 shuffle: false }
train { steps: 6 batch_size: 4 learning_rate: 3e-4 schedule { kind: CONSTANT } optimizer { epsilon: 1e-6 } }
precision { compute: F32 }
)" + more,
                        run,
                        num_ranks,
                        flags);
  }
};

class GoldenPreference : public PreferenceRuns, public ::testing::WithParamInterface<int> {};

TEST_P(GoldenPreference, IsWhatTorchComputes) {
  json golden = json::parse(contents(kTrain / "preference" / "golden.json"));
  json expected = golden.at("cases").at(static_cast<size_t>(GetParam()));
  std::string flags = fmt::format(
      "--set task.preference_loss={} --set task.beta={} --set task.label_smoothing={} --set task.sft_weight={}",
      expected.at("loss").get<std::string>(),
      expected.at("beta").get<double>(),
      expected.value("label_smoothing", 0.0),
      expected.value("sft_weight", 0.0));
  std::string lora;
  if (expected.value("adapter", false)) {
    lora = fmt::format("lora {{ adapter: \"{}\" }}", (kTrain / "text_lm/lora/before").string());
  }
  ASSERT_EQ(train("run", 1, lora, flags).exit_code, 0) << contents(folder_ / "err");
  std::vector<json> steps = metrics("run", "step");
  ASSERT_EQ(steps.size(), expected.at("steps").size());
  for (size_t i = 0; i < steps.size(); ++i) {
    const json& wanted = expected.at("steps").at(i);
    for (const char* name : {"loss", "grad_norm"}) {
      double value = wanted.at(name);
      EXPECT_NEAR(steps[i].at(name).get<double>(), value, 3e-4 * std::max(0.01, value)) << name << " of step " << i;
    }
    for (const char* name : {"margin", "chosen_reward", "rejected_reward"}) {
      EXPECT_NEAR(steps[i].at("metrics").at(name).get<double>(), wanted.at(name).get<double>(), 3e-4)
          << name << " of step " << i;
    }
    // Before the first step all margins are 0 but for rounding.
    if (i == 0) continue;
    EXPECT_EQ(steps[i].at("metrics").at("accuracy"), wanted.at("accuracy")) << "step " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenPreference, ::testing::Range(0, 6));

TEST_F(PreferenceRuns, HaveTheSameLossesOnEveryMesh) {
  for (const std::string& lora : {std::string(), std::string("lora { rank: 4 }")}) {
    std::string name = lora.empty() ? "full" : "lora";
    ASSERT_EQ(train(name, 1, lora).exit_code, 0) << contents(folder_ / "err");
    ASSERT_EQ(train(name + "_data", 2, lora, "--set parallel.zero_stage=3").exit_code, 0) << contents(folder_ / "err");
    ASSERT_EQ(train(name + "_tensor", 2, lora, "--set parallel.tensor=2").exit_code, 0) << contents(folder_ / "err");
    ASSERT_EQ(
        train(name + "_both", 4, lora, "--set parallel.tensor=2 --set train.gradient_checkpointing=BLOCK").exit_code,
        0);
    for (const char* mesh : {"_data", "_tensor", "_both"}) expect_same_run(name + mesh, name);
  }
}

TEST_F(PreferenceRuns, GoOnToTheBit) {
  const std::string more =
      "evaluation { held_out_fraction: 0.25 every_steps: 2 } checkpoint { best_metric: \"margin\" }";
  ASSERT_EQ(train("whole", 1, more).exit_code, 0) << contents(folder_ / "err");
  std::vector<json> evaluations = metrics("whole", "evaluation");
  ASSERT_EQ(evaluations.size(), 4u);
  EXPECT_NEAR(evaluations.front().at("metrics").at("margin").get<double>(), 0, 1e-4);
  EXPECT_GT(evaluations.back().at("metrics").at("margin").get<double>(), 0.1);
  EXPECT_LT(evaluations.back().at("loss").get<double>(), evaluations.front().at("loss").get<double>());
  // The same number of steps: it says of which rows the reference is asked.
  ASSERT_EQ(train("parts", 1, more, "--set checkpoint.every_steps=2 --set checkpoint.keep_last=9").exit_code, 0);
  for (const char* step : {"step-00000004", "step-00000006"}) fs::remove_all(folder_ / "parts/checkpoints" / step);
  ASSERT_EQ(train("parts", 1, more).exit_code, 0) << contents(folder_ / "err");
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(contents(folder_ / "parts/checkpoints/step-00000006" / file) ==
                contents(folder_ / "whole/checkpoints/step-00000006" / file))
        << file;
  }
}

TEST_F(PreferenceRuns, EvaluateAnAdapterAgainstTheModelWithoutIt) {
  const std::string more =
      "lora { rank: 4 } evaluation { held_out_fraction: 0.25 every_steps: 3 } checkpoint { best_metric: \"accuracy\" }";
  ASSERT_EQ(train("run", 1, more, "--set train.learning_rate=1e-2").exit_code, 0) << contents(folder_ / "err");
  std::vector<json> evaluations = metrics("run", "evaluation");
  ASSERT_EQ(evaluations.size(), 3u);
  EXPECT_NEAR(evaluations.front().at("metrics").at("margin").get<double>(), 0, 1e-4);
  EXPECT_GT(evaluations.back().at("metrics").at("margin").get<double>(), 0.1);
  // The margins are those of a run: what the checkpoint alone cannot tell is refused.
  Outcome outcome = weft("evaluate --quiet --model model --adapter run/checkpoints/step-00000006 --data pairs.jsonl");
  expect_one_line_error(outcome, 2, HasSubstr("was trained on preferences"));
}

TEST_F(PreferenceRuns, RefuseWhatIsNoPair) {
  const std::pair<const char*, const char*> kLines[] = {
      {R"({"prompt": "a", "chosen": "b"})", R"(pairs.jsonl:1: has no "rejected")"},
      {R"({"chosen": "one", "rejected": "two"})", "begin with nothing in common"},
      {R"({"prompt": "a", "chosen": "", "rejected": "c"})", "has an empty answer"},
      {R"({"prompt": "a", "chosen": [], "rejected": "c"})", "is a list and the other is not"},
      {R"({"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": []})",
       R"("chosen" does not end with a message of the assistant)"},
      {R"({"prompt": "a", "chosen": [{"role": "robot", "content": "b"}], "rejected": []})", "has role 'robot'"},
      {R"({"prompt": "a", "chosen": [{"role": "user"}], "rejected": []})", R"("chosen", message 1 has no content)"},
      {R"([])", "is no JSON object"}};
  for (const auto& [line, problem] : kLines) {
    std::ofstream(folder_ / "pairs.jsonl") << line << '\n';
    Outcome outcome = train("run", 1, "");
    EXPECT_EQ(outcome.exit_code, 3) << line;
    EXPECT_THAT(outcome.err, HasSubstr(problem)) << line;
  }
}

}  // namespace
}  // namespace weft
