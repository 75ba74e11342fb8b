// Tasks of encoders from their config to what uses the result, on a tiny model: the same losses on every mesh, metrics,
// saved folders and adapters that the commands read.
#include <map>

#include "support/paths.h"
#include "support/task_runs.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

const fs::path kData = test_data();

struct Task {
  std::string name;
  std::string kind;        // of the config, with what else it says of the task
  std::string file;        // training and held-out data
  std::string metric;      // that reaches 0.9 in a few steps
  std::string model = {};  // what else the config says of it
};

std::ostream& operator<<(std::ostream& stream, const Task& task) {
  return stream << task.name;
}

class EncoderTasks : public testing::TaskRuns, public ::testing::WithParamInterface<Task> {
 protected:
  void SetUp() override {
    TaskRuns::SetUp();
    fs::path model = folder_ / "bert";
    fs::create_directory(model);
    for (const char* file : {"config.json", "model.safetensors"}) fs::copy(kData / "hf/bert" / file, model / file);
    int64_t size = json::parse(contents(model / "config.json")).at("vocab_size");
    std::ofstream vocabulary(model / "vocab.txt");
    for (const char* word : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s"}) vocabulary << word << '\n';
    for (int64_t id = 7; id < size; ++id) vocabulary << 'w' << id << '\n';
    write_data();
  }

  /// Words from 40 on are names, and what their texts are about.
  void write_data() const {
    std::ofstream labels(folder_ / "labels.tsv"), tags(folder_ / "tags.tsv"), entities(folder_ / "entities.jsonl");
    std::ofstream multilabel(folder_ / "multilabel.tsv"), questions(folder_ / "questions.tsv"),
        pairs(folder_ / "pairs.tsv"), scored(folder_ / "scored.tsv");
    std::ofstream graded(folder_ / "graded.tsv");
    std::ofstream relations(folder_ / "relations.jsonl"), conditions(folder_ / "conditions.tsv");
    for (int i = 0; i < 24; ++i) {
      std::string before = fmt::format("the w{} w{}", 7 + i % 9, 8 + i % 5);
      std::string name = fmt::format("w{}s w{}", 40 + i % 3, 44 + i % 4);
      std::string text = fmt::format("{} {} w{}", before, name, 20 + i % 3);
      labels << fmt::format("{} w{}\t{}\n", before, 40 + i % 2, i % 2 == 0 ? "zero" : "one");
      const char* words[] = {"", "w40", "w41", "w40 w41"};
      const char* of_words[] = {"", "zero", "one", "zero,one"};
      multilabel << fmt::format("{} {}\t{}\n", before, words[i % 4], of_words[i % 4]);
      tags << fmt::format("the O\nw{} O\nw{}s B-X\nw{} I-X\n\n", 7 + i % 9, 40 + i % 3, 44 + i % 4);
      json entity = {{"start", before.size() + 1}, {"end", before.size() + 1 + name.size()}, {"label", "X"}};
      entities << json{{"text", text}, {"entities", {entity}}} << '\n';
      std::string other = fmt::format("w{}", 30 + i % 2);
      const char* predicate = i % 2 == 0 ? "of" : "in";
      relations << json{{"text", fmt::format("{} {}", text, other)},
                        {"spo_list", {{{"subject", name}, {"predicate", predicate}, {"object", other}}}}}
                << '\n';
      conditions << fmt::format(
          "the w{}\tw{} w{}\t{}\n", 7 + i % 9, 40 + i % 2, 42 + i % 2, i % 2 == 0 ? "zero" : "one");
      questions << "w30 w31\t" << text << '\t' << name << '\n';
      pairs << fmt::format("the w{} w{}\tw{} w{} w6\n", 7 + i, 33 - i % 20, 7 + i, 33 - i % 20);
      graded << fmt::format("the w{} w{}\tw{} w{}\t{}\n", 7 + i, 9, i % 3 > 0 ? 7 + i : 40, i % 3 > 1 ? 9 : 41, i % 3);
      scored << fmt::format("the w{}\tw{} w6\t{}\n", 7 + i, i % 2 == 0 ? 7 + i : 40, i % 2 == 0 ? 1.5 : -1);
    }
  }

  Outcome train(const std::string& run, int num_ranks, const std::string& flags, int steps = 3) const {
    const Task& task = GetParam();
    std::string config = fmt::format(R"(
model {{ path: "bert" {} }}
task {{ {} }}
data {{ sources {{ path: "{}" }} sequence_length: 32 packing: NONE }}
evaluation {{ sources {{ path: "{}" }} max_rows: 0 }}
train {{ steps: {} batch_size: 8 learning_rate: 5e-3 schedule {{ kind: CONSTANT }} }}
precision {{ compute: F32 }}
)",
                                     task.model,
                                     task.kind,
                                     task.file,
                                     task.file,
                                     steps);
    return train_config(config, run, num_ranks, flags);
  }
};

