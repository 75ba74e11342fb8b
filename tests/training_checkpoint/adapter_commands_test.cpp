// The built program with PEFT's adapter: merged, loaded beside the model, switched.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "support/command_test.h"
#include "support/paths.h"

namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using weft::test_data;
using weft::testing::contents;
using weft::testing::Outcome;

const std::string kCase = test_data("train/llama");
// What PEFT (and transformers with the merged weights) continues the prompt with, greedily.
const std::string kPrompt = "'37 11 12 8 31 73 11 5 47 0 80 33'";
const std::string kWithAdapter = "60 1 77 10 87 77 70 87 85 9 51 26\n";
const std::string kWithoutAdapter = "72 90 67 77 29 33 51 14 23 77 51 9\n";

class AdapterCommands : public weft::testing::CommandTest {
 protected:
  Outcome generate(const std::string& model, const std::string& adapters, int num_ranks = 1) const {
    return weft_on_ranks(
        num_ranks,
        fmt::format("generate --quiet --dtype f32 --ids --ignore-end --max-new-tokens 12 --model '{}' {} {}",
                    model,
                    adapters,
                    kPrompt));
  }
};

TEST_F(AdapterCommands, GenerateUsesTheFirstAdapterOrTheNamedOneOrNone) {
  std::string adapter = "--adapter '" + kCase + "/lora/after'";
  EXPECT_EQ(generate(kCase, adapter).out, kWithAdapter);
  EXPECT_EQ(generate(kCase, adapter, 2).out, kWithAdapter);
  EXPECT_EQ(generate(kCase, "").out, kWithoutAdapter);
  EXPECT_EQ(generate(kCase, adapter + " --use-adapter none").out, kWithoutAdapter);
  // An adapter before its training does nothing: B = 0.
  std::string both = "--adapter fresh='" + kCase + "/lora/before' " + adapter;
  EXPECT_EQ(generate(kCase, both).out, kWithoutAdapter);
  EXPECT_EQ(generate(kCase, both + " --use-adapter after").out, kWithAdapter);
}

TEST_F(AdapterCommands, AnUnknownOrDoubledNameIsAWrongCommandLine) {
  std::string adapter = "--adapter '" + kCase + "/lora/after' ";
  Outcome unknown = generate(kCase, adapter + "--use-adapter before");
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("no adapter is called before; there are after, none"));
  Outcome doubled = generate(kCase, adapter + adapter);
  EXPECT_EQ(doubled.exit_code, 2);
  EXPECT_THAT(doubled.err, HasSubstr("the name after is taken"));
}

TEST_F(AdapterCommands, MergedWeightsGiveTheSameAndDoNotDependOnTheRanks) {
  std::string merge = "merge --quiet --dtype f32 --model '" + kCase + "' --adapter '" + kCase + "/lora/after' --out ";
  EXPECT_EQ(weft(merge + "one").exit_code, 0);
  EXPECT_EQ(weft_on_ranks(2, merge + "two").exit_code, 0);
  EXPECT_EQ(contents(folder_ / "one/model.safetensors"), contents(folder_ / "two/model.safetensors"));
  EXPECT_EQ(generate("one", "").out, kWithAdapter);
  EXPECT_FALSE(fs::exists(folder_ / "one.partial"));
  Outcome again = weft(merge + "one");
  EXPECT_EQ(again.exit_code, 3);
  EXPECT_THAT(again.err, HasSubstr("--out one: exists already"));
}

TEST_F(AdapterCommands, BothConfigAndWeightsOfAMerged16BitModelSayBf16) {
  EXPECT_EQ(weft("merge --model '" + kCase + "' --adapter '" + kCase + "/lora/after' --out half").exit_code, 0);
  EXPECT_THAT(contents(folder_ / "half/config.json"), HasSubstr("\"dtype\": \"bfloat16\""));
  EXPECT_THAT(contents(folder_ / "half/model.safetensors").substr(0, 200), HasSubstr("BF16"));
}

