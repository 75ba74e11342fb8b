// Layers of tasks on encoders: what they are called in the files that are written, whose labels count, and when a new
// one begins.
#include "checkpoint/safetensors.h"
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

std::vector<std::string> names_in(const fs::path& file) {
  std::vector<std::string> names = open_safetensors(file.string())->names();
  std::sort(names.begin(), names.end());
  return names;
}

class EncoderHeads : public EncoderCommands {
 protected:
  void SetUp() override {
    EncoderCommands::SetUp();
    write("two.tsv", "w10 w11\tneg\nw12 w13\tpos\nw10 w14\tneg\nw12 w15\tpos\n");
    write("three.tsv", "w10 w11\tneg\nw12 w13\tpos\nw10 w14\tnew\nw12 w15\tpos\n");
    write("tags.tsv", "the O\nw20 B-X\nw21 I-X\n\nthe O\nw22 B-X\n\n");
  }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  Outcome train(const std::string& model,
                const std::string& run,
                const std::string& task,
                const std::string& data,
                const std::string& flags = "",
                int num_ranks = 1) const {
    write("run.textproto",
          fmt::format(R"(
model {{ path: "{}" }}
task {{ {} }}
data {{ sources {{ path: "{}" }} sequence_length: 16 packing: NONE }}
train {{ steps: 2 batch_size: 4 learning_rate: 1e-3 }}
precision {{ compute: F32 }}
)",
                      model,
                      task,
                      data));
    return weft_on_ranks(
        num_ranks, fmt::format("train run.textproto --quiet --threads 1 --set output.directory={} {}", run, flags));
  }

  /// Writes a model's weights anew, each as `change(name, shape, values)` leaves it, or without those for which it says
  /// false.
  template <typename Change>
  static void rewrite_weights(const fs::path& model, const Change& change) {
    auto reader = open_safetensors((model / "model.safetensors").string());
    json header;
    std::string data;
    for (const std::string& name : reader->names()) {
      std::vector<float> values = values_of(*reader, name);
      std::vector<int64_t> shape;
      for (int i = 0; i < reader->info(name).shape.rank(); ++i) shape.push_back(reader->info(name).shape[i]);
      if (!change(name, shape, values)) continue;
      size_t begin = data.size();
      data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
      header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
    }
    reader.reset();
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    uint64_t size = text.size();
    std::ofstream file(model / "model.safetensors", std::ios::binary);
    file << std::string(reinterpret_cast<const char*>(&size), sizeof(size)) << text << data;
  }

  fs::path checkpoint(const std::string& run) const { return folder_ / run / "checkpoints/step-00000002"; }
};

struct Head {
  std::string name, golden_case;
  std::vector<std::string> tensors;  // that transformers' class has
  std::string adapted;               // a layer with LoRA
};

class HeadNames : public EncoderHeads, public ::testing::WithParamInterface<Head> {};

