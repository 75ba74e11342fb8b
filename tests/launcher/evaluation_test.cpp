// What evaluations decide while training: the best checkpoint and the end of a run; evaluation with averaged weights
// and by written answers; weights that are not trained. On several ranks and after a resume.
#include <cmath>

#include "checkpoint/reader.h"
#include "launcher/small_encoders.h"
#include "support/task_runs.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

class Evaluations : public testing::TaskRuns {
 protected:
  void SetUp() override {
    TaskRuns::SetUp();
    fs::create_directory(folder_ / "model");
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy(kData / "train/text_lm" / name, folder_ / "model" / name);
    }
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy(kData / "tiny_tokenizer" / name, folder_ / "model" / name);
    }
    fs::copy(kData / "train/text_lm/finetune_text.txt", folder_ / "text.txt");
    std::ofstream pairs(folder_ / "pairs.jsonl");
    for (const char* word : {"We", "hold", "these", "truths"}) {
      for (int i = 0; i < 4; ++i) {
        pairs << json{{"prompt", fmt::format("{} {}", word, word)}, {"completion", fmt::format(" {}.", word)}} << '\n';
      }
    }
  }

  Outcome train(const std::string& run, int num_ranks, const std::string& flags = {}) const {
    return train_config(R"(
model { path: "model" }
data { sources { path: "text.txt" } sequence_length: 32 }
evaluation { held_out_fraction: 0.1 every_steps: 4 max_rows: 5 }
train { steps: 24 batch_size: 4 learning_rate: 1e-3 schedule { kind: CONSTANT } }
checkpoint { keep_last: 1 }
precision { compute: F32 }
)",
                        run,
                        num_ranks,
                        flags);
  }

  fs::path checkpoint(const std::string& run, int64_t step) const {
    return folder_ / run / "checkpoints" / fmt::format("step-{:08}", step);
  }

  std::vector<double> held_out_losses(const std::string& run) const {
    std::vector<double> losses;
    for (const json& line : metrics(run, "evaluation")) losses.push_back(line.at("loss"));
    return losses;
  }

  void expect_same_checkpoint(const std::string& run, const std::string& reference, int64_t step) const {
    for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
      std::string expected = contents(checkpoint(reference, step) / name);
      EXPECT_FALSE(expected.empty()) << reference;
      EXPECT_TRUE(contents(checkpoint(run, step) / name) == expected) << run << " " << name;
    }
  }
};

/// After six steps the weights stay: the evaluation of step 8 is the best.
const std::string kSettling =
    " --set 'train.schedule={kind: PIECEWISE_LINEAR points { step: 0 factor: 1 } points { step: 5 factor: 1 } "
    "points { step: 6 factor: 0 } }' --set train.patience=2";
const std::string kSampled = " --set samples.prompts=We --set samples.max_new_tokens=3";

TEST_F(Evaluations, WithoutImprovementEndTheRunAsAtItsLastStep) {
  for (auto [name, ranks, flags] : {std::tuple{"one", 1, ""},
                                    std::tuple{"data", 2, " --set parallel.zero_stage=3"},
                                    std::tuple{"tensor", 2, " --set parallel.tensor=2"}}) {
    Outcome outcome = train(name, ranks, kSettling + kSampled + flags + " --set output.log_every_steps=5");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(held_out_losses(name).size(), 5u) << name;
    EXPECT_EQ(metrics(name, "step").back().at("step"), 16) << name;
    EXPECT_TRUE(fs::exists(checkpoint(name, 16) / "manifest.json")) << name;
    EXPECT_EQ(json::parse(contents(folder_ / name / "samples.jsonl")).at("step"), 16) << name;
    EXPECT_THAT(contents(folder_ / name / "events.jsonl"), HasSubstr("2 evaluations without a better loss")) << name;
    // There is nothing left to do, until there is more patience.
    ASSERT_EQ(train(name, ranks, kSettling + flags).exit_code, 0);
    EXPECT_FALSE(fs::exists(checkpoint(name, 20))) << name;
  }
  ASSERT_EQ(train("one", 1, kSettling + " --set train.patience=3").exit_code, 0);
  EXPECT_TRUE(fs::exists(checkpoint("one", 20) / "manifest.json"));
}

TEST_F(Evaluations, AreCountedAcrossAResume) {
  std::string flags = kSettling + " --set train.patience=3";
  ASSERT_EQ(train("undisturbed", 2, flags).exit_code, 0);
  ASSERT_EQ(train("disturbed", 2, flags + " --set train.steps=12").exit_code, 0);
  ASSERT_EQ(train("disturbed", 2, flags).exit_code, 0);
  EXPECT_EQ(held_out_losses("disturbed"), held_out_losses("undisturbed"));
  EXPECT_EQ(contents(checkpoint("disturbed", 20) / "train_state.json"),
            contents(checkpoint("undisturbed", 20) / "train_state.json"));
  expect_same_checkpoint("disturbed", "undisturbed", 20);
}

