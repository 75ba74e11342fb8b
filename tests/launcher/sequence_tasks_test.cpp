// Tasks of encoder-decoders and of RWKV-6 from their config to what uses the result, on tiny models: the same losses on
// every mesh, metrics, adapters, answers of what was trained.
#include "support/paths.h"
#include "support/task_runs.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

const fs::path kData = test_data();

struct Task {
  std::string name;
  std::string model;  // a folder of tests/data/hf
  std::string kind;   // of the config, with what else it says of the task
  std::string file;   // training and held-out data
  std::string adapted = {};
};

std::ostream& operator<<(std::ostream& stream, const Task& task) {
  return stream << task.name;
}

constexpr int kNumWords = 30;  // ids 7 to 36

class SequenceTasks : public testing::TaskRuns, public ::testing::WithParamInterface<Task> {
 protected:
  void SetUp() override {
    TaskRuns::SetUp();
    fs::path from = kData / "hf" / GetParam().model, model = folder_ / "model";
    fs::create_directory(model);
    for (const char* file : {"config.json", "model.safetensors"}) {
      if (fs::exists(from / file)) fs::copy(from / file, model / file);
    }
    std::ofstream vocabulary(model / "vocab.txt");
    for (const char* word : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s"}) vocabulary << word << '\n';
    for (int id = 7; id < 7 + kNumWords; ++id) vocabulary << 'w' << id << '\n';
    write_data();
  }

  /// Completions say of each word of the prompt the one ten later. Texts count upwards.
  void write_data() const {
    std::ofstream pairs(folder_ / "pairs.jsonl"), texts(folder_ / "texts.jsonl");
    for (int i = 0; i < 24; ++i) {
      std::string prompt, completion, text;
      for (int word = 0; word < 1 + i % 3; ++word) {
        int id = 7 + 3 * i % 8 + word;
        prompt += fmt::format("w{} ", id);
        completion += fmt::format("w{} ", id + 10);
      }
      for (int word = 0; word < 12 + i % 5; ++word) text += fmt::format("w{} ", 7 + (i + word) % kNumWords);
      pairs << json{{"prompt", prompt}, {"completion", completion}} << '\n';
      texts << json{{"text", text}} << '\n';
    }
  }

  Outcome train(const std::string& run, int num_ranks, const std::string& flags, int steps = 3) const {
    const Task& task = GetParam();
    bool is_rwkv = task.model == "rwkv6";
    std::string config = fmt::format(R"(
model {{ path: "model{}" {} }}
task {{ {} }}
data {{ sources {{ path: "{}" }} sequence_length: 32 packing: NONE }}
evaluation {{ sources {{ path: "{}" }} max_rows: 0 }}
train {{ steps: {} batch_size: 8 learning_rate: 1e-2 schedule {{ kind: CONSTANT }} }}
precision {{ compute: F32 }}
)",
                                     is_rwkv ? "/model.safetensors" : "",
                                     is_rwkv ? "family: \"rwkv6\"" : "",
                                     task.kind,
                                     task.file,
                                     task.file,
                                     steps);
    return train_config(config, run, num_ranks, flags);
  }
};

TEST_P(SequenceTasks, HaveTheSameLossesOnEveryMesh) {
  ASSERT_EQ(train("one", 1, "").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("data", 2, "--set parallel.zero_stage=3").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("tensor", 2, "--set parallel.tensor=2").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("both", 4, "--set parallel.tensor=2 --set train.gradient_checkpointing=BLOCK").exit_code, 0);
  for (const char* run : {"data", "tensor", "both"}) expect_same_run(run, "one");
}

TEST_P(SequenceTasks, AreLearnt) {
  std::string samples = "--set 'samples.prompts=w11 w12' --set samples.every_steps=240 --set samples.max_new_tokens=4";
  Outcome outcome = train("run", 1, samples, 240);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<json> evaluations = metrics("run", "evaluation");
  ASSERT_GE(evaluations.size(), 2u);
  EXPECT_LT(evaluations.back().at("loss").get<double>(), 0.5 * evaluations.front().at("loss").get<double>())
      << evaluations.back();
  if (GetParam().name != "pairs") return;
  EXPECT_LT(evaluations.front().at("metrics").at("exact_match").get<double>(), 0.2);
  EXPECT_GE(evaluations.back().at("metrics").at("exact_match").get<double>(), 0.9) << evaluations.back();
  EXPECT_GE(evaluations.back().at("metrics").at("accuracy").get<double>(), 0.9) << evaluations.back();
  EXPECT_EQ(json::parse(contents(folder_ / "run/samples.jsonl")).at("text"), "w21 w22");
  // What was trained writes it.
  std::string command =
      "generate --greedy --quiet --dtype f32 --model run/checkpoints/step-00000240 --prompt 'w11 w12'";
  for (int ranks : {1, 2}) {
    outcome = weft_on_ranks(ranks, command);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("w21 w22")) << ranks << " ranks";
  }
}