TEST_F(AdapterCommands, ChatSwitchesAdaptersOrSaysWhichThereAre) {
  std::string model = (folder_ / "tiny").string();
  fs::create_directory(model);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::create_symlink(fs::path(test_data()) / "hf/llama_gqa" / name, fs::path(model) / name);
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    fs::create_symlink(fs::path(test_data()) / "tiny_tokenizer" / name, fs::path(model) / name);
  }
  Outcome outcome = weft("chat --chat-format chatml --model '" + model + "'", "/adapter none\n/adapter other\n/exit\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("no adapter is loaded"));
}

/// Largest difference of two adapters' norms, or of their factors.
double largest_difference(const fs::path& one, const fs::path& other, bool of_norms) {
  auto a = weft::open_checkpoint((one / "adapter_model.safetensors").string());
  auto b = weft::open_checkpoint((other / "adapter_model.safetensors").string());
  EXPECT_EQ(a->names(), b->names());
  int64_t count = 0;
  double largest = 0;
  for (const std::string& name : a->names()) {
    if (of_norms == (name.find("lora_") != std::string::npos)) continue;
    std::vector<float> left(static_cast<size_t>(a->info(name).shape.num_elements())), right(left.size());
    a->read(name, left.data(), weft::DType::f32);
    b->read(name, right.data(), weft::DType::f32);
    for (size_t i = 0; i < left.size(); ++i) largest = std::max<double>(largest, std::abs(left[i] - right[i]));
    ++count;
  }
  EXPECT_GT(count, 0);
  return largest;
}

TEST_F(AdapterCommands, TrainingGoesOnFromAnAdaptersNormsAndSavesThemEvenWhereTheyAreFrozen) {
  fs::create_directory(folder_ / "model");
  for (const char* file : {"train/text_lm/config.json",
                           "train/text_lm/model.safetensors",
                           "tiny_tokenizer/tokenizer.json",
                           "tiny_tokenizer/tokenizer_config.json"}) {
    fs::copy_file(fs::path(test_data()) / file, folder_ / "model" / fs::path(file).filename());
  }
  std::ofstream(folder_ / "run.textproto")
      << "model { path: \"model\" }\ndata { sources { path: \"" << test_data("train/text_lm/finetune_text.txt")
      << "\" }"
      << " sequence_length: 32 }\ntrain { steps: 1 batch_size: 4 schedule { kind: CONSTANT } }\n"
      << "precision { compute: F32 }\noutput { tensorboard: false report: false }\n";
  auto train = [&](const std::string& name, const std::string& learning_rate, const std::string& more, int num_ranks) {
    Outcome outcome = weft_on_ranks(num_ranks,
                                    "train run.textproto --quiet --set output.directory=" + name +
                                        " --set train.learning_rate=" + learning_rate + " " + more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return folder_ / name / "checkpoints/step-00000001";
  };
  std::string go_on = "--set 'lora={ adapter: \"first/checkpoints/step-00000001\" ";
  fs::path first = train("first", "0.1", "--set 'lora={ rank: 2 train_norms: true }'", 1);
  fs::path frozen = train("frozen", "0.01", go_on + "dropout: 0.1 }'", 1);
  EXPECT_EQ(largest_difference(first, frozen, true), 0);
  EXPECT_GT(largest_difference(first, frozen, false), 1e-3);
  EXPECT_THAT(contents(frozen / "adapter_config.json"), HasSubstr("\"lora_dropout\": 0.1"));
  fs::path sharded = train("sharded", "0.01", go_on + "}' --set parallel.zero_stage=3", 2);
  EXPECT_EQ(largest_difference(first, sharded, true), 0);
  // A first Adam step moves everything by the learning rate: from the base's norms it would be 0.1.
  fs::path trained = train("trained", "1e-5", go_on + "train_norms: true }'", 1);
  EXPECT_LT(largest_difference(first, trained, true), 2e-5);
  EXPECT_GT(largest_difference(first, trained, true), 0);
}

}  // namespace
