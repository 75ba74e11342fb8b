// Real weights: SmolLM2-135M-Instruct against what transformers computes with the same file. The model is no part of
// the repository: scripts/fetch_smollm2.sh puts it where these tests look, and without it they skip.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/paths.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using weft::test_data;
using weft::weft_binary;

constexpr const char* kMpirun = "mpirun --allow-run-as-root --oversubscribe --bind-to none -n";
/// Where the reference's two best logits are closer than this, another correct order of sums may choose the other
/// token.
constexpr double kNearTie = 0.01;

fs::path model_path() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path base = cache != nullptr ? fs::path(cache) : fs::path(home != nullptr ? home : "/") / ".cache";
  return base / "weft" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

class SmolLM2 : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!fs::exists(model_path())) GTEST_SKIP() << model_path() << " is not there; scripts/fetch_smollm2.sh fetches it";
    std::string pattern = (fs::temp_directory_path() / "weft_smollm2_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  /// Runs weft on as many ranks as the test's parameter says; standard output goes to the file "out".
  int weft(const std::string& arguments) const {
    std::string ranks = GetParam() == 1 ? "" : fmt::format("{} {} ", kMpirun, GetParam());
    std::string line = fmt::format("cd '{}' && {}'{}' {} --quiet --dtype f32 --model '{}' >out",
                                   folder_.string(),
                                   ranks,
                                   weft_binary(),
                                   arguments,
                                   model_path().string());
    int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  fs::path folder_;
};

void expect_same_until_near_tie(const json& expected, const json& actual) {
  std::vector<int> expected_ids = expected["new_ids"];
  std::vector<int> actual_ids = actual["ids"];
  ASSERT_EQ(actual_ids.size(), expected_ids.size());
  for (size_t i = 0; i < expected_ids.size(); ++i) {
    if (expected["margins"][i].get<double>() < kNearTie && actual_ids[i] != expected_ids[i]) return;
    ASSERT_EQ(actual_ids[i], expected_ids[i]) << "step " << i << " of " << expected["prompt"];
  }
}

TEST_P(SmolLM2, ContinuesGreedilyAsTheReference) {
  json golden = json::parse(std::ifstream(fs::path(test_data()) / "smollm2/generate.json"));
  std::ofstream prompts(folder_ / "prompts");
  for (const json& one : golden["cases"]) {
    for (int id : one["prompt_ids"].get<std::vector<int>>()) prompts << id << ' ';
    prompts << '\n';
  }
  prompts.close();
  ASSERT_EQ(weft("generate --ids --ignore-end --json --max-new-tokens 64 --prompt-file prompts"), 0);
  std::ifstream answers(folder_ / "out");
  std::string line;
  size_t count = 0;
  while (std::getline(answers, line)) expect_same_until_near_tie(golden["cases"].at(count++), json::parse(line));
  EXPECT_EQ(count, golden["cases"].size());
}

TEST_P(SmolLM2, PredictsARealTextAsTheReference) {
  EXPECT_EQ(weft(fmt::format("verify --golden '{}/smollm2/golden.h5'", test_data())), 0);
}

TEST_P(SmolLM2, TrainsAnAdapterAsPeft) {
  EXPECT_EQ(weft(fmt::format("verify --golden '{}/smollm2/lora/golden.h5' --run lora", test_data())), 0);
}

TEST_P(SmolLM2, WhatTrainingLeavesIsAModelWithItsTokenizer) {
  std::ofstream(folder_ / "text.jsonl") << "{\"text\": \"Brevity is the soul of wit.\"}\n"
                                        << "{\"text\": \"All that glitters is not gold.\"}\n";
  std::ofstream(folder_ / "run.textproto") << fmt::format(
      "model {{ path: \"{}\" }} data {{ sources {{ path: \"text.jsonl\" }} sequence_length: 16 packing: NONE }}\n"
      "train {{ steps: 3 batch_size: 2 learning_rate: 1e-4 }} output {{ directory: \"run\" }}",
      model_path().string());
  std::string ranks = GetParam() == 1 ? "" : fmt::format("{} {} ", kMpirun, GetParam());
  auto run = [&](const std::string& arguments) {
    return std::system(
        fmt::format("cd '{}' && {}'{}' {} --quiet >out", folder_.string(), ranks, weft_binary(), arguments).c_str());
  };
  ASSERT_EQ(run("train run.textproto"), 0);
  ASSERT_EQ(run("generate --model run/checkpoints/step-00000003 --max-new-tokens 4 'All that glitters'"), 0);
  std::string answer;
  std::getline(std::ifstream(folder_ / "out"), answer);
  EXPECT_NE(answer.find("gold"), std::string::npos) << answer;
}

INSTANTIATE_TEST_SUITE_P(Ranks, SmolLM2, ::testing::Values(1, 2));

}  // namespace