TEST_F(Evaluations, NameTheMetricsThatThereAre) {
  expect_one_line_error(train("run", 1, "--set checkpoint.best_metric=f2"),
                        3,
                        AllOf(HasSubstr("checkpoint.best_metric is 'f2'"), HasSubstr("report loss")));
  EXPECT_FALSE(fs::exists(folder_ / "run" / "metrics.jsonl"));
}

TEST_F(Evaluations, EndEveryRankWhereTheyCannotBe) {
  for (const char* flags : {"--set checkpoint.best_metric=f2",
                            "--set train.freeze=layrs.0",
                            "--set data.packing=NONE --set evaluation.generation.beams=1"}) {
    Outcome outcome = train("run", 2, flags);
    EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
    size_t first = outcome.err.find("error: ");
    EXPECT_NE(first, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("error: ", first + 1), std::string::npos) << outcome.err;
  }
}

TEST_F(Evaluations, MayBeOfTheAveragesAndLeaveTheWeightsAlone) {
  std::string averaged = " --set train.optimizer.ema_momentum=0.9 --set checkpoint.every_steps=4" + kSampled;
  std::string used = averaged + " --set evaluation.use_ema=true";
  const std::string rounded = " --set precision.compute=BF16 --set precision.master_weights=STOCHASTIC_ROUNDING";
  for (const std::string& precision :
       {std::string(" --set precision.compute=F32"), std::string(" --set precision.compute=BF16"), rounded}) {
    ASSERT_EQ(train("plain", 1, averaged + precision).exit_code, 0) << contents(folder_ / "err");
    ASSERT_EQ(train("used", 1, used + precision).exit_code, 0) << contents(folder_ / "err");
    expect_same_checkpoint("used", "plain", 24);
    std::vector<double> losses = held_out_losses("used");
    EXPECT_EQ(losses[0], held_out_losses("plain")[0]) << "before the first update both are the same";
    EXPECT_NE(losses.back(), held_out_losses("plain").back());
    // The averages are a model of their own.
    std::string ema = checkpoint("used", 24).string() + "/ema";
    std::string from_ema = fmt::format(" --set model.path={} --set model.tokenizer=model --set train.steps=1", ema);
    ASSERT_EQ(train("from_ema", 1, from_ema + precision).exit_code, 0) << contents(folder_ / "err");
    // Where there are no masters, the averages are rounded at random.
    double tolerance = precision == rounded ? 2e-2 : 1e-6;
    EXPECT_NEAR(held_out_losses("from_ema")[0], losses.back(), tolerance) << precision;
    for (const char* run : {"plain", "used", "from_ema"}) fs::remove_all(folder_ / run);
  }
}

TEST_F(Evaluations, OfTheAveragesAreTheSameOnEveryMesh) {
  std::string used = " --set train.optimizer.ema_momentum=0.9 --set evaluation.use_ema=true" + kSampled;
  ASSERT_EQ(train("one", 1, used).exit_code, 0) << contents(folder_ / "err");
  std::vector<double> expected = held_out_losses("one");
  for (const char* flags : {"parallel.zero_stage=0",
                            "parallel.zero_stage=1",
                            "parallel.zero_stage=2",
                            "parallel.zero_stage=3",
                            "parallel.tensor=2"}) {
    ASSERT_EQ(train("two", 2, used + " --set " + flags).exit_code, 0) << contents(folder_ / "err");
    std::vector<double> losses = held_out_losses("two");
    ASSERT_EQ(losses.size(), expected.size()) << flags;
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], expected[i], 1e-4) << flags;
    fs::remove_all(folder_ / "two");
  }
}

TEST_F(Evaluations, OfTheAveragesGoOnToTheBit) {
  std::string used =
      " --set train.optimizer.ema_momentum=0.9 --set evaluation.use_ema=true --set checkpoint.background=true";
  ASSERT_EQ(train("undisturbed", 2, used).exit_code, 0);
  ASSERT_EQ(train("disturbed", 2, used + " --set train.steps=8").exit_code, 0);
  ASSERT_EQ(train("disturbed", 2, used).exit_code, 0);
  EXPECT_EQ(held_out_losses("disturbed"), held_out_losses("undisturbed"));
  expect_same_checkpoint("disturbed", "undisturbed", 24);
}

const std::string kFrozen = " --set train.freeze=embed_tokens,layers.0.";

