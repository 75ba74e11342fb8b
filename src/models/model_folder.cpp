#include "models/model_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "checkpoint/file.h"
#include "checkpoint/gguf.h"
#include "checkpoint/output_file.h"
#include "core/error.h"
#include "core/paths.h"
#include "models/model_config.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::array kCopiedFiles = {"generation_config.json",
                                     "tokenizer.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "tokenizer.model",
                                     "spiece.model",
                                     "sentencepiece.bpe.model",
                                     "sentencepiece.model",
                                     "spm.model",
                                     "vocab.json",
                                     "merges.txt",
                                     "chat_template.jinja",
                                     "vocab.txt",
                                     "dict.txt",
                                     "rwkv_vocab_v20230424.txt"};

std::string read_whole(const std::string& path) {
  File file(path);
  std::string bytes(static_cast<size_t>(file.size()), '\0');
  file.read(0, bytes.data(), file.size());
  return bytes;
}

fs::path folder_of(const fs::path& path) {
  return is_folder(path) ? path : path.parent_path();
}

std::string_view torch_dtype_name(DType dtype) {
  return dtype == DType::bf16  ? "bfloat16"
         : dtype == DType::f16 ? "float16"
         : dtype == DType::f64 ? "float64"
                               : "float32";
}

/// transformers wrote torch_dtype up to version 4 and writes dtype since 5.
Json copied_config(const std::string& path, DType dtype) {
  Json config = Json::parse(read_whole(path));
  bool has_new_name = config.contains("dtype");
  if (has_new_name) config["dtype"] = torch_dtype_name(dtype);
  if (!has_new_name || config.contains("torch_dtype")) config["torch_dtype"] = torch_dtype_name(dtype);
  config.erase("quantization_config");
  return config;
}

std::string architecture(const std::string& family) {
  if (family == "llama") return "LlamaForCausalLM";
  if (family == "qwen2") return "Qwen2ForCausalLM";
  if (family == "gemma") return "GemmaForCausalLM";
  if (family == "gemma2") return "Gemma2ForCausalLM";
  fail_input("{}: no Hugging Face config is known for this family; train from a Hugging Face folder", family);
}

/// theta of θ^(−2m/dim), from the second frequency; the first is 1 for every theta.
double rope_theta(const DecoderConfig& settings, const std::string& path) {
  const std::vector<double>& frequencies = settings.inverse_frequency;
  if (frequencies.size() < 2) return 10000;
  double half = static_cast<double>(frequencies.size());
  double theta = std::pow(1 / frequencies[1], half);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double expected = std::pow(theta, -static_cast<double>(i) / half);
    if (std::abs(frequencies[i] - expected) > 1e-6 * expected) {
      fail_input(
          "{}: its rotary frequencies are scaled, which a config.json made from it cannot say yet; start from the "
          "Hugging Face folder of this model",
          printable(path));
    }
  }
  return std::round(theta * 1e3) / 1e3;
}

void add_gemma2(const DecoderConfig& settings, Json& config) {
  config["query_pre_attn_scalar"] = 1 / (settings.attention_scale * settings.attention_scale);
  config["attn_logit_softcapping"] = settings.attention_soft_cap > 0 ? Json(settings.attention_soft_cap) : Json();
  config["final_logit_softcapping"] = settings.logit_soft_cap > 0 ? Json(settings.logit_soft_cap) : Json();
  Json types = Json::array();
  int64_t window = 4096;
  for (size_t layer = 0; layer < static_cast<size_t>(settings.info.num_layers); ++layer) {
    bool slides = layer < settings.windows.size() && settings.windows[layer] > 0;
    if (slides) window = settings.windows[layer];
    types.push_back(slides ? "sliding_attention" : "full_attention");
  }
  config["sliding_window"] = window;
  config["layer_types"] = std::move(types);
}

Json derived_config(const OpenedModel& opened, DType dtype) {
  const DecoderConfig& settings = opened.decoder("writing a config.json from another format");
  const ModelInfo& info = settings.info;
  bool is_gemma = info.family.starts_with("gemma");
  Json config = {{"architectures", {architecture(info.family)}},
                 {"model_type", info.family},
                 {"vocab_size", info.vocab_size},
                 {"hidden_size", info.hidden_size},
                 {"intermediate_size", info.intermediate_size},
                 {"num_hidden_layers", info.num_layers},
                 {"num_attention_heads", info.num_heads},
                 {"num_key_value_heads", info.num_kv_heads},
                 {"head_dim", info.head_dim},
                 {"max_position_embeddings", info.max_positions},
                 {"rms_norm_eps", settings.norm.eps},
                 {"rope_theta", rope_theta(settings, opened.path)},
                 {is_gemma ? "hidden_activation" : "hidden_act", is_gemma ? "gelu_pytorch_tanh" : "silu"},
                 {"attention_bias", settings.qkv_bias && info.family != "qwen2"},
                 {"tie_word_embeddings", info.tied_embedding},
                 {"torch_dtype", torch_dtype_name(dtype)}};
  if (info.family == "gemma2") add_gemma2(settings, config);
  if (!info.end_ids.empty()) config["eos_token_id"] = info.end_ids;
  return config;
}