TEST_P(HeadNames, AreTransformersInAllThatIsWritten) {
  const Head& head = GetParam();
  fs::path model = make_model("model", head.golden_case);
  if (fs::exists(model / "model.weights.h5")) model = convert(model, "--family " + head.name, "safetensors");
  std::string path = model.string();
  ASSERT_EQ(train(path, "run", "kind: CLASSIFICATION", "two.tsv", "", 2).exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train(path, "lora", "kind: CLASSIFICATION", "two.tsv", "--set lora.rank=2").exit_code, 0)
      << contents(folder_ / "err");
  std::string merge = fmt::format(
      "merge --quiet --dtype f32 --model '{}' --adapter '{}' --out merged", path, checkpoint("lora").string());
  ASSERT_EQ(weft(merge).exit_code, 0) << contents(folder_ / "err");
  std::vector<std::string> trained = names_in(checkpoint("run") / "model.safetensors");
  for (const std::string& tensor : head.tensors) EXPECT_THAT(trained, ::testing::Contains(tensor));
  EXPECT_EQ(names_in(folder_ / "merged/model.safetensors"), trained);
  std::vector<std::string> converted = names_in(convert(checkpoint("run"), "", "safetensors") / "model.safetensors");
  EXPECT_EQ(converted, trained);
  EXPECT_THAT(names_in(checkpoint("lora") / "adapter_model.safetensors"),
              ::testing::Contains("base_model.model." + head.adapted + ".lora_A.weight"));
  write("text.txt", "w10 w11\nw12 w13\n");
  Outcome whole = weft("classify --quiet --dtype f32 --text text.txt --model " + checkpoint("run").string());
  EXPECT_EQ(whole.exit_code, 0) << whole.err;
  Outcome adapter = weft(fmt::format(
      "classify --quiet --dtype f32 --text text.txt --model '{}' --adapter '{}'", path, checkpoint("lora").string()));
  EXPECT_EQ(adapter.exit_code, 0) << adapter.err;
  EXPECT_EQ(weft("classify --quiet --dtype f32 --text text.txt --model merged").out, adapter.out);
  // Goes on from what it wrote.
  Outcome resumed = train(path, "run", "kind: CLASSIFICATION", "two.tsv", "--set train.steps=3");
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    HeadNames,
    ::testing::Values(
        Head{"bert",
             "hf/bert",
             {"bert.pooler.dense.weight", "classifier.weight"},
             "bert.encoder.layer.0.attention.self.query"},
        Head{"albert",
             "hf/albert",
             {"albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight",
              "albert.pooler.weight",
              "classifier.weight"},
             "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query"},
        Head{"electra",
             "hf/electra_disc",
             {"classifier.dense.weight", "classifier.out_proj.weight"},
             "electra.encoder.layer.0.attention.self.query"},
        Head{"roberta",
             "hf/roberta",
             {"classifier.dense.weight", "classifier.out_proj.weight", "roberta.embeddings.position_embeddings.weight"},
             "roberta.encoder.layer.0.attention.self.query"},
        Head{"distilbert",
             "hf/distilbert",
             {"pre_classifier.weight", "classifier.weight", "distilbert.transformer.layer.0.ffn.lin1.weight"},
             "distilbert.transformer.layer.0.attention.q_lin"},
        Head{"mpnet",
             "hf/mpnet",
             {"classifier.dense.weight", "classifier.out_proj.weight", "mpnet.encoder.relative_attention_bias.weight"},
             "mpnet.encoder.layer.0.attention.attn.q"},
        Head{"roformer",
             "hf/roformer",
             {"classifier.dense.weight", "classifier.out_proj.weight", "roformer.encoder.embed_positions.weight"},
             "roformer.encoder.layer.0.attention.self.query"},
        Head{"deberta",
             "seed/deberta-mlm",
             {"pooler.dense.weight", "classifier.weight", "deberta.encoder.layer.0.attention.self.query_proj.weight"},
             "deberta.encoder.layer.0.attention.self.query_proj"}),
    [](const auto& head) { return head.param.name; });

TEST_F(EncoderHeads, ABertWithoutPoolerGetsOne) {
  fs::path model = make_model("model", "hf/bert");
  rewrite_weights(model, [](const std::string& name, const auto& /*shape*/, const auto& /*values*/) {
    return name.find("pooler") == std::string::npos && !name.starts_with("cls.");
  });
  Outcome outcome = train("model", "run", "kind: CLASSIFICATION", "two.tsv");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(names_in(checkpoint("run") / "model.safetensors"), ::testing::Contains("bert.pooler.dense.weight"));
  ASSERT_EQ(train("model", "lora", "kind: CLASSIFICATION", "two.tsv", "--set lora.rank=2").exit_code, 0);
  EXPECT_EQ(json::parse(contents(checkpoint("lora") / "adapter_config.json")).at("modules_to_save"),
            (json{"classifier", "pooler.dense"}));
}

TEST_F(EncoderHeads, TheModelsLabelsCount) {
  make_model("bert", "hf/bert");
  ASSERT_EQ(train("bert", "first", "kind: CLASSIFICATION", "two.tsv").exit_code, 0) << contents(folder_ / "err");
  write("fruit.tsv", "w10\tapple\nw12\tbanana\nw13\tapple\nw14\tbanana\n");
  Outcome resumed = train("bert", "first", "kind: CLASSIFICATION", "fruit.tsv", "--set train.steps=4");
  EXPECT_EQ(resumed.exit_code, 3);
  EXPECT_THAT(resumed.err, AllOf(HasSubstr("step-00000002: its labels are neg, pos"), HasSubstr("apple, banana")));
  fs::path tuned = checkpoint("first");
  change_config(tuned, {{"id2label", {{"0", "pos"}, {"1", "neg"}}}, {"label2id", {{"pos", 0}, {"neg", 1}}}});
  ASSERT_EQ(train(tuned.string(), "second", "kind: CLASSIFICATION", "two.tsv").exit_code, 0);
  EXPECT_EQ(json::parse(contents(checkpoint("second") / "config.json")).at("id2label"),
            (json{{"0", "pos"}, {"1", "neg"}}));
  expect_one_line_error(train(tuned.string(), "third", "kind: CLASSIFICATION", "three.tsv"),
                        3,
                        AllOf(HasSubstr("three.tsv:3"), HasSubstr("label new"), HasSubstr("pos, neg")));
  change_config(tuned, {{"id2label", {{"0", "LABEL_0"}, {"1", "LABEL_1"}}}});
  ASSERT_EQ(train(tuned.string(), "named", "kind: CLASSIFICATION", "two.tsv").exit_code, 0);
  EXPECT_EQ(json::parse(contents(checkpoint("named") / "config.json")).at("id2label").at("0"), "neg");
}