TEST_F(Evaluations, LeaveFrozenWeightsAsTheyWere) {
  for (auto [name, ranks, flags] : {std::tuple{"one", 1, ""},
                                    std::tuple{"shared", 2, " --set parallel.zero_stage=3"},
                                    std::tuple{"block", 2, " --set train.gradient_checkpointing=BLOCK"},
                                    std::tuple{"tensor", 2, " --set parallel.tensor=2"}}) {
    Outcome outcome = train(name, ranks, kFrozen + flags);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    auto base = open_checkpoint((folder_ / "model").string());
    auto trained = open_checkpoint(checkpoint(name, 24).string());
    auto optimizer = contents(checkpoint(name, 24) / "optimizer.safetensors");
    int frozen = 0;
    for (const std::string& tensor : base->names()) {
      bool is_frozen =
          tensor.find("embed_tokens") != std::string::npos || tensor.find("layers.0.") != std::string::npos;
      frozen += is_frozen ? 1 : 0;
      EXPECT_EQ(values_of(*base, tensor) == values_of(*trained, tensor), is_frozen) << name << " " << tensor;
      EXPECT_EQ(optimizer.find("exp_avg/" + tensor) == std::string::npos, is_frozen) << name << " " << tensor;
    }
    EXPECT_GT(frozen, 2);
    if (ranks > 1) expect_same_run(name, "one");
  }
}

TEST_F(Evaluations, FrozenWeightsGoOnToTheBit) {
  std::string flags = kFrozen + " --set parallel.zero_stage=3 --set model.initialise=true";
  ASSERT_EQ(train("undisturbed", 2, flags).exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("disturbed", 2, flags + " --set train.steps=8").exit_code, 0);
  ASSERT_EQ(train("disturbed", 2, flags).exit_code, 0);
  expect_same_checkpoint("disturbed", "undisturbed", 24);
}

TEST_F(Evaluations, FreezeWhatThereIs) {
  expect_one_line_error(train("run", 1, "--set train.freeze=embed_token,layrs.0"),
                        3,
                        AllOf(HasSubstr("train.freeze[1] 'layrs.0' matches no parameter"), HasSubstr("weft inspect")));
  expect_one_line_error(train("run", 1, "--set train.freeze=."), 3, HasSubstr("leaves no parameter to train"));
  expect_one_line_error(train("run", 1, "--set train.freeze=embed --set train.adversarial.kind=FGM"),
                        3,
                        HasSubstr("FGM moves model.embed_tokens.weight"));
  EXPECT_FALSE(fs::exists(folder_ / "run" / "metrics.jsonl"));
}

const std::string kAnswers =
    " --set data.sources[0].path=pairs.jsonl --set data.packing=NONE --set evaluation.held_out_fraction=0"
    " --set evaluation.sources[0].path=pairs.jsonl --set evaluation.max_rows=0 --set evaluation.every_steps=40"
    " --set evaluation.generation.max_new_tokens=8 --set train.steps=120 --set train.learning_rate=5e-3"
    " --set checkpoint.best_metric=rougeL";

TEST_F(Evaluations, MayBeOfWrittenAnswers) {
  ASSERT_EQ(train("one", 1, kAnswers).exit_code, 0) << contents(folder_ / "err");
  json first = metrics("one", "evaluation").front().at("metrics"),
       last = metrics("one", "evaluation").back().at("metrics");
  EXPECT_LT(first.at("bleu").get<double>(), 10) << first;
  EXPECT_GE(last.at("rouge1").get<double>(), 0.9) << last;
  EXPECT_GE(last.at("rougeL").get<double>(), 0.9) << last;
  EXPECT_GE(last.at("generated_exact_match").get<double>(), 0.9) << last;
  EXPECT_EQ(json::parse(contents(checkpoint("one", 120) / "train_state.json")).at("best_metric"), "rougeL");
  for (const char* flags : {"parallel.zero_stage=3",
                            "parallel.tensor=2",
                            "evaluation.generation.beams=3",
                            "evaluation.generation.max_rows=1"}) {
    ASSERT_EQ(train("two", 2, kAnswers + " --set train.steps=1 --set " + flags).exit_code, 0)
        << contents(folder_ / "err");
    if (std::string(flags).starts_with("parallel")) {
      json same = metrics("two", "evaluation").front().at("metrics");
      for (const auto& [name, value] : first.items()) EXPECT_NEAR(same.at(name), value, 1e-9) << flags << " " << name;
    }
    fs::remove_all(folder_ / "two");
  }
  Outcome refused = train("text", 1, "--set data.packing=NONE --set evaluation.generation.beams=1");
  EXPECT_EQ(refused.exit_code, 3);
  EXPECT_THAT(refused.err, HasSubstr("the held-out data have no prompt with a completion"));
}

}  // namespace
}  // namespace weft
