// weft train as a user meets it: real ranks under mpirun, interrupted, killed, out of disk; and started again.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "parallel/job_process.h"
#include "support/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// A model of a few thousand weights, its tokenizer, and a text; removed in the end.
class TrainCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "weft_train_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    fs::create_directories(folder_ / "model");
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy_file(fs::path(test_data("train/text_lm")) / name, folder_ / "model" / name);
    }
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy_file(fs::path(test_data("tiny_tokenizer")) / name, folder_ / "model" / name);
    }
    fs::copy_file(test_data("train/text_lm/finetune_text.txt"), folder_ / "text.txt");
  }
  void TearDown() override {
    if (HasFailure()) fmt::print("kept: {}\n", folder_.string());
    std::error_code ignored;
    if (!HasFailure()) fs::remove_all(folder_, ignored);
  }

  struct Config {
    std::string name = "run";
    int steps = 40;
    int save_every = 10;
    bool in_background = true;
    std::string more = {};
  };

  std::string write_config(const Config& config) {
    fs::path path = folder_ / (config.name + ".textproto");
    write_file(path,
               fmt::format("model {{ path: \"{0}/model\" }}\n"
                           "data {{ sources {{ path: \"{0}/text.txt\" }} sequence_length: 32 }}\n"
                           "train {{ steps: {1} batch_size: 4 learning_rate: 1e-3 }}\n"
                           "checkpoint {{ every_steps: {2} background: {3} }}\n"
                           "output {{ directory: \"{0}/{4}\" tensorboard: false report: false }}\n{5}\n",
                           folder_.string(),
                           config.steps,
                           config.save_every,
                           config.in_background,
                           config.name,
                           config.more));
    return path.string();
  }

  using Overrides = std::vector<std::string>;

  static std::vector<std::string> command(const std::string& config, int num_ranks, const Overrides& overrides = {}) {
    std::vector<std::string> line;
    if (num_ranks > 1) {
      line = {
          mpiexec(), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", std::to_string(num_ranks)};
    }
    line.insert(line.end(), {weft_binary(), "train", config});
    for (const std::string& override : overrides) line.insert(line.end(), {"--set", override});
    return line;
  }

  /// Output and exit code of a run that is left alone.
  static std::pair<std::string, int> run(const std::string& config,
                                         int num_ranks = 1,
                                         const Overrides& overrides = {}) {
    JobProcess job(command(config, num_ranks, overrides));
    int code = job.wait(seconds(120));
    return {job.output(), code};
  }

  fs::path checkpoint(const std::string& run, int step) const {
    return folder_ / run / "checkpoints" / fmt::format("step-{:08}", step);
  }

  /// Everything that goes on is the same: weights and optimizer state, to the bit.
  void expect_same_end(const std::string& run, const std::string& reference, int step) const {
    for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
      std::string expected = read_file(checkpoint(reference, step) / name);
      EXPECT_FALSE(expected.empty());
      EXPECT_TRUE(read_file(checkpoint(run, step) / name) == expected) << name;
    }
  }

  /// The last whole line's step in metrics.jsonl; 0 without one.
  int64_t last_logged_step(const std::string& run) const {
    constexpr std::streamoff kTail = 2000;
    std::ifstream file(folder_ / run / "metrics.jsonl", std::ios::binary | std::ios::ate);
    if (!file) return 0;
    file.seekg(std::max<std::streamoff>(0, std::streamoff(file.tellg()) - kTail));
    int64_t last = 0;
    for (std::string line; std::getline(file, line);) {
      auto json = nlohmann::json::parse(line, nullptr, false);
      if (json.is_object()) last = json.value("step", last);
    }
    return last;
  }

  fs::path folder_;
};

TEST_F(TrainCommand, leaves_checkpoints_metrics_and_its_config) {
  auto [output, code] = run(write_config({.more = "evaluation { held_out_fraction: 0.1 every_steps: 20 }\n"
                                                  "samples { prompts: \"We hold\" max_new_tokens: 4 }"}),
                            2);
  ASSERT_EQ(code, 0) << output;
  EXPECT_EQ(last_logged_step("run"), 40);
  for (const char* name : {"config.textproto", "metrics.jsonl", "samples.jsonl", "events.jsonl", "train.log"}) {
    EXPECT_TRUE(fs::exists(folder_ / "run" / name)) << name;
  }
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json", "optimizer.safetensors"}) {
    EXPECT_TRUE(fs::exists(checkpoint("run", 40) / name)) << name;
  }
  // What it leaves is a model that the other commands take, and a config that gives the same run.
  JobProcess generate(
      {weft_binary(), "generate", "--model", checkpoint("run", 40).string(), "--max-new-tokens", "3", "We"});
  EXPECT_EQ(generate.wait(seconds(60)), 0) << generate.output();
  auto [again, again_code] = run((folder_ / "run" / "config.textproto").string(), 2);
  EXPECT_EQ(again_code, 0) << again;
}