TEST_P(SequenceTasks, AreEvaluatedAsInTraining) {
  const std::string generation = " --set evaluation.generation.max_new_tokens=6 --set evaluation.generation.max_rows=0";
  bool is_pairs = GetParam().name == "pairs";
  ASSERT_EQ(train("run", 1, is_pairs ? generation : "", 40).exit_code, 0) << contents(folder_ / "err");
  json expected = metrics("run", "evaluation").back();
  std::string tokens_of_all;
  for (auto [ranks, flags] : {std::pair{1, ""}, std::pair{2, ""}, std::pair{2, " --tensor-parallel 2"}}) {
    std::string line = fmt::format(
        "evaluate --quiet --json --dtype f32 --model run/checkpoints/step-00000040 --data {} --predictions "
        "out.jsonl{}{}",
        GetParam().file,
        is_pairs ? " --generate --max-new-tokens 6" : "",
        flags);
    Outcome outcome = weft_on_ranks(ranks, line);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    json result = json::parse(outcome.out);
    EXPECT_NEAR(result.at("loss"), expected.at("loss"), 1e-4) << line;
    if (expected.contains("metrics")) {
      for (const auto& [name, value] : expected.at("metrics").items()) {
        EXPECT_NEAR(result.at("metrics").at(name), value, 1e-6) << line << " " << name;
      }
    }
    std::string lines = contents(folder_ / "out.jsonl");
    EXPECT_GE(std::count(lines.begin(), lines.end(), '\n'), 20) << lines;
    json first = json::parse(lines.substr(0, lines.find('\n')));
    EXPECT_TRUE(first.contains(is_pairs ? "prediction" : "loss")) << first;
  }
}

TEST_P(SequenceTasks, AreScoredByWhatIsWritten) {
  if (GetParam().name != "pairs") GTEST_SKIP() << "its texts are no answers";
  std::string flags = "--set evaluation.generation.max_new_tokens=6 --set evaluation.generation.unit=CHARACTERS";
  ASSERT_EQ(train("one", 1, flags, 240).exit_code, 0) << contents(folder_ / "err");
  json last = metrics("one", "evaluation").back().at("metrics");
  for (const char* metric : {"rouge1", "rouge2", "rougeL", "generated_exact_match"}) {
    EXPECT_GE(last.at(metric).get<double>(), 0.9) << last;
  }
  EXPECT_GE(last.at("bleu").get<double>(), 90) << last;
  // Where greedy generation writes the right tokens, the teacher sees it too.
  EXPECT_NEAR(last.at("generated_exact_match"), last.at("exact_match").get<double>(), 0.05) << last;
  json first = metrics("one", "evaluation").front().at("metrics");
  for (const char* mesh : {" --set parallel.zero_stage=3", " --set parallel.tensor=2"}) {
    ASSERT_EQ(train("two", 2, flags + mesh, 1).exit_code, 0) << contents(folder_ / "err");
    json same = metrics("two", "evaluation").front().at("metrics");
    for (const auto& [name, value] : first.items()) EXPECT_NEAR(same.at(name), value, 1e-9) << mesh << " " << name;
    fs::remove_all(folder_ / "two");
  }
}