/// What the config was read from or, of a checkpoint that comes without one, made from its tensors.
std::string config_text(const OpenedModel& opened) {
  bool is_derived =
      opened.config->path() == opened.path && opened.reader != nullptr && opened.family->derive_config != nullptr;
  return is_derived ? opened.family->derive_config(*opened.reader) : read_whole(opened.config->path());
}

/// What the model came with, in the format's keys where those are not the same.
Json config_of_format(const OpenedModel& opened, ModelFormat format) {
  std::string translated = opened.definition.config ? opened.definition.config(format) : "";
  return Json::parse(translated.empty() ? config_text(opened) : translated);
}

Json encoder_config(const OpenedModel& opened, ModelFormat format, DType dtype) {
  Json config = config_of_format(opened, format);
  if (!opened.overrides.empty()) config.update(Json::parse(opened.overrides));
  config["vocab_size"] = opened.info().vocab_size;
  for (const char* key : {"keep_tokens", "compound_tokens", "new_task_head"}) config.erase(key);
  if (format != ModelFormat::huggingface) return config;
  const std::vector<std::string>& types = opened.family->huggingface_types;
  std::string type = config.contains("model_type") ? config["model_type"].get<std::string>() : "";
  if (std::find(types.begin(), types.end(), type) == types.end()) {
    config["model_type"] = types.empty() ? opened.family->name : types.front();
  }
  bool has_new_name = config.contains("dtype");
  if (has_new_name) config["dtype"] = torch_dtype_name(dtype);
  if (!has_new_name || config.contains("torch_dtype")) config["torch_dtype"] = torch_dtype_name(dtype);
  std::string_view architecture = task_head_architecture(opened.info().task_head.kind);
  if (!architecture.empty() && config.contains("architectures")) {
    std::string name = config["architectures"].empty() ? "" : config["architectures"][0].get<std::string>();
    size_t end = name.find("For") != std::string::npos ? name.find("For") : name.rfind("Model");
    if (end != std::string::npos) config["architectures"] = {fmt::format("{}{}", name.substr(0, end), architecture)};
  }
  return config;
}

/// A vocab.txt of the lines that are kept, unless it has been cut already. A checkpoint may know ids that its file does
/// not name.
std::string cut_vocabulary(const std::string& text, const std::vector<int64_t>& kept, int64_t vocab_size) {
  std::vector<std::string_view> lines;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
  }
  if (static_cast<int64_t>(lines.size()) <= vocab_size) return text;
  std::string cut;
  for (int64_t id : kept) {
    if (id < static_cast<int64_t>(lines.size())) cut += lines[static_cast<size_t>(id)];
    cut += '\n';
  }
  return cut;
}

}  // namespace

std::string model_config_json(const OpenedModel& opened, DType dtype) {
  if (!opened.definition.decoder) return encoder_config(opened, ModelFormat::huggingface, dtype).dump(2) + "\n";
  Json config = opened.format == ModelFormat::huggingface
                    ? copied_config((folder_of(opened.path) / "config.json").string(), dtype)
                    : derived_config(opened, dtype);
  return config.dump(2) + "\n";
}

void write_model_files(const OpenedModel& opened,
                       DType dtype,
                       const std::string& tokenizer,
                       const std::string& folder) {
  write_whole_file(folder + "/config.json", model_config_json(opened, dtype));
  const std::string& named = tokenizer.empty() ? opened.path : tokenizer;
  if (is_plain_file(named) && named.ends_with(".gguf")) {
    write_whole_file(folder + "/tokenizer.gguf", gguf_without_tensors(named));
    return;
  }
  fs::path source = folder_of(named);
  for (const char* name : kCopiedFiles) {
    fs::path path = source / name;
    if (is_plain_file(path)) write_whole_file(folder + "/" + name, read_whole(path.string()));
  }
}

void write_converted_files(const OpenedModel& opened, ModelFormat format, DType dtype, const std::string& folder) {
  if (opened.definition.decoder) return write_model_files(opened, dtype, "", folder);
  Json config = encoder_config(opened, format, dtype);
  write_whole_file(folder + (format == ModelFormat::tensorflow ? "/bert_config.json" : "/config.json"),
                   config.dump(2) + "\n");
  std::vector<int64_t> kept = opened.config->integers("keep_tokens");
  for (const fs::path& source : {folder_of(opened.path), folder_of(opened.config->path())}) {
    for (const char* name : kCopiedFiles) {
      if (!is_plain_file(source / name) || path_exists(folder + "/" + name)) continue;
      bool is_whole_tokenizer = std::string_view(name) == "tokenizer.json";
      if (is_whole_tokenizer && !kept.empty()) continue;
      std::string bytes = read_whole((source / name).string());
      if (std::string_view(name) == "vocab.txt" && !kept.empty())
        bytes = cut_vocabulary(bytes, kept, opened.info().vocab_size);
      write_whole_file(folder + "/" + name, bytes);
    }
  }
}

}  // namespace weft