TEST_P(EncoderTasks, HaveTheSameLossesOnEveryMesh) {
  ASSERT_EQ(train("one", 1, "").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("data", 2, "--set parallel.zero_stage=3").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("tensor", 2, "--set parallel.tensor=2").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("both", 4, "--set parallel.tensor=2 --set train.gradient_checkpointing=BLOCK").exit_code, 0);
  for (const char* run : {"data", "tensor", "both"}) expect_same_run(run, "one");
}

TEST_P(EncoderTasks, AreLearntAndMeasured) {
  Outcome outcome = train("run", 1, "", 80);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<json> evaluations = metrics("run", "evaluation");
  ASSERT_GE(evaluations.size(), 2u);
  EXPECT_LT(evaluations.back().at("loss").get<double>(), evaluations.front().at("loss").get<double>());
  EXPECT_GE(evaluations.back().at("metrics").at(GetParam().metric).get<double>(), 0.9) << evaluations.back();
}

TEST_P(EncoderTasks, TrainAnAdapterAndWhatIsOnTop) {
  Outcome outcome = train("run", 2, "--set lora.rank=4", 40);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  json saved = json::parse(contents(folder_ / "run/checkpoints/step-00000040/adapter_config.json"));
  const std::map<std::string, std::string> peft_tasks = {
      {"classification", "SEQ_CLS"}, {"answers", "QUESTION_ANS"}, {"similarity", "FEATURE_EXTRACTION"}};
  auto expected = peft_tasks.find(GetParam().name);
  if (expected != peft_tasks.end()) {
    EXPECT_EQ(saved.at("task_type"), expected->second);
  }
  std::vector<json> evaluations = metrics("run", "evaluation");
  EXPECT_LT(evaluations.back().at("loss").get<double>(), 0.8 * evaluations.front().at("loss").get<double>());
}

