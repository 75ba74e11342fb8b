// weft convert on tiny decoders: Hugging Face, bert4keras3 and GGUF.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "launcher/compare_tensors.h"
#include "launcher/small_encoders.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

class ConvertDecoders : public EncoderCommands {
 protected:
  /// Converts into a new folder; what it warned of is in warnings_.
  fs::path convert(const fs::path& model, const std::string& flags, const std::string& format) {
    return EncoderCommands::convert(model, flags, format, &warnings_);
  }

  void expect_verified(const fs::path& model, const fs::path& golden_case) {
    Outcome outcome = weft(
        fmt::format("verify --quiet --model '{}' --golden '{}'", model.string(), (golden_case / "golden.h5").string()));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  }

  /// A case of hf/ under its name in the test's folder, with other settings.
  fs::path with_config(const std::string& name, const json& changes) const {
    fs::path model = make_model(name, "hf/" + name);
    change_config(model, changes);
    return model;
  }

  /// A tokenizer of four tokens.
  static void write_tokenizer(const fs::path& model) {
    std::ofstream(model / "tokenizer.json") << R"({"added_tokens": [{"id": 2, "content": "<end>", "special": true}],
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
      "decoder": {"type": "ByteLevel"},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 3}, "merges": ["a b"]}})";
  }

  std::string warnings_;
};

class HuggingFaceDecoders : public ConvertDecoders, public ::testing::WithParamInterface<const char*> {};

TEST_P(HuggingFaceDecoders, GoToKerasAndComeBack) {
  fs::path first = kData / "hf" / GetParam();
  fs::path keras = convert(first, "", "keras");
  fs::path back = convert(keras, "", "safetensors");
  EXPECT_EQ(warnings_, "");
  for (const std::string& left : compare_tensors(back, first)) EXPECT_EQ(left, "lm_head.weight");  // tied
  expect_verified(keras, first);
  expect_verified(back, first);
}

TEST_P(HuggingFaceDecoders, GoToGgufAndComeBack) {
  fs::path golden_case = kData / "hf" / GetParam();
  fs::path first = folder_ / "first";
  fs::copy(golden_case, first);
  write_tokenizer(first);
  fs::path gguf = convert(first, "", "gguf");
  fs::path again = convert(gguf / "model.gguf", "", "gguf");
  for (const fs::path& model : {gguf, again}) expect_verified(model, golden_case);
  if (std::string_view(GetParam()) == "llama31_rope") return;  // its scaling is not the released models'
  fs::path back = convert(again, "", "safetensors");
  EXPECT_EQ(warnings_, "");
  expect_verified(back, golden_case);
  // GGUF holds 1 + w of Gemma's norms, which takes a bit.
  if (std::string_view(GetParam()) != "gemma") {
    for (const std::string& left : compare_tensors(back, first)) EXPECT_EQ(left, "lm_head.weight");  // tied
  }
  Outcome ids = weft(fmt::format("tokenize --tokenizer '{}' --text 'ab<end>a' --quiet", gguf.string()));
  EXPECT_EQ(ids.out, "3 2 0\n") << ids.err;
}

INSTANTIATE_TEST_SUITE_P(Families,
                         HuggingFaceDecoders,
                         ::testing::Values("llama_gqa", "llama31_rope", "qwen2", "gemma"),
                         [](const auto& name) { return std::string(name.param); });

class SeedDecoders : public ConvertDecoders,
                     public ::testing::WithParamInterface<std::pair<const char*, const char*>> {};

TEST_P(SeedDecoders, GoToSafetensorsAndComeBack) {
  auto [name, family] = GetParam();
  fs::path first = kData / "seed" / name;
  fs::path middle = convert(first, fmt::format("--family {}", family), "safetensors");
  fs::path back = convert(middle, "", "keras");
  for (const std::string& left : compare_tensors(back, first)) EXPECT_THAT(left, HasSubstr("seed_generator"));
}

INSTANTIATE_TEST_SUITE_P(Families,
                         SeedDecoders,
                         ::testing::Values(std::pair{"llama-gqa", "llama"},
                                           std::pair{"llama-bf16", "llama"},
                                           std::pair{"yi-gqa", "yi"},
                                           std::pair{"qwen1.5-mha", "qwen"},
                                           std::pair{"qwen2-tied", "qwen"},
                                           std::pair{"gemma-mqa", "gemma"},
                                           std::pair{"gemma2-window", "gemma2"},
                                           std::pair{"gemma2-hiddennorm", "gemma2"}),
                         [](const auto& trip) {
                           std::string name = trip.param.first;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

TEST_F(ConvertDecoders, WhatGgufHasNoPlaceForIsRefusedBeforeAnythingIsWritten) {
  auto refuse = [&](const fs::path& model, const char* message) {
    write_tokenizer(model);
    fs::path out = folder_ / "refused";
    Outcome outcome =
        weft(fmt::format("convert --quiet --model '{}' --to gguf --out '{}'", model.string(), out.string()));
    expect_one_line_error(outcome, 3, HasSubstr(message));
    EXPECT_FALSE(fs::exists(out));
  };
  refuse(with_config("gemma2", {{"query_pre_attn_scalar", 24}}), "query_pre_attn_scalar");
  refuse(with_config("qwen2", {{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 1}}),
         "sliding window");
  refuse(with_config("llama_gqa", {{"hidden_act", "gelu"}}), "activation");
}

TEST_F(ConvertDecoders, SaysWhatBert4kerasDoesNotKnow) {
  fs::path keras = convert(kData / "hf/llama31_rope", "", "keras");
  EXPECT_THAT(warnings_, AllOf(HasSubstr("norms with"), HasSubstr("rope_scaling")));
  json config = json::parse(contents(keras / "config.json"));
  EXPECT_EQ(config.at("rope_scaling").at("rope_type"), "llama3");
  EXPECT_LT(config.at("num_attention_heads"), config.at("query_head"));
}

TEST_F(ConvertDecoders, Gemma2GoesToKerasAndComesBackWhereItsScaleIsThatOfTheHead) {
  fs::path first = with_config("gemma2", {{"query_pre_attn_scalar", 16}});
  fs::path keras = convert(first, "", "keras");
  EXPECT_THAT(warnings_, HasSubstr("final_logit_softcapping"));
  fs::path back = convert(keras, "", "safetensors");
  EXPECT_EQ(warnings_, "");
  for (const std::string& left : compare_tensors(back, first)) EXPECT_EQ(left, "lm_head.weight");
  json before = json::parse(contents(first / "config.json")), after = json::parse(contents(back / "config.json"));
  for (const char* key : {"query_pre_attn_scalar",
                          "attn_logit_softcapping",
                          "final_logit_softcapping",
                          "sliding_window",
                          "layer_types",
                          "rms_norm_eps"}) {
    EXPECT_EQ(after.at(key), before.at(key)) << key;
  }
}

TEST_F(ConvertDecoders, RefuseWhatBert4kerasCannotExpress) {
  auto refused = [&](const std::string& name, const json& changes, const ::testing::Matcher<std::string>& says) {
    with_config(name, changes);
    expect_one_line_error(weft("convert --quiet --to keras --out new --model " + name), 3, says);
    EXPECT_FALSE(fs::exists(folder_ / "new"));
    EXPECT_FALSE(fs::exists(folder_ / "new.partial"));
  };
  refused("gemma2", {{"query_pre_attn_scalar", 7}}, HasSubstr("query_pre_attn_scalar"));
  refused(
      "qwen2", {{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 1}}, HasSubstr("window"));
}

}  // namespace
}  // namespace weft
