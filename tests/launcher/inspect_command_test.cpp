// weft inspect: checkpoints with and without a config, whole ones and others.
#include <fmt/format.h>

#include <cstring>

#include "launcher/small_encoders.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Outcome;

class Inspect : public EncoderCommands {
 protected:
  json describe(const std::string& arguments) const {
    Outcome outcome = weft("inspect --json " + arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return json::parse(outcome.out);
  }
};

TEST_F(Inspect, SaysWhatABareFileHoldsInEveryFormat) {
  fs::path model = make_model("bert", "hf/bert");
  for (const char* format : {"safetensors", "keras", "tensorflow"}) {
    fs::path folder = convert(model, "", format);
    json whole = describe("'" + folder.string() + "' --family bert");
    for (const char* name : {"config.json", "bert_config.json"}) fs::remove(folder / name);
    json bare = describe("'" + folder.string() + "' --tensors");
    EXPECT_THAT(bare["problem"].get<std::string>(), HasSubstr("config.json"));
    EXPECT_EQ(bare["weights"], whole["weights"]) << format;
    EXPECT_GE(bare["parameters"].get<int64_t>(), whole["parameters"].get<int64_t>()) << format;
    EXPECT_EQ(bare["tensor_list"].size(), whole["weights"]["tensors"].get<size_t>());
    EXPECT_EQ(bare["tokenizer"]["type"], "wordpiece");
    Outcome text = weft("inspect --tensors '" + folder.string() + "'");
    EXPECT_EQ(text.exit_code, 0);
    EXPECT_THAT(text.out, AllOf(HasSubstr("checkpoint  "), HasSubstr("--config FILE"), HasSubstr("embedding")));
  }
  json torch = describe("'" + (kData / "checkpoint/torch/legacy_kinds.pth").string() + "'");
  EXPECT_EQ(torch["format"], "torch");
  EXPECT_EQ(torch["weights"]["types"]["F16"]["tensors"], 1);
  EXPECT_EQ(torch["weights"]["types"]["F16"]["bytes"], 24);
}

TEST_F(Inspect, OfAGgufItTellsThatTheModelIsWhole) {
  json bare = describe("'" + (kData / "checkpoint/quantised.gguf").string() + "'");
  EXPECT_EQ(bare["format"], "gguf");
  EXPECT_TRUE(bare.contains("problem") || bare["match"]["missing"].empty());
}

TEST_F(Inspect, ListsWhatIsMissingUnusedAndOfAnotherShape) {
  fs::path model = make_model("bert", "hf/bert");
  json whole = describe("bert")["match"];
  EXPECT_TRUE(whole["missing"].empty());
  EXPECT_TRUE(whole["unused"].empty());
  EXPECT_TRUE(whole["other_shapes"].empty());
  EXPECT_GT(whole["matched"].get<int64_t>(), 20);
  json fewer = describe("bert --model-set num_hidden_layers=1");
  EXPECT_TRUE(fewer["match"]["missing"].empty());
  EXPECT_THAT(fewer["match"]["unused"].dump(), HasSubstr("bert.encoder.layer.1."));
  json more = describe("bert --model-set num_hidden_layers=5");
  EXPECT_THAT(more["match"]["missing"].dump(), HasSubstr("bert.encoder.layer.4.attention.self.query.weight"));
  json wider = describe("bert --model-set intermediate_size=1000");
  EXPECT_THAT(wider["match"]["other_shapes"].dump(),
              AllOf(HasSubstr("intermediate.dense.weight is ["), HasSubstr("1000")));
  Outcome text = weft("inspect bert --model-set num_hidden_layers=5");
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.out, AllOf(HasSubstr("missing     "), HasSubstr("--json lists all")));
  EXPECT_THAT(weft("inspect bert").out, AllOf(HasSubstr("matched     "), Not(HasSubstr("missing"))));
}

TEST_F(Inspect, WhatIsNoCheckpointIsRefused) {
  expect_one_line_error(weft("inspect absent"), 3, HasSubstr("absent"));
  std::ofstream(folder_ / "shape.json") << "{}";
  expect_one_line_error(weft("inspect shape.json"), 3, HasSubstr("names no family"));
  std::ofstream(folder_ / "x.pth") << "nothing";
  expect_one_line_error(weft("inspect x.pth"), 3, HasSubstr("not a file of torch.save"));
}

}  // namespace
}  // namespace weft
