#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/error.h"
#include "models/decoder_config.h"
#include "models/family.h"
#include "models/model_config.h"
#include "models/rope_settings.h"

namespace weft {
namespace {

constexpr const char* kLlama = R"({"model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "eos_token_id": [2, 5, 999]%s})";

DecoderConfig read(const Family& family,
                   const std::string& text,
                   ModelFormat format = ModelFormat::huggingface,
                   bool compat = false) {
  auto config = ModelConfig::from_json_text(text, "config.json");
  return *family.define({.format = format, .config = *config, .compat = compat}).decoder;
}

DecoderConfig read_llama(const std::string& extra) {
  std::string text = kLlama;
  text.replace(text.find("%s"), 2, extra);
  return read(llama_family(), text);
}

std::string error_of(const std::string& extra) {
  try {
    read_llama(extra);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    return error.what();
  }
  return "no error";
}

TEST(Config, SizesAndDefaults) {
  DecoderConfig config = read_llama("");
  EXPECT_EQ(config.info.head_dim, 16);
  EXPECT_EQ(config.info.num_kv_heads, 2);
  EXPECT_FALSE(config.info.tied_embedding);
  EXPECT_EQ(config.info.end_ids, (std::vector<int32_t>{2, 5}));
  EXPECT_DOUBLE_EQ(config.norm.eps, 1e-5);
  EXPECT_DOUBLE_EQ(config.inverse_frequency[1], std::pow(10000.0, -2.0 / 16));
}

TEST(Config, BothSpellingsOfTheLlama31ScalingAgree) {
  std::string scaling =
      R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "llama3")";
  auto old_spelling = read_llama(R"(, "rope_theta": 500000.0, "rope_scaling": {)" + scaling + "}").inverse_frequency;
  auto new_spelling = read_llama(R"(, "rope_parameters": {"rope_theta": 500000.0, )" + scaling + "}").inverse_frequency;
  EXPECT_EQ(old_spelling, new_spelling);
  // The longest wavelengths are divided by the factor, the shortest kept (the five numbers of the model card).
  EXPECT_DOUBLE_EQ(old_spelling[0], 1.0);
  EXPECT_DOUBLE_EQ(old_spelling[7], std::pow(500000.0, -14.0 / 16) / 8);
  double frequency = std::pow(500000.0, -2.0 / 16);
  double smooth = (64 / (2 * std::numbers::pi / frequency) - 1) / 3;
  EXPECT_DOUBLE_EQ(old_spelling[1], (1 - smooth) * frequency / 8 + smooth * frequency);
}

TEST(Config, TheDivisorsOfAGgufFileAreWrittenAsTheRuleTheyComeFrom) {
  constexpr int64_t kHeadDim = 64;
  RopeSettings rule{.theta = 500000, .scaling = RopeSettings::Scaling::llama3, .factor = 32};
  std::vector<double> scaled = rope_frequencies(rule, kHeadDim), plain = rope_frequencies({.theta = 500000}, kHeadDim);
  RopeSettings stored{.theta = 500000};
  for (size_t i = 0; i < scaled.size(); ++i) {
    stored.divisors.push_back(static_cast<double>(static_cast<float>(plain[i] / scaled[i])));
  }
  nlohmann::ordered_json config;
  add_rope_scaling(stored, kHeadDim, config);
  EXPECT_EQ(config.dump(),
            R"({"rope_scaling":{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
            R"("original_max_position_embeddings":8192}})");
  stored.divisors[3] = 2;
  EXPECT_THROW(add_rope_scaling(stored, kHeadDim, config), Error);
}

TEST(Config, AbsurdValuesAreNamed) {
  EXPECT_NE(error_of(R"(, "hidden_size": -1)").find("hidden_size"), std::string::npos);
  EXPECT_NE(error_of(R"(, "hidden_size": 1e300)").find("hidden_size"), std::string::npos);
  EXPECT_NE(error_of(R"(, "num_hidden_layers": 1000000000)").find("num_hidden_layers"), std::string::npos);
  EXPECT_NE(error_of(R"(, "num_key_value_heads": 3)").find("num_key_value_heads"), std::string::npos);
  EXPECT_NE(error_of(R"(, "vocab_size": "many")").find("vocab_size"), std::string::npos);
  EXPECT_NE(error_of(R"(, "rms_norm_eps": "x")").find("rms_norm_eps"), std::string::npos);
  EXPECT_NE(error_of(R"(, "rope_scaling": {"rope_type": "yarn"})").find("yarn"), std::string::npos);
  EXPECT_NE(error_of(R"(, "hidden_act": "swoosh")").find("swoosh"), std::string::npos);
}

TEST(Config, BrokenJsonIsOneLine) {
  for (const char* text : {"", "{", "[1]", "{\"a\": }", "nonsense"}) {
    try {
      ModelConfig::from_json_text(text, "config.json");
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_THROW(ModelConfig::from_json_text(std::string(100000, '['), "config.json"), Error);
}

TEST(Config, SeedNamesMeanKeyValueHeadsByNumAttentionHeads) {
  std::string text =
      R"({"vocab_size": 50, "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2, "query_head": 6,
    "num_attention_heads": 2, "attention_head_size": 8, "max_wavelength": 500000.0, "scaling_factor": 2.0})";
  DecoderConfig original = read(llama_family(), text, ModelFormat::keras_hdf5);
  EXPECT_EQ(original.info.num_heads, 6);
  EXPECT_EQ(original.info.num_kv_heads, 2);
  EXPECT_DOUBLE_EQ(original.norm.eps, 1e-5);
  EXPECT_DOUBLE_EQ(original.inverse_frequency[1], std::pow(500000.0, -2.0 / 8));
  DecoderConfig compat = read(llama_family(), text, ModelFormat::keras_hdf5, true);
  EXPECT_DOUBLE_EQ(compat.norm.eps, 1e-6);
  EXPECT_DOUBLE_EQ(compat.inverse_frequency[1], std::pow(500000.0, -1.0 / 8));
}

}  // namespace
}  // namespace weft