/// What an RWKV starts from, beside its frozen weights.
TEST_P(SequenceTasks, TuneInitialStates) {
  std::string flags = "--set state_tuning.shifts=true ";
  if (GetParam().model != "rwkv6") {
    expect_one_line_error(train("one", 1, flags), 3, HasSubstr("state_tuning needs a recurrent model"));
    return;
  }
  ASSERT_EQ(train("one", 1, flags).exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("data", 2, flags + "--set parallel.zero_stage=3").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("tensor", 2, flags + "--set parallel.tensor=2").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("both", 4, flags + "--set parallel.tensor=2 --set train.gradient_checkpointing=BLOCK").exit_code, 0);
  for (const char* run : {"data", "tensor", "both"}) expect_same_run(run, "one");
  ASSERT_EQ(train("run", 1, flags, 100).exit_code, 0) << contents(folder_ / "err");
  std::vector<json> evaluations = metrics("run", "evaluation");
  double before = evaluations.front().at("loss"), after = evaluations.back().at("loss");
  EXPECT_LT(after, 0.97 * before);
  fs::path checkpoint = folder_ / "run/checkpoints/step-00000100";
  json saved = json::parse(contents(checkpoint / "adapter_config.json"));
  EXPECT_EQ(saved.at("peft_type"), "INITIAL_STATE");
  EXPECT_EQ(saved.at("initial_shifts"), true);
  EXPECT_LT(fs::file_size(checkpoint / "adapter_model.safetensors"),
            fs::file_size(folder_ / "model/model.safetensors") / 4);
  // Where inference starts from them, too.
  std::string model = "--quiet --dtype f32 --family rwkv6 --model model/model.safetensors ";
  std::string adapter = "--adapter run/checkpoints/step-00000100 ";
  auto perplexity = [&](const std::string& more, int ranks) {
    std::ofstream(folder_ / "text.txt") << "w7 w8 w9 w10 w11 w12 w13 w14";
    Outcome outcome = weft_on_ranks(ranks, "perplexity --json --text text.txt " + model + more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return json::parse(outcome.out).at("perplexity").get<double>();
  };
  double tuned = perplexity(adapter, 1);
  EXPECT_LT(tuned, 0.97 * perplexity("", 1));
  EXPECT_NEAR(perplexity(adapter, 2), tuned, 1e-3 * tuned);
  EXPECT_EQ(perplexity(adapter + "--use-adapter none", 1), perplexity("", 1));
  std::string prompt = "generate --greedy --max-new-tokens 6 --prompt 'w7 w8' ";
  Outcome one = weft(prompt + model + adapter), two = weft_on_ranks(2, prompt + model + adapter);
  ASSERT_EQ(one.exit_code, 0) << one.err;
  EXPECT_EQ(two.out, one.out);
  Outcome merged = weft("merge --dtype f32 --out merged " + std::string("--family rwkv6 --quiet --model ") +
                        "model/model.safetensors " + adapter);
  ASSERT_EQ(merged.exit_code, 0) << merged.err;
  EXPECT_EQ(weft(prompt + "--quiet --dtype f32 --model merged").out, one.out);
}

TEST_P(SequenceTasks, TrainAnAdapter) {
  Outcome outcome = train("run", 2, "--set lora.rank=4 " + GetParam().adapted, 60);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  json saved = json::parse(contents(folder_ / "run/checkpoints/step-00000060/adapter_config.json"));
  EXPECT_EQ(saved.at("task_type"), GetParam().model == "rwkv6" ? "CAUSAL_LM" : "SEQ_2_SEQ_LM");
  std::vector<json> evaluations = metrics("run", "evaluation");
  EXPECT_LT(evaluations.back().at("loss").get<double>(), 0.85 * evaluations.front().at("loss").get<double>());
}

const char* const kQueriesAndValues = "--set lora.target_modules=q,v";

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    SequenceTasks,
    ::testing::Values(Task{"pairs", "t5_v11", "kind: SEQUENCE_TO_SEQUENCE", "pairs.jsonl", kQueriesAndValues},
                      Task{"spans",
                           "t5_v10",
                           "kind: SPAN_CORRUPTION mask_probability: 0.3 mean_span_length: 2",
                           "texts.jsonl",
                           kQueriesAndValues},
                      Task{"rwkv6", "rwkv6", "kind: LANGUAGE_MODEL", "texts.jsonl"}),
    [](const auto& task) { return task.param.name; });

/// T5 knows no longest text.
class SourceVectors : public SequenceTasks {};

TEST_P(SourceVectors, AreOfTheWholeText) {
  std::ofstream(folder_ / "texts.txt") << "w9 w10 w11\nw9\nw9 w10\n";
  Outcome outcome = weft("encode --quiet --model model --family t5_encoder --text texts.txt");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  std::vector<json> vectors;
  for (std::string line; std::getline(lines, line);) vectors.push_back(json::parse(line));
  ASSERT_EQ(vectors.size(), 3u);
  for (const json& vector : vectors) EXPECT_EQ(vector.size(), 48u);
  EXPECT_NE(vectors[0], vectors[1]);
  EXPECT_NE(vectors[0], vectors[2]);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SourceVectors, ::testing::Values(Task{"t5", "t5_v11", "", ""}), [](const auto& task) {
  return task.param.name;
});

}  // namespace
}  // namespace weft