TEST_F(TrainCommand, meshes_and_zero_stages_train_alike) {
  std::string reference = write_config({.name = "one", .steps = 6});
  ASSERT_EQ(run(reference).second, 0);
  for (const char* parallel : {"zero_stage: 3", "tensor: 2", "tensor: 2 sequence_parallel: true"}) {
    std::string config = write_config({.name = "two", .steps = 6, .more = fmt::format("parallel {{ {} }}", parallel)});
    auto [output, code] = run(config, 2);
    ASSERT_EQ(code, 0) << parallel << "\n" << output;
    std::ifstream one(folder_ / "one" / "metrics.jsonl"), two(folder_ / "two" / "metrics.jsonl");
    int compared = 0;
    for (std::string a, b; std::getline(one, a) && std::getline(two, b); ++compared) {
      auto ours = nlohmann::json::parse(b), theirs = nlohmann::json::parse(a);
      // bf16 weights: the ranks' sums are rounded in other places.
      EXPECT_NEAR(ours["loss"].get<double>(), theirs["loss"].get<double>(), 0.02) << parallel;
    }
    EXPECT_EQ(compared, 6);
    fs::remove_all(folder_ / "two");
  }
}

TEST_F(TrainCommand, a_signal_saves_and_the_next_start_goes_on_to_the_bit) {
  ASSERT_EQ(run(write_config({.name = "undisturbed", .steps = 400, .save_every = 0})).second, 0);
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) {
    std::string config = write_config({.name = "disturbed", .steps = 400, .save_every = 0});
    JobProcess job(command(config, 1));
    while (last_logged_step("disturbed") < 5) std::this_thread::sleep_for(milliseconds(5));
    kill(job.pid(), signal);
    EXPECT_EQ(job.wait(seconds(60)), 130) << job.output();
    EXPECT_LT(last_logged_step("disturbed"), 400);
    auto [output, code] = run(config);
    EXPECT_EQ(code, 0) << output;
    EXPECT_NE(output.find("resume"), std::string::npos) << output;
    expect_same_end("disturbed", "undisturbed", 400);
    fs::remove_all(folder_ / "disturbed");
  }
}

TEST_F(TrainCommand, signals_through_the_launcher_save_too) {
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) {
    std::string config = write_config({.steps = 100000, .save_every = 0});
    JobProcess job({weft_binary(), "launch", "-n", "2", "--", "train", config});
    while (last_logged_step("run") < 5 && job.seconds() < 60) std::this_thread::sleep_for(milliseconds(5));
    kill(job.pid(), signal);
    EXPECT_EQ(job.wait(seconds(60)), 130) << job.output();
    auto step = static_cast<int>(last_logged_step("run"));
    EXPECT_TRUE(fs::exists(checkpoint("run", step) / "manifest.json")) << step;
    fs::remove_all(folder_ / "run");
  }
}

/// Kills every process whose command line names the config.
int kill_all(const std::string& config) {
  int killed = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (read_file(entry.path() / "cmdline").find(config) == std::string::npos) continue;
    killed += kill(std::atoi(name.c_str()), SIGKILL) == 0 ? 1 : 0;
  }
  return killed;
}

/// The ranks that train by this config.
std::vector<pid_t> ranks_of(const std::string& config) {
  std::vector<pid_t> ranks;
  const std::string command = weft_binary() + '\0' + "train" + '\0' + config;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (read_file(entry.path() / "cmdline").starts_with(command)) ranks.push_back(std::atoi(name.c_str()));
  }
  return ranks;
}

