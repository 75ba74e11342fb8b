// --model-set and model.set: keys of a model's config set from outside; model.allow_missing: weights that are not
// there.
#include <fmt/format.h>

#include <cstring>

#include "launcher/small_encoders.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

json config_of(const fs::path& folder) {
  return json::parse(contents(folder / "config.json"));
}

class ModelSettings : public EncoderCommands {
 protected:
  /// A decoder with its tokenizer and a text, and a config that trains it for two steps.
  void SetUp() override {
    EncoderCommands::SetUp();
    fs::create_directory(folder_ / "llama");
    for (const char* name : {"config.json", "model.safetensors"}) copy(kData / "train/text_lm" / name);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) copy(kData / "tiny_tokenizer" / name);
    fs::copy_file(kData / "train/text_lm/finetune_text.txt", folder_ / "text.txt");
    std::ofstream(folder_ / "run.textproto") << R"(model { path: "llama" }
        data { sources { path: "text.txt" } sequence_length: 32 }
        train { steps: 2 batch_size: 2 learning_rate: 1e-3 }
        checkpoint { every_steps: 2 }
        output { directory: "run" tensorboard: false report: false })";
  }

  void copy(const fs::path& file) const {
    fs::copy_file(file, folder_ / "llama" / file.filename());
    fs::permissions(folder_ / "llama" / file.filename(), fs::perms::owner_all);
  }

  Outcome train(const std::string& settings, int num_ranks = 1) {
    fs::remove_all(folder_ / "run");
    return weft_on_ranks(num_ranks, "train run.textproto " + settings);
  }

  fs::path saved() const { return folder_ / "run/checkpoints/step-00000002"; }

  double first_loss() const {
    std::string metrics = contents(folder_ / "run/metrics.jsonl");
    return json::parse(metrics.substr(0, metrics.find('\n'))).at("loss");
  }

  /// The llama's safetensors file without a tensor.
  void remove_tensor(const std::string& name) const {
    std::string bytes = contents(folder_ / "llama/model.safetensors");
    uint64_t size = 0;
    std::memcpy(&size, bytes.data(), 8);
    json header = json::parse(bytes.substr(8, size));
    ASSERT_EQ(header.erase(name), 1U);
    std::string text = header.dump();
    text.resize(size, ' ');
    std::ofstream(folder_ / "llama/model.safetensors", std::ios::binary) << bytes.replace(8, size, text);
  }
};

TEST_F(ModelSettings, TakeThePlaceOfTheConfigsKeysAndAreWritten) {
  fs::path model = make_model("bert", "hf/bert");
  fs::path changed =
      convert(model,
              "--model-set hidden_dropout_prob=0.25 --model-set layer_norm_eps=0.5 --model-set hidden_act=relu",
              "safetensors");
  EXPECT_EQ(config_of(changed).at("hidden_dropout_prob"), 0.25);
  EXPECT_EQ(config_of(changed).at("hidden_act"), "relu");
  auto encode = [&](const fs::path& folder, const std::string& flags) {
    Outcome outcome =
        weft(fmt::format("encode --model '{}' --dtype f32 --quiet --text - {}", folder.string(), flags), "the fox");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  };
  std::string with_both = encode(model, "--model-set layer_norm_eps=0.5 --model-set hidden_act=relu");
  EXPECT_EQ(with_both, encode(changed, ""));
  EXPECT_NE(with_both, encode(model, ""));
  EXPECT_NE(with_both, encode(model, "--model-set hidden_act=relu"));
}

TEST_F(ModelSettings, AreRefusedWhereTheyWouldDoNothing) {
  make_model("bert", "hf/bert");
  expect_one_line_error(
      weft("inspect bert --model-set hidden_dropout=0.2"),
      2,
      AllOf(HasSubstr("family bert reads no key 'hidden_dropout'"), HasSubstr("'hidden_dropout_prob'")));
  expect_one_line_error(weft("inspect bert --model-set hidden_dropout_prob"), 2, HasSubstr("write KEY=VALUE"));
  expect_one_line_error(weft("inspect bert --model-set =1"), 2, HasSubstr("write KEY=VALUE"));
  expect_one_line_error(
      weft(fmt::format("inspect '{}' --model-set a=1", (kData / "checkpoint/quantised.gguf").string())),
      2,
      HasSubstr("GGUF"));
}

TEST_F(ModelSettings, OfATrainingRunAreInItsCheckpoints) {
  Outcome plain = train("");
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  double plain_loss = first_loss();
  EXPECT_EQ(config_of(saved()).at("rms_norm_eps"), config_of(folder_ / "llama").at("rms_norm_eps"));
  for (int num_ranks : {1, 2}) {
    Outcome changed =
        train("--set model.set+=rms_norm_eps=0.5 --set parallel.tensor=" + std::to_string(num_ranks), num_ranks);
    ASSERT_EQ(changed.exit_code, 0) << changed.err;
    EXPECT_EQ(config_of(saved()).at("rms_norm_eps"), 0.5);
    EXPECT_GT(std::abs(first_loss() - plain_loss), 1e-3);
  }
  expect_one_line_error(train("--set model.set+=rms_norm=0.5"), 2, HasSubstr("'rms_norm_eps'"));
}

TEST_F(ModelSettings, TheConfigMayLieElsewhere) {
  fs::rename(folder_ / "llama/config.json", folder_ / "elsewhere.json");
  EXPECT_EQ(train("").exit_code, 3);
  Outcome outcome = train("--set model.config=elsewhere.json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(config_of(saved()).at("model_type"), "llama");
}

TEST_F(ModelSettings, WeightsThatAreMissingBeginAtRandomWhereThatIsAllowed) {
  const std::string missing = "model.layers.1.mlp.down_proj.weight";
  remove_tensor(missing);
  Outcome refused = train("");
  EXPECT_EQ(refused.exit_code, 3);
  EXPECT_THAT(refused.err, HasSubstr("tensor " + missing));
  Outcome one = train("--set model.allow_missing=true");
  ASSERT_EQ(one.exit_code, 0) << one.err;
  EXPECT_THAT(one.err, AllOf(HasSubstr("1 of the model's tensors are missing"), HasSubstr(missing)));
  EXPECT_EQ(one.err.find(missing), one.err.rfind(missing));
  double loss = first_loss();
  EXPECT_NE(open_checkpoint(saved().string())->find(missing), nullptr);
  Outcome two = train("--set model.allow_missing=true --set parallel.tensor=2", 2);
  ASSERT_EQ(two.exit_code, 0) << two.err;
  EXPECT_NEAR(first_loss(), loss, 0.02);
}

TEST_F(ModelSettings, AnotherModelsWeightsAreRefusedEvenThen) {
  fs::copy_file(
      kData / "hf/bert/model.safetensors", folder_ / "llama/model.safetensors", fs::copy_options::overwrite_existing);
  Outcome outcome = train("--set model.allow_missing=true");
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("none of its tensors is one of a llama"));
}

}  // namespace
}  // namespace weft