TEST_F(EncoderHeads, ANewLayerBeginsWhereAskedFor) {
  make_model("bert", "hf/bert");
  ASSERT_EQ(train("bert", "classes", "kind: CLASSIFICATION", "two.tsv").exit_code, 0) << contents(folder_ / "err");
  ASSERT_EQ(train("bert", "tagger", "kind: TAGGING", "tags.tsv").exit_code, 0) << contents(folder_ / "err");
  std::string classes = checkpoint("classes").string(), tagger = checkpoint("tagger").string();
  auto says = AllOf(HasSubstr("run.textproto:3"), HasSubstr("task.new_head: true"));
  expect_one_line_error(train(tagger, "a", "kind: CLASSIFICATION", "two.tsv"), 3, says);
  expect_one_line_error(train(tagger, "b", "kind: TAGGING crf: false", "tags.tsv"), 3, says);
  const std::pair<std::string, std::string> runs[] = {
      {tagger, "kind: CLASSIFICATION"}, {tagger, "kind: TAGGING crf: false"}, {classes, "kind: CLASSIFICATION"}};
  for (const auto& [model, task] : runs) {
    std::string data = task.find("TAGGING") != std::string::npos ? "tags.tsv" : "three.tsv";
    for (const char* flags : {"", "--set lora.rank=2"}) {
      fs::remove_all(folder_ / "new");
      Outcome outcome = train(model, "new", task + " new_head: true", data, flags);
      ASSERT_EQ(outcome.exit_code, 0) << model << " " << task << ": " << outcome.err;
    }
    write("text.txt", "the w10\n");
    std::string command = task.find("TAGGING") != std::string::npos ? "tag" : "classify";
    Outcome used = weft(fmt::format(
        "{} --quiet --text text.txt --model '{}' --adapter '{}'", command, model, checkpoint("new").string()));
    EXPECT_EQ(used.exit_code, 0) << used.err;
  }
}

TEST_F(EncoderHeads, DataThatWouldBeMisread) {
  make_model("bert", "hf/bert");
  auto refuse = [&](const std::string& task, const std::string& data, const std::string& flags, const auto& says) {
    expect_one_line_error(train("bert", "bad", task, data, flags), 3, says);
    EXPECT_FALSE(fs::exists(folder_ / "bad/checkpoints"));
  };
  refuse("kind: CLASSIFICATION", "two.tsv", "--set data.sequence_length=2", HasSubstr("data.sequence_length"));
  write("questions.tsv", "w10\tw11 w12\tw12\n");
  refuse("kind: QUESTION_ANSWERING stride: 16", "questions.tsv", "", HasSubstr("task.stride is 16"));
  refuse("kind: CLASSIFICATION",
         "two.tsv",
         "--set 'data.sources[1].path=two.tsv' --set 'data.sources[1].weight=3'",
         HasSubstr("weight"));
  refuse("kind: CLASSIFICATION",
         "two.tsv",
         "--set 'train.optimizer.weight_decay_exclude+=no_such_name'",
         AllOf(HasSubstr("no_such_name"), HasSubstr("matches no parameter")));
  write("one.tsv", "w10\tneg\nw12\tneg\n");
  refuse("kind: CLASSIFICATION", "one.tsv", "", HasSubstr("one.tsv: all texts have the label neg"));
}