TEST_F(TrainCommand, a_lost_rank_ends_the_launch_with_the_documented_code) {
  std::string config = write_config({.steps = 100000, .save_every = 5});
  JobProcess job({weft_binary(), "launch", "-n", "2", "--", "train", config});
  while (last_logged_step("run") < 20 && job.seconds() < 60) std::this_thread::sleep_for(milliseconds(5));
  std::vector<pid_t> ranks = ranks_of(config);
  ASSERT_EQ(ranks.size(), 2u) << job.output();
  kill(ranks[1], SIGKILL);
  EXPECT_EQ(job.wait(seconds(60)), 5) << job.output();
  EXPECT_EQ(job.output().find("mpirun has exited"), std::string::npos) << job.output();
  EXPECT_FALSE(job.lines_with("error: ").empty()) << job.output();
  for (const std::string& line : job.lines_with("was lost")) {
    EXPECT_NE(line.find("goes on from the checkpoint of step "), std::string::npos) << line;
  }
}

TEST_F(TrainCommand, ranks_end_with_the_launch_that_started_them) {
  std::string config = write_config({.steps = 100000, .save_every = 0});
  JobProcess job({weft_binary(), "launch", "-n", "2", "--", "train", config});
  while (last_logged_step("run") < 5 && job.seconds() < 60) std::this_thread::sleep_for(milliseconds(5));
  ASSERT_EQ(ranks_of(config).size(), 2u) << job.output();
  kill(job.pid(), SIGKILL);
  for (int i = 0; i < 400 && !ranks_of(config).empty(); ++i) std::this_thread::sleep_for(milliseconds(50));
  EXPECT_TRUE(ranks_of(config).empty());
  kill_all(config);
}

TEST_F(TrainCommand, killed_fifty_times_it_ends_as_if_undisturbed) {
  constexpr int kKills = 50;
  constexpr int kSteps = 6000;
  constexpr int kSaveEvery = 25;
  Config config{.name = "undisturbed", .steps = kSteps, .save_every = kSaveEvery, .in_background = false};
  ASSERT_EQ(run(write_config(config), 2).second, 0);
  config.name = "killed";
  std::string path = write_config(config);
  std::mt19937 random(7);
  std::uniform_int_distribution<int> delay_ms(0, 150);
  int kills = 0;
  int64_t logged = 0;
  while (kills < kKills) {
    JobProcess job(command(path, 2));
    int64_t at_start = logged;
    // Killed at a random moment of its training, not of its start-up.
    while (last_logged_step("killed") <= at_start && job.seconds() < 20) std::this_thread::sleep_for(milliseconds(2));
    std::this_thread::sleep_for(milliseconds(delay_ms(random)));
    int killed = kill_all(path);
    job.wait(seconds(30));
    ASSERT_GT(killed, 0) << "the run ended by itself after " << kills << " kills:\n" << job.output();
    ++kills;
    if (at_start > 0) {
      auto resumed = job.lines_with("resume: from");
      int64_t step = resumed.empty() ? 0 : std::stoll(resumed[0].substr(resumed[0].rfind("step-") + 5));
      EXPECT_LE(at_start - step, kSaveEvery) << job.output();
    }
    logged = last_logged_step("killed");
    ASSERT_LT(logged, kSteps) << "too few kills";
  }
  auto [output, code] = run(path, 2);
  ASSERT_EQ(code, 0) << output;
  expect_same_end("killed", "undisturbed", kSteps);
}

TEST_F(TrainCommand, a_full_disk_costs_the_save_but_not_the_checkpoint_before) {
  fs::path disk = folder_ / "full";
  fs::create_directories(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=1400k") != 0) {
    GTEST_SKIP() << "SKIPPED: a small tmpfs can be mounted by root only";
  }
  Config config{.name = "undisturbed", .steps = 60, .save_every = 20, .in_background = false};
  ASSERT_EQ(run(write_config(config)).second, 0);
  config.name = "full";
  std::string path = write_config(config);
  auto [output, code] = run(path);
  EXPECT_EQ(code, 3) << output;
  EXPECT_NE(output.find("disk full"), std::string::npos) << output;
  EXPECT_NE(output.find("could not be written"), std::string::npos) << output;
  EXPECT_TRUE(fs::exists(checkpoint("full", 20) / "manifest.json"));
  for (const auto& entry : fs::directory_iterator(folder_ / "full" / "checkpoints")) {
    EXPECT_EQ(entry.path().extension(), "") << "left behind: " << entry.path();
  }
  ASSERT_EQ(mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT, "size=30m"), 0);
  auto [again, again_code] = run(path);
  EXPECT_EQ(again_code, 0) << again;
  expect_same_end("full", "undisturbed", 60);
  umount(disk.c_str());
}

