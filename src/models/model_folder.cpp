#include "models/model_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "checkpoint/file.h"
#include "checkpoint/gguf.h"
#include "checkpoint/output_file.h"
#include "core/error.h"
#include "core/paths.h"
#include "models/model_config.h"
#include "models/sentence_settings.h"

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
                                     "tokenizer.gguf",
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

/// transformers wrote torch_dtype up to version 4 and writes dtype since 5.
void set_dtype(Json& config, DType dtype) {
  bool has_new_name = config.contains("dtype");
  if (has_new_name) config["dtype"] = torch_dtype_name(dtype);
  if (!has_new_name || config.contains("torch_dtype")) config["torch_dtype"] = torch_dtype_name(dtype);
}

Json converted_config(const OpenedModel& opened, ModelFormat format, DType dtype) {
  Json config = config_of_format(opened, format);
  if (!opened.overrides.empty()) config.update(Json::parse(opened.overrides));
  config["vocab_size"] = opened.info().vocab_size;
  for (const char* key : {"keep_tokens",
                          "compound_tokens",
                          "new_task_head",
                          "task_head_begins_anew",
                          "new_layer_norm_cond",
                          "quantization_config",
                          "sentence"}) {
    config.erase(key);
  }
  if (format != ModelFormat::huggingface) return config;
  const std::vector<std::string>& types = opened.family->huggingface_types;
  std::string type = config.contains("model_type") ? config["model_type"].get<std::string>() : "";
  if (std::find(types.begin(), types.end(), type) == types.end()) {
    config["model_type"] = types.empty() ? opened.family->name : types.front();
  }
  set_dtype(config, dtype);
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

/// From `named`, or where that is empty from beside the weights and beside the config.
void copy_tokenizer_files(const OpenedModel& opened, const std::string& named, const std::string& folder) {
  const std::string& from = named.empty() ? opened.path : named;
  if (is_plain_file(from) && from.ends_with(".gguf")) {
    return write_whole_file(folder + "/tokenizer.gguf", gguf_without_tensors(from));
  }
  std::vector<fs::path> sources = {folder_of(from)};
  if (named.empty()) sources.push_back(folder_of(opened.config->path()));
  std::vector<int64_t> kept = opened.config->integers("keep_tokens");
  for (const fs::path& source : sources) {
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

}  // namespace

std::string model_config_json(const OpenedModel& opened, DType dtype) {
  return converted_config(opened, ModelFormat::huggingface, dtype).dump(2) + "\n";
}

void write_model_files(const OpenedModel& opened,
                       ModelFormat format,
                       DType dtype,
                       const std::string& tokenizer,
                       const std::string& folder) {
  write_whole_file(folder + (format == ModelFormat::tensorflow ? "/bert_config.json" : "/config.json"),
                   converted_config(opened, format, dtype).dump(2) + "\n");
  copy_tokenizer_files(opened, tokenizer, folder);
  Json overrides = opened.overrides.empty() ? Json::object() : Json::parse(opened.overrides);
  auto sentence = overrides.find("sentence");
  if (sentence == overrides.end()) return;
  write_sentence_settings(folder, sentence->at("pooling"), sentence->at("max_length"), opened.info().hidden_size);
}

}  // namespace weft