TEST_F(EncoderHeads, WordsAsTheyStand) {
  make_model("bert", "hf/bert");
  ASSERT_EQ(train("bert", "run", "kind: TAGGING", "tags.tsv").exit_code, 0) << contents(folder_ / "err");
  fs::path model = checkpoint("run");
  change_config(model, {{"id2label", {{"0", "X"}, {"1", "Y"}, {"2", "Z"}}}});
  write("text.txt", "the w20.w21  w22\n\nthe\n");
  Outcome outcome = weft("tag --words --text text.txt --quiet --model " + model.string());
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(json::parse(line).at("tokens"), (json{"the", "w20.w21", "w22"}));
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(json::parse(line).at("tokens"), json::array()) << "a blank line keeps its place";
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(json::parse(line).at("tokens"), json{"the"});
}

TEST_F(EncoderHeads, OneOutputIsAScore) {
  make_model("bert", "hf/bert");
  ASSERT_EQ(train("bert", "run", "kind: CLASSIFICATION", "two.tsv").exit_code, 0) << contents(folder_ / "err");
  fs::path model = checkpoint("run");
  rewrite_weights(model, [](const std::string& name, std::vector<int64_t>& shape, std::vector<float>& values) {
    if (!name.starts_with("classifier.")) return true;
    shape[0] = 1;
    values.resize(values.size() / 2);
    if (name == "classifier.bias") values[0] = -100;
    return true;
  });
  change_config(model, {{"id2label", {{"0", "LABEL_0"}}}});
  write("text.txt", "w10\tw11\n");
  std::string command = "classify --text text.txt --quiet --model " + model.string();
  EXPECT_EQ(weft(command).out, "LABEL_0\t0.0000\tw10\tw11\n");
  change_config(model, {{"problem_type", "regression"}});
  EXPECT_THAT(weft(command).out, ::testing::StartsWith("LABEL_0\t-"));
}

TEST_F(EncoderHeads, SentenceSettingsOfTheModel) {
  fs::path model = make_model("bert", "hf/bert");
  write("pairs.tsv", "w10 w11\tw12 w13\nw14\tw15\nw16\tw17\nw18\tw19\n");
  write("text.txt", "w10 w11 w12 w13 w14 w15\n");
  std::string encode = "encode --text text.txt --dtype f32 --quiet --model bert ";
  std::string mean = weft(encode).out, cls = weft(encode + "--pooling cls").out;
  ASSERT_NE(mean, cls);
  fs::create_directory(model / "1_Pooling");
  write("bert/1_Pooling/config.json", R"({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false})");
  EXPECT_EQ(weft(encode).out, cls);
  EXPECT_EQ(weft(encode + "--pooling mean").out, mean);
  write("bert/sentence_bert_config.json", R"({"max_seq_length": 4})");
  EXPECT_EQ(weft(encode + "--pooling mean").out, weft(encode + "--pooling mean --max-length 4").out);
  EXPECT_NE(weft(encode + "--pooling mean").out, mean);
  ASSERT_EQ(train("bert", "run", "kind: SIMILARITY", "pairs.tsv").exit_code, 0) << contents(folder_ / "err");
  EXPECT_EQ(json::parse(contents(checkpoint("run") / "1_Pooling/config.json")).at("pooling_mode_cls_token"), true);
  EXPECT_EQ(json::parse(contents(checkpoint("run") / "modules.json")).size(), 2u);
  expect_one_line_error(weft(encode + "--out vectors.csv"), 2, HasSubstr("vectors.csv"));
}

TEST_F(EncoderHeads, CommandsRefuseWhatWouldGiveNonsense) {
  make_model("bert", "hf/bert");
  write("kept.txt", "[PAD]\n[UNK]\n[SEP]\nthe\n");
  expect_one_line_error(weft("convert --quiet --model bert --keep-tokens kept.txt --to safetensors --out cut"),
                        3,
                        AllOf(HasSubstr("kept.txt"), HasSubstr("[CLS]")));
  EXPECT_FALSE(fs::exists(folder_ / "cut"));
  fs::path t5 = make_model("t5", "hf/t5_v10");
  fs::remove(t5 / "vocab.txt");
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
    fs::copy(kData / "tiny_tokenizer" / file, t5 / file);
  write("text.txt", "the quick fox\n");
  expect_one_line_error(weft("perplexity --quiet --model t5 --text text.txt"), 3, HasSubstr("encoder-decoder"));
  write("pairs.tsv", "the\tfox\t3.5\n\nfox\tfox\n");
  Outcome pairs = weft("similarity --quiet --model bert --pairs pairs.tsv");
  EXPECT_EQ(pairs.exit_code, 0) << pairs.err;
  EXPECT_EQ(std::count(pairs.out.begin(), pairs.out.end(), '\n'), 2);
}

}  // namespace
}  // namespace weft
