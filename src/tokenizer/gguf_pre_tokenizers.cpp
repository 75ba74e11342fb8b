#include "tokenizer/gguf_pre_tokenizers.h"

#include "tokenizer/split_pattern.h"

namespace weft {

namespace {

constexpr std::string_view kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepseek3Pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

}  // namespace

const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers() {
  static constexpr std::string_view kThreeDigits = R"(\p{N}{1,3})";
  static const std::vector<GgufPreTokenizer> names = {
      {.name = "default", .patterns = {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {.name = "gpt-2", .patterns = {kGpt2Pattern}},
      {.name = "mpt", .patterns = {kGpt2Pattern}},
      {.name = "olmo", .patterns = {kGpt2Pattern}},
      {.name = "smollm", .patterns = {kGpt2Pattern}, .has_single_digits = true},
      {.name = "starcoder", .patterns = {kGpt2Pattern}, .has_single_digits = true},
      {.name = "refact", .patterns = {kGpt2Pattern}, .has_single_digits = true},
      {.name = "command-r", .patterns = {kGpt2Pattern}, .has_single_digits = true},
      {.name = "codeshell", .patterns = {kGpt2Pattern}, .has_single_digits = true},
      {.name = "exaone", .patterns = {kGpt2Pattern}, .has_single_digits = true},
      {.name = "falcon", .patterns = {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2Pattern, "[0-9][0-9][0-9]"}},
      {.name = "llama-bpe", .patterns = {kLlama3Pattern}, .ignore_merges = true, .adds_bos = true},
      {.name = "llama3", .patterns = {kLlama3Pattern}, .ignore_merges = true, .adds_bos = true},
      {.name = "llama-v3", .patterns = {kLlama3Pattern}, .ignore_merges = true, .adds_bos = true},
      {.name = "falcon3", .patterns = {kLlama3Pattern}, .ignore_merges = true},
      {.name = "dbrx", .patterns = {kLlama3Pattern}},
      {.name = "smaug-bpe", .patterns = {kLlama3Pattern}},
      {.name = "chatglm-bpe", .patterns = {kLlama3Pattern}},
      {.name = "qwen2", .patterns = {kQwen2Pattern}, .is_nfc = true},
      {.name = "deepseek-r1-qwen", .patterns = {kQwen2Pattern}, .is_nfc = true},
      {.name = "stablelm2", .patterns = {kQwen2Pattern}},
      {.name = "deepseek-coder",
       .patterns = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", R"([一-龥ࠀ-一가-퟿]+)", R"(\p{N})"}},
      {.name = "deepseek-v3", .patterns = {kThreeDigits, R"([一-龥぀-ゟ゠-ヿ]+)", kDeepseek3Pattern}},
      {.name = "tekken", .patterns = {kTekkenPattern}, .ignore_merges = true, .adds_bos = true},
      {.name = "gpt-4o", .patterns = {kGpt4oPattern}},
      {.name = "llama4", .patterns = {kGpt4oPattern}},
  };
  return names;
}

}  // namespace weft