TEST_F(TrainCommand, stops_when_the_loss_stays_not_finite) {
  std::string config = write_config({.steps = 100, .save_every = 1});
  auto [output, code] = run(config,
                            2,
                            {"train.learning_rate=1e30",
                             "train.clip_norm=0",
                             "train.max_bad_steps=3",
                             "train.schedule.kind=constant",
                             "precision.compute=f32"});
  EXPECT_EQ(code, 3) << output;
  EXPECT_NE(output.find("3 steps in a row without an update"), std::string::npos) << output;
}

TEST_F(TrainCommand, broken_steps_leave_the_checkpoints_before) {
  std::string config = write_config({.steps = 40, .save_every = 1});
  // Rises until the loss is lost, long after the first checkpoints.
  auto [output, code] = run(config,
                            1,
                            {"train.learning_rate=1e30",
                             "train.clip_norm=0",
                             "train.max_bad_steps=4",
                             "train.schedule.kind=piecewise_linear",
                             "train.schedule.points[0].step=10",
                             "train.schedule.points[0].factor=1e-33",
                             "train.schedule.points[1].step=12",
                             "train.schedule.points[1].factor=1",
                             "precision.compute=f32"});
  EXPECT_EQ(code, 3) << output;
  auto last = static_cast<int>(last_logged_step("run"));
  EXPECT_NE(output.find(fmt::format("the last whole checkpoint is of step {}", last - 4)), std::string::npos) << output;
  EXPECT_TRUE(fs::exists(checkpoint("run", last - 4) / "manifest.json"));
  EXPECT_FALSE(fs::exists(checkpoint("run", last)));
}

TEST_F(TrainCommand, weights_broken_by_the_last_steps_take_no_checkpoints_place) {
  const Overrides settings = {
      "train.schedule.kind=constant", "precision.compute=f32", "checkpoint.keep_last=1", "checkpoint.keep_best=false"};
  ASSERT_EQ(run(write_config({.steps = 2, .save_every = 0}), 1, settings).second, 0);
  Overrides broken = settings;
  broken.insert(broken.end(), {"train.learning_rate=1e38", "train.clip_norm=0"});
  auto [output, code] = run(write_config({.steps = 6, .save_every = 0}), 1, broken);
  EXPECT_EQ(code, 3) << output;
  EXPECT_NE(output.find("steps in a row without an update"), std::string::npos) << output;
  EXPECT_NE(output.find("the last whole checkpoint is of step 2"), std::string::npos) << output;
  EXPECT_TRUE(fs::exists(checkpoint("run", 2) / "manifest.json"));
  EXPECT_FALSE(fs::exists(checkpoint("run", 6)));
}

TEST_F(TrainCommand, a_save_under_way_is_completed_while_steps_are_skipped) {
  // The first update breaks the weights: no step after it makes one.
  std::string config = write_config({.steps = 1000000, .save_every = 1});
  for (int steps : {1, 40}) {
    JobProcess job(command(config,
                           1,
                           {"train.learning_rate=1e38",
                            "train.clip_norm=0",
                            "train.max_bad_steps=1000000",
                            "train.schedule.kind=constant",
                            "precision.compute=f32"}));
    while (last_logged_step("run") < steps && job.seconds() < 60) std::this_thread::sleep_for(milliseconds(1));
    kill(job.pid(), SIGINT);
    EXPECT_EQ(job.wait(seconds(60)), 130) << job.output();
    EXPECT_TRUE(fs::exists(checkpoint("run", 1) / "manifest.json")) << job.output();
    fs::remove_all(folder_ / "run");
  }
}

TEST_F(TrainCommand, scores_fewer_held_out_rows_than_ranks) {
  std::string config = write_config({.steps = 2, .more = "evaluation { held_out_fraction: 0.1 max_rows: 1 }"});
  for (const char* parallel : {"parallel.zero_stage=0", "parallel.zero_stage=3"}) {
    auto [output, code] = run(config, 2, {parallel});
    EXPECT_EQ(code, 0) << output;
    EXPECT_FALSE(output.find("held-out loss") == std::string::npos) << output;
    fs::remove_all(folder_ / "run");
  }
}

TEST_F(TrainCommand, the_same_wish_twice_does_not_cost_the_save) {
  std::string config = write_config({.steps = 100000, .save_every = 0});
  JobProcess job(command(config, 1));
  while (last_logged_step("run") < 5 && job.seconds() < 60) std::this_thread::sleep_for(milliseconds(5));
  kill(job.pid(), SIGTERM);
  kill(job.pid(), SIGINT);
  std::this_thread::sleep_for(milliseconds(2));
  kill(job.pid(), SIGTERM);
  EXPECT_EQ(job.wait(seconds(60)), 130) << job.output();
  EXPECT_TRUE(fs::exists(checkpoint("run", static_cast<int>(last_logged_step("run"))) / "manifest.json"));
}