TEST_P(EncoderTasks, AreEvaluatedAsInTraining) {
  ASSERT_EQ(train("full", 1, "", 30).exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("lora", 1, "--set lora.rank=4", 30).exit_code, 0) << contents(folder_ / "err");
  const std::string checkpoint = "/checkpoints/step-00000030";
  // Among all of a batch: another batch is another loss.
  bool compares_loss = GetParam().kind.find("SIMILARITY") == std::string::npos;
  for (auto [run, model] : {std::pair{std::string("full"), "--model full" + checkpoint},
                            std::pair{std::string("lora"), "--model bert --adapter lora" + checkpoint}}) {
    json expected = metrics(run, "evaluation").back();
    std::vector<json> predictions;
    for (auto [ranks, flags] : {std::pair{1, ""}, std::pair{2, ""}, std::pair{2, " --tensor-parallel 2"}}) {
      std::string line = fmt::format(
          "evaluate --quiet --json --dtype f32 {} --data {} --predictions out.jsonl{}", model, GetParam().file, flags);
      Outcome outcome = weft_on_ranks(ranks, line);
      ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
      json result = json::parse(outcome.out);
      EXPECT_EQ(result.at("examples"), 24);
      if (compares_loss) {
        EXPECT_NEAR(result.at("loss"), expected.at("loss"), 1e-4) << line;
      }
      for (const auto& [name, value] : expected.at("metrics").items()) {
        EXPECT_NEAR(result.at("metrics").at(name), value, 1e-6) << line << " " << name;
      }
      std::vector<json> lines;
      std::ifstream file(folder_ / "out.jsonl");
      for (std::string text; std::getline(file, text);) lines.push_back(json::parse(text));
      ASSERT_EQ(lines.size(), 24u);
      if (ranks == 1) predictions = lines;
      for (size_t i = 0; i < lines.size(); ++i) {
        if (!lines[i].contains("label")) {  // language models have losses alone
          EXPECT_NEAR(lines[i].at("loss"), predictions[i].at("loss"), 1e-4) << line;
          continue;
        }
        EXPECT_EQ(lines[i].at("label"), predictions[i].at("label")) << line;
        const json &actual = lines[i].at("prediction"), &same = predictions[i].at("prediction");
        if (same.is_number()) {
          EXPECT_NEAR(actual, same, 1e-4) << line;
        } else if (GetParam().name != "pointer") {  // whose entities have scores in them
          EXPECT_EQ(actual, same) << line;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    EncoderTasks,
    ::testing::Values(Task{"classification", "kind: CLASSIFICATION", "labels.tsv", "f1"},
                      Task{"multilabel", "kind: CLASSIFICATION multilabel: true", "multilabel.tsv", "micro_f1"},
                      Task{"crf", "kind: TAGGING transition_scale: 10", "tags.tsv", "f1"},
                      Task{"tags", "kind: TAGGING crf: false", "entities.jsonl", "f1"},
                      Task{"pointer", "kind: ENTITIES pointer_size: 16", "entities.jsonl", "f1"},
                      Task{"answers", "kind: QUESTION_ANSWERING stride: 4", "questions.tsv", "exact_match"},
                      Task{"relations", "kind: RELATIONS pointer_size: 16", "relations.jsonl", "f1"},
                      Task{"condition",
                           "kind: SEQUENCE_TO_SEQUENCE condition: LABEL condition_size: 8",
                           "conditions.tsv",
                           "exact_match",
                           R"(application: "unilm")"},
                      Task{"similarity", "kind: SIMILARITY pooling: MEAN", "pairs.tsv", "accuracy"},
                      Task{"cosent", "kind: SIMILARITY pooling: MEAN", "graded.tsv", "spearman"},
                      Task{"simbert", "kind: SIMILARITY", "pairs.tsv", "accuracy", R"(application: "unilm")"}),
    [](const auto& task) { return task.param.name; });

/// What was trained for one task.
class TrainedEncoder : public EncoderTasks {};

TEST_P(TrainedEncoder, IsReadByItsCommand) {
  const Task& task = GetParam();
  ASSERT_EQ(train("run", 1, "", 80).exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("lora", 1, "--set lora.rank=8", 120).exit_code, 0);
  std::string text = "the w9 w10 w41s w46 w21";
  std::ofstream(folder_ / "text.txt") << text << '\n';
  std::string command =
      task.name == "answers" ? "answer --json --question 'w30 w31' --text text.txt" : "tag --json --text text.txt";
  std::string adapter = "lora/checkpoints/step-00000120";
  std::string merge = "convert --quiet --to safetensors --model bert --adapter " + adapter + " --out merged";
  ASSERT_EQ(weft(merge).exit_code, 0) << contents(folder_ / "err");
  std::vector<std::string> models = {"run/checkpoints/step-00000080", "bert --adapter " + adapter, "merged"};
  std::vector<std::string> printed;
  for (const std::string& model : models) {
    Outcome outcome = weft(fmt::format("{} --quiet --dtype f32 --model {}", command, model));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    json line = json::parse(outcome.out);
    json found = task.name == "answers" ? line : line.at("entities").at(0);
    EXPECT_EQ(found.at("start"), 11) << outcome.out;
    EXPECT_EQ(found.at("end"), 19) << outcome.out;
    EXPECT_EQ(found.at(task.name == "answers" ? "answer" : "text"), "w41s w46");
    printed.push_back(outcome.out);
  }
  Outcome two = weft_on_ranks(2, fmt::format("{} --quiet --dtype f32 --model {}", command, models[0]));
  EXPECT_EQ(two.exit_code, 0) << two.err;
  EXPECT_EQ(json::parse(two.out).size(), json::parse(printed[0]).size()) << two.out;
  expect_one_line_error(
      weft(fmt::format("{} --quiet --model bert", command)), 3, HasSubstr("train one with task.kind"));
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         TrainedEncoder,
                         ::testing::Values(Task{"crf", "kind: TAGGING transition_scale: 10", "entities.jsonl", ""},
                                           Task{"pointer", "kind: ENTITIES pointer_size: 16", "entities.jsonl", ""},
                                           Task{"answers", "kind: QUESTION_ANSWERING stride: 4", "questions.tsv", ""}),
                         [](const auto& task) { return task.param.name; });

class TrainedRelations : public EncoderTasks {};

TEST_P(TrainedRelations, ArePrintedByTag) {
  ASSERT_EQ(train("run", 1, "", 100).exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("lora", 1, "--set lora.rank=8", 140).exit_code, 0) << contents(folder_ / "err");
  std::ofstream(folder_ / "text.txt") << "the w9 w10 w41s w46 w21 w31\n";
  for (const char* model : {"run/checkpoints/step-00000100", "bert --adapter lora/checkpoints/step-00000140"}) {
    for (int ranks : {1, 2}) {
      Outcome outcome = weft_on_ranks(ranks, fmt::format("tag --quiet --dtype f32 --text text.txt --model {}", model));
      ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
      json expected = {{"subject", {{"start", 11}, {"end", 19}, {"text", "w41s w46"}}},
                       {"predicate", "in"},
                       {"object", {{"start", 24}, {"end", 27}, {"text", "w31"}}}};
      EXPECT_EQ(json::parse(outcome.out).at("relations"), json::array({expected})) << model << outcome.out;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         TrainedRelations,
                         ::testing::Values(Task{"gplinker", "kind: RELATIONS pointer_size: 16", "relations.jsonl", ""}),
                         [](const auto& task) { return task.param.name; });

/// The prompt alone does not tell what follows.
class TrainedCondition : public EncoderTasks {
 protected:
  Outcome generate(const std::string& model, const std::string& flags, int ranks = 1) const {
    return weft_on_ranks(ranks,
                         fmt::format("generate --quiet --dtype f32 --application unilm --model {} {}", model, flags));
  }
};

TEST_P(TrainedCondition, DecidesWhatIsWritten) {
  ASSERT_EQ(train("run", 1, "--set evaluation.generation.max_new_tokens=4", 120).exit_code, 0)
      << contents(folder_ / "err");
  EXPECT_GE(metrics("run", "evaluation").back().at("metrics").at("generated_exact_match").get<double>(), 0.9);
  ASSERT_EQ(train("lora", 1, "--set lora.rank=8", 160).exit_code, 0) << contents(folder_ / "err");
  std::string adapter = "bert --adapter lora/checkpoints/step-00000160";
  std::string merge = "convert --quiet --to safetensors --application unilm --out merged --model " + adapter;
  ASSERT_EQ(weft(merge).exit_code, 0) << contents(folder_ / "err");
  std::string run = "run/checkpoints/step-00000120";
  for (const std::string& model : {run, adapter, std::string("merged")}) {
    for (auto [label, text] : {std::pair{"zero", "w40 w42"}, std::pair{"one", "w41 w43"}}) {
      for (const char* beams : {"", "--beams 2"}) {
        Outcome outcome = generate(model, fmt::format("--condition {} {} 'the w9' 'the w10'", label, beams));
        ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
        EXPECT_EQ(outcome.out, fmt::format("{0}\n{0}\n", text)) << model << beams;
      }
    }
  }
  EXPECT_EQ(generate(run, "--condition one 'the w9'", 2).out, "w41 w43\n");
  expect_one_line_error(generate(run, "'the w9'"), 3, HasSubstr("take a condition (one, zero)"));
  expect_one_line_error(
      generate(run, "--condition two 'the w9'"), 3, AllOf(HasSubstr("'two'"), HasSubstr("one, zero")));
  expect_one_line_error(generate("bert", "--condition one 'the w9'"), 3, HasSubstr("norms take none"));
  // Going on with the labels that it has.
  std::string more = "--set model.path=" + run + " ";
  ASSERT_EQ(train("more", 1, more, 2).exit_code, 0) << contents(folder_ / "err");
  EXPECT_LT(metrics("more", "step").front().at("loss").get<double>(), 0.1);
  expect_one_line_error(
      train("other", 1, more + "--set task.condition_size=5"), 3, HasSubstr("conditions of 8 numbers"));
  std::ofstream(folder_ / "other.tsv") << "the\tw40\ttwo\n";
  expect_one_line_error(
      train("other", 1, more + "--set data.sources[0].path=other.tsv"), 3, HasSubstr("other.tsv:1: label two"));
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         TrainedCondition,
                         ::testing::Values(Task{
                             "label",
                             "kind: SEQUENCE_TO_SEQUENCE condition: LABEL condition_size: 8 condition_hidden_size: 6 "
                             "condition_activation: \"tanh\"",
                             "conditions.tsv",
                             "",
                             R"(application: "unilm")"}),
                         [](const auto& task) { return task.param.name; });

class TrainedVectors : public EncoderTasks {};

TEST_P(TrainedVectors, AreConditionsOfALanguageModel) {
  std::ofstream texts(folder_ / "vectors.jsonl");
  for (int i = 0; i < 24; ++i) {
    texts << json{{"text", fmt::format("w{} w{}", 40 + i % 2, 42 + i % 2)},
                  {"condition", {i % 2 == 0 ? 1.0 : -1.0, 0.25 * (i % 5)}}}
          << '\n';
  }
  texts.close();
  ASSERT_EQ(train("run", 2, "", 120).exit_code, 0) << contents(folder_ / "err");
  for (auto [vector, text] : {std::pair{"[1, 0.5]", "w40 w42"}, std::pair{"[-1, 0.5]", "w41 w43"}}) {
    Outcome outcome = weft(fmt::format(
        "generate --quiet --greedy --dtype f32 --application lm --model run/checkpoints/step-00000120 --condition '{}' "
        "--max-new-tokens 2 --prompt ''",
        vector));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, std::string(text) + "\n");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    TrainedVectors,
    ::testing::Values(Task{
        "numbers", "kind: LANGUAGE_MODEL condition: VECTOR", "vectors.jsonl", "", R"(application: "lm")"}),
    [](const auto& task) { return task.param.name; });

/// Encoders write no texts.
class RefusedSamples : public EncoderTasks {};

TEST_P(RefusedSamples, AreRefusedBeforeTheFirstStep) {
  Outcome outcome = train("run", 1, "--set 'samples.prompts=the w9'");
  expect_one_line_error(outcome, 3, AllOf(HasSubstr("samples.prompts"), HasSubstr("cannot write texts")));
  EXPECT_FALSE(fs::exists(folder_ / "run/metrics.jsonl"));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    RefusedSamples,
    ::testing::Values(Task{"masked", "kind: MASKED_LANGUAGE_MODEL", "entities.jsonl", ""},
                      Task{"labels", "kind: CLASSIFICATION", "labels.tsv", "", R"(application: "encoder")"}),
    [](const auto& task) { return task.param.name; });

/// Formats with a checksum a tensor are checked before anything is made of them.
class DamagedBase : public EncoderTasks {};

TEST_P(DamagedBase, IsFoundByTrainingAndMerging) {
  Outcome made = weft("convert --quiet --model bert --to tensorflow --dtype keep --out damaged");
  ASSERT_EQ(made.exit_code, 0) << made.err;
  std::string base = "--set model.path=damaged --set model.family=bert ";
  ASSERT_EQ(train("lora", 1, base + "--set lora.rank=2", 1).exit_code, 0) << contents(folder_ / "err");
  fs::path weights;
  for (const auto& entry : fs::directory_iterator(folder_ / "damaged")) {
    if (entry.path().string().find(".data-") != std::string::npos) weights = entry.path();
  }
  std::string bytes = contents(weights);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  std::ofstream(weights, std::ios::binary) << bytes;
  for (int ranks : {1, 2}) {
    Outcome outcome = train("run", ranks, base);
    EXPECT_EQ(outcome.exit_code, 3) << ranks << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("checksum"));
    EXPECT_FALSE(fs::exists(folder_ / "run/metrics.jsonl"));
  }
  Outcome outcome =
      weft("merge --quiet --model damaged --family bert --adapter lora/checkpoints/step-00000001 --out merged");
  expect_one_line_error(outcome, 3, HasSubstr("checksum"));
  EXPECT_FALSE(fs::exists(folder_ / "merged"));
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         DamagedBase,
                         ::testing::Values(Task{"tensorflow", "kind: CLASSIFICATION", "labels.tsv", ""}),
                         [](const auto& task) { return task.param.name; });

class TrainedClassifier : public EncoderTasks {};

TEST_P(TrainedClassifier, PrintsLinesOrObjects) {
  ASSERT_EQ(train("run", 1, "", 80).exit_code, 0) << contents(folder_ / "err");
  std::ofstream(folder_ / "text.txt") << "the w9 w10 w40\n\nthe w7 w11 w41\nthe w9\tw10\tw41\n";
  std::string classify = "classify --model run/checkpoints/step-00000080 --quiet --dtype f32 --text text.txt ";
  Outcome plain = weft(classify);
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_THAT(plain.out, AllOf(::testing::StartsWith("zero\t"), HasSubstr("\none\t")));
  std::string printed;
  std::vector<json> objects;
  std::istringstream lines(weft(classify + "--json").out);
  for (std::string line; std::getline(lines, line);) {
    json object = objects.emplace_back(json::parse(line));
    std::string label = object.at("label");
    double probability = object.at("probability");
    std::string text = object.contains("text")
                           ? object.at("text").get<std::string>()
                           : object.at("first").get<std::string>() + "\t" + object.at("second").get<std::string>();
    printed += fmt::format("{}\t{:.4f}\t{}\n", label, probability, text);
    json labels = object.at("labels");
    ASSERT_EQ(labels.size(), 2u);
    EXPECT_EQ(labels[0], (json{{"label", label}, {"probability", probability}}));
    EXPECT_NEAR(probability + labels[1].at("probability").get<double>(), 1, 1e-6);
    EXPECT_GE(probability, 0.5);
  }
  EXPECT_EQ(printed, plain.out);
  ASSERT_EQ(objects.size(), 4u);
  EXPECT_EQ(objects[1].at("text"), "");
  EXPECT_EQ(objects[3].at("first"), "the w9");
  EXPECT_EQ(objects[3].at("second"), "w10\tw41");
  std::istringstream one(weft(classify + "--json --top 1").out);
  for (std::string line; std::getline(one, line);) EXPECT_EQ(json::parse(line).at("labels").size(), 1u);
  EXPECT_EQ(weft_on_ranks(2, classify).out, plain.out);
  expect_one_line_error(weft(classify + "--top 1"), 2, HasSubstr("--json"));
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         TrainedClassifier,
                         ::testing::Values(Task{"classification", "kind: CLASSIFICATION", "labels.tsv", ""}),
                         [](const auto& task) { return task.param.name; });

class Multilabel : public EncoderTasks {};

TEST_P(Multilabel, GivesAllLabelsOfATextOnAnyNumberOfRanks) {
  ASSERT_EQ(train("run", 2, "", 80).exit_code, 0) << contents(folder_ / "err");
  json last = metrics("run", "evaluation").back().at("metrics");
  for (const char* metric : {"micro_f1", "macro_f1", "exact_match"}) EXPECT_GE(last.at(metric).get<double>(), 0.9);
  fs::path checkpoint = folder_ / "run/checkpoints/step-00000080";
  EXPECT_EQ(json::parse(contents(checkpoint / "config.json")).at("problem_type"), "multi_label_classification");
  std::ofstream(folder_ / "texts.txt") << "the w9 w10 w40 w41\nthe w9 w10 w41\nthe w9 w10\n";
  for (int ranks : {1, 2}) {
    Outcome outcome =
        weft_on_ranks(ranks, "classify --quiet --dtype f32 --text texts.txt --model run/checkpoints/step-00000080");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_THAT(outcome.out,
                ::testing::MatchesRegex("one,zero\t[0-9.,]*\tthe w9 w10 w40 w41\n"
                                        "one\t[0-9.]*\tthe w9 w10 w41\n"
                                        "\t\tthe w9 w10\n"));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         Multilabel,
                         ::testing::Values(Task{
                             "texts", "kind: CLASSIFICATION multilabel: true", "multilabel.tsv", ""}),
                         [](const auto& task) { return task.param.name; });

class ScoredPairs : public EncoderTasks {};

TEST_P(ScoredPairs, GiveTheRankCorrelationOnAnyNumberOfRanks) {
  std::string held_out = "--set evaluation.sources[0].path=scored.tsv";
  ASSERT_EQ(train("one", 1, held_out, 1).exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("two", 2, held_out, 1).exit_code, 0) << contents(folder_ / "err");
  double one = metrics("one", "evaluation").back().at("metrics").at("spearman");
  double two = metrics("two", "evaluation").back().at("metrics").at("spearman");
  EXPECT_GT(one, 0.5);
  EXPECT_NEAR(one, two, 1e-3);
  Outcome outcome = train("bad", 1, "--set data.sources[0].path=scored.tsv");
  expect_one_line_error(outcome, 3, AllOf(HasSubstr("evaluation.sources"), HasSubstr("some pairs have no score")));
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         ScoredPairs,
                         ::testing::Values(Task{"mean", "kind: SIMILARITY pooling: MEAN", "pairs.tsv", ""}),
                         [](const auto& task) { return task.param.name; });

}  // namespace
}  // namespace weft