TEST_F(TrainCommand, damaged_checkpoints_are_passed_over) {
  const Overrides constant = {"train.schedule.kind=constant"};
  ASSERT_EQ(run(write_config({.name = "undisturbed", .steps = 30}), 1, constant).second, 0);
  ASSERT_EQ(run(write_config({.name = "damaged", .steps = 20}), 1, constant).second, 0);
  fs::path weights = checkpoint("damaged", 20) / "model.safetensors";
  std::string bytes = read_file(weights);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_file(weights, bytes);
  auto [output, code] = run(write_config({.name = "damaged", .steps = 30}), 1, constant);
  EXPECT_EQ(code, 0) << output;
  EXPECT_NE(output.find("step-00000020"), std::string::npos) << output;
  EXPECT_NE(output.find("from " + checkpoint("damaged", 10).string()), std::string::npos) << output;
  expect_same_end("damaged", "undisturbed", 30);
}

TEST_F(TrainCommand, a_refused_resume_leaves_the_folder_as_it_was) {
  std::string config = write_config({.steps = 4, .more = "lora { rank: 4 alpha: 8 }"});
  auto [begun, begun_code] = run(config);
  ASSERT_EQ(begun_code, 0) << begun;
  const std::string before = read_file(folder_ / "run" / "config.textproto");

  auto expect_refusal = [&](const Overrides& overrides, const std::string& message, int num_ranks) {
    auto [output, code] = run(config, num_ranks, overrides);
    EXPECT_EQ(code, 3) << output;
    EXPECT_NE(output.find(message), std::string::npos) << output;
    EXPECT_TRUE(read_file(folder_ / "run" / "config.textproto") == before) << message;
  };
  expect_refusal({"train.seed=3", "train.learning_rate=0.9"}, "was trained with seed 0, the config says 3", 1);
  expect_refusal({"train.optimizer.kind=LION"}, "its optimizer was adamw, the config says lion", 1);

  // The same weights elsewhere are the same model, others of the same shape are not.
  fs::copy(folder_ / "model", folder_ / "elsewhere", fs::copy_options::recursive);
  const std::string elsewhere = fmt::format("model.path={}", (folder_ / "elsewhere").string());
  auto [moved, moved_code] = run(config, 2, {elsewhere, "train.steps=5"});
  EXPECT_EQ(moved_code, 0) << moved;
  EXPECT_NE(moved.find("before: model.path: "), std::string::npos) << moved;
  fs::copy_file(folder_ / "run" / "config.textproto", folder_ / "moved.textproto");
  fs::path weights = folder_ / "elsewhere" / "model.safetensors";
  std::string bytes = read_file(weights);
  for (size_t i = bytes.size() / 2; i < bytes.size(); i += 2) bytes[i] = static_cast<char>(bytes[i] ^ 1);
  write_file(weights, bytes);
  auto [output, code] = run(config, 2, {elsewhere, "train.steps=6"});
  EXPECT_EQ(code, 3) << output;
  EXPECT_NE(output.find("was trained on other weights than those of"), std::string::npos) << output;
  EXPECT_TRUE(read_file(folder_ / "run" / "config.textproto") == read_file(folder_ / "moved.textproto"));
}

TEST_F(TrainCommand, what_a_resume_finds_changed_is_named_in_full) {
  std::string lora = write_config({.steps = 2, .more = "lora { rank: 4 alpha: 8 }"});
  ASSERT_EQ(run(lora, 1, {"checkpoint.keep_last=1"}).second, 0);
  auto [output, code] = run(lora, 1, {"lora.dropout=0.5", "checkpoint.keep_last=3"});
  EXPECT_EQ(code, 0) << output;
  EXPECT_NE(output.find("before: lora.dropout: 0, checkpoint.keep_last: 1; now: lora.dropout: 0.5, "
                        "checkpoint.keep_last: 3"),
            std::string::npos)
      << output;
}

TEST_F(TrainCommand, the_evaluation_before_the_first_step_is_made_once) {
  std::string config =
      write_config({.steps = 100000, .save_every = 0, .more = "evaluation { held_out_fraction: 0.2 }"});
  JobProcess job(command(config, 1));
  // The lock is taken when signals are heeded and nothing is read yet.
  while (job.seconds() < 60 && !fs::exists(folder_ / "run" / ".lock")) std::this_thread::sleep_for(milliseconds(1));
  kill(job.pid(), SIGINT);
  ASSERT_EQ(job.wait(seconds(60)), 130) << job.output();
  ASSERT_TRUE(fs::exists(checkpoint("run", 0)));
  auto [output, code] = run(config, 1, {"train.steps=1"});
  ASSERT_EQ(code, 0) << output;
  std::string metrics = read_file(folder_ / "run" / "metrics.jsonl");
  int evaluations = 0;
  for (size_t at = 0; (at = metrics.find("\"evaluation\"", at)) != std::string::npos; ++at) ++evaluations;
  EXPECT_EQ(evaluations, 2) << metrics.substr(0, 2000);
}

TEST_F(TrainCommand, two_runs_do_not_share_a_folder) {
  std::string config = write_config({.steps = 100000});
  JobProcess job(command(config, 1));
  while (last_logged_step("run") < 1 && job.seconds() < 60) std::this_thread::sleep_for(milliseconds(5));
  auto [output, code] = run(config);
  EXPECT_EQ(code, 3) << output;
  EXPECT_NE(output.find("another run is using it"), std::string::npos) << output;
  kill(job.pid(), SIGINT);
  EXPECT_EQ(job.wait(seconds(60)), 130);
}

struct BadRun {
  const char* name;
  const char* override;  // of the config
  const char* message;   // part of the one line
  int code = 3;
  int num_ranks = 1;
};

class BadRuns : public TrainCommand, public ::testing::WithParamInterface<BadRun> {};

TEST_P(BadRuns, get_one_clear_line_before_any_work) {
  const BadRun& bad = GetParam();
  write_file(folder_ / "bad.jsonl", "{\"text\": \"fine\"}\n{\"text\": 5}\n");
  write_file(folder_ / "empty.txt", "");
  write_file(folder_ / "junk.tokens", std::string(200, 'x'));
  std::string override = bad.override;
  if (size_t at = override.find('@'); at != std::string::npos) override.replace(at, 1, folder_.string());
  auto [output, code] = run(write_config({}), bad.num_ranks, {override});
  EXPECT_EQ(code, bad.code) << output;
  std::istringstream lines(output);
  int error_lines = 0;
  for (std::string line; std::getline(lines, line);) error_lines += line.find(bad.message) != std::string::npos ? 1 : 0;
  EXPECT_EQ(error_lines, 1) << output;
  EXPECT_FALSE(fs::exists(folder_ / "run" / "metrics.jsonl"));
}

INSTANTIATE_TEST_SUITE_P(
    All,
    BadRuns,
    ::testing::Values(
        BadRun{"unknown_field", "train.learning_rat=1", "did you mean 'learning_rate'"},
        BadRun{"no_model", "model.path=nowhere", "model.path: nowhere: no such file or folder"},
        BadRun{"folder_of_texts", "data.sources[0].path=@", "a folder; name the files in it"},
        BadRun{"other_name", "data.sources[0].path=@/model/config.toml", "expected a name ending in .txt"},
        BadRun{"rank_too_high", "lora={rank: 100000}", "lora: LoRA: rank 100000 is not in"},
        BadRun{"no_data", "data.sources[0].path=nowhere.txt", "nowhere.txt"},
        BadRun{"bad_line", "data.sources[0].path=@/bad.jsonl", "bad.jsonl:2"},
        BadRun{"empty_text", "data.sources[0].path=@/empty.txt", "empty.txt"},
        BadRun{"no_token_file", "data.sources[0].path=@/junk.tokens", "junk.tokens"},
        BadRun{"unknown_target", "lora={target_modules: \"q_prj\"}", "q_prj"},
        BadRun{"row_too_long", "data.sequence_length=100000", "data.sequence_length is 100000"},
        BadRun{"ranks_do_not_divide", "parallel.tensor=3", "tensor", 2, 2},
        BadRun{"batch_does_not_divide", "train.batch_size=3", "batch_size", 2, 2},
        BadRun{"bad_pattern", "train.optimizer={weight_decay_exclude: \"(\"}", "weight_decay_exclude"},
        BadRun{"no_adapter", "lora={adapter: \"nowhere\"}", "nowhere"},
        BadRun{"sample_too_long", "samples={prompts: \"We\" max_new_tokens: 5000}", "samples.max_new_tokens 5000"},
        BadRun{"no_tokenizer", "model.tokenizer=nowhere", "nowhere"}),
    [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace weft
