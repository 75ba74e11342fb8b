#include "models/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "checkpoint/gguf.h"
#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/paths.h"
#include "models/config_settings.h"
#include "models/model_config.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      llama_family(),   qwen2_family(),      gemma_family(),    gemma2_family(),      bert_family(),
      roberta_family(), distilbert_family(), mpnet_family(),    albert_family(),      albert_unshared_family(),
      nezha_family(),   electra_family(),    roformer_family(), roformer_v2_family(), gau_alpha_family(),
      deberta_family(), t5_family(),         umt5_family(),     rwkv6_family(),       gpt_family(),
      gpt2_family(),    gpt2_ml_family()};
  return all;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

const Family& family_by_flag(const std::string& name) {
  for (const Family& family : families()) {
    if (family.name == name || contains(family.seed_names, name) || contains(family.huggingface_types, name))
      return family;
  }
  fail(ExitCode::usage, "unknown family '{}'; known are {}", printable(name), fmt::join(family_names(), ", "));
}

const Family& family_of_config(const ModelConfig& config, ModelFormat format) {
  bool is_gguf = format == ModelFormat::gguf;
  std::string type = config.string_or(is_gguf ? "general.architecture" : "model_type", "");
  if (type.empty()) {
    fail_input(
        "{}: names no family; say which with --family (one of {})", config.path(), fmt::join(family_names(), ", "));
  }
  for (const Family& family : families()) {
    if (contains(is_gguf ? family.gguf_architectures : family.huggingface_types, type)) return family;
    // What Weft saves of a family that transformers does not know.
    if (!is_gguf && family.huggingface_types.empty() && family.name == type) return family;
  }
  std::vector<std::string> known;
  for (const Family& family : families()) {
    const std::vector<std::string>& names = is_gguf ? family.gguf_architectures : family.huggingface_types;
    known.insert(known.end(), names.begin(), names.end());
  }
  fail_input("{}: models of the type '{}' are not supported; known types are {}",
             config.path(),
             printable(type),
             fmt::join(known, ", "));
}

bool is_shape_file(const fs::path& path) {
  return path.extension() == ".json" && is_plain_file(path);
}

/// A file that may describe the model, rather than its tokenizer, its answers or an adapter.
bool may_be_config(const std::string& name) {
  for (const char* other : {"tokenizer", "generation", "adapter", "preprocessor", "processor"}) {
    if (name.starts_with(other)) return false;
  }
  return name.ends_with(".json") && name.find("config") != std::string::npos;
}

/// The config's file: named by the user, or beside the weights or in the folder above them (where a checkpoint's files
/// have a folder of their own).
std::string find_config(const ModelOptions& options) {
  if (!options.config.empty()) return options.config;
  fs::path path = options.path;
  fs::path folder = is_folder(path) ? path : path.parent_path();
  for (const fs::path& candidate : {folder, folder / ".."}) {
    for (const char* name : {"config.json", "bert_config.json", "albert_config.json", "electra_config.json"}) {
      if (is_plain_file(candidate / name)) return (candidate / name).lexically_normal().string();
    }
    std::vector<std::string> found;
    std::error_code error;
    for (fs::directory_iterator it(candidate, error), last; !error && it != last; it.increment(error)) {
      std::string name = it->path().filename().string();
      if (may_be_config(name)) found.push_back(it->path().string());
    }
    if (found.size() == 1) return found[0];
  }
  return (folder / "config.json").string();
}

std::shared_ptr<const ModelConfig> read_json_config(const std::string& path, const ModelOptions& options) {
  return ModelConfig::from_json_file(path, options.overrides);
}

void open_files(const ModelOptions& options, OpenedModel& opened) {
  if (is_shape_file(opened.path)) {
    opened.config = read_json_config(opened.path, options);
    return;
  }
  opened.reader = open_checkpoint(opened.path);
  std::string_view format = opened.reader->format();
  if (format == "gguf") {
    if (!options.set.empty()) {
      fail(ExitCode::usage,
           "{}: a GGUF file says itself what the model is, and nothing of it can be set ({})",
           opened.path,
           printable(options.set[0]));
    }
    opened.format = ModelFormat::gguf;
    opened.config = ModelConfig::from_gguf(read_gguf_metadata(opened.reader->info("token_embd.weight").file));
    return;
  }
  opened.format = format == "keras_hdf5"   ? ModelFormat::keras_hdf5
                  : format == "tensorflow" ? ModelFormat::tensorflow
                                           : ModelFormat::huggingface;
  std::string path = find_config(options);
  if (!is_plain_file(path)) {
    for (const Family& family : families()) {
      std::string derived = family.derive_config ? family.derive_config(*opened.reader) : "";
      if (derived.empty()) continue;
      opened.config = ModelConfig::from_json_text(derived, options.path, options.overrides);
      return;
    }
  }
  opened.config = read_json_config(path, options);
}

std::optional<AttentionPattern> parse_application(const std::string& application) {
  if (application.empty()) return std::nullopt;
  if (application == "encoder") return AttentionPattern::bidirectional;
  if (application == "lm") return AttentionPattern::causal;
  if (application == "unilm") return AttentionPattern::prefix;
  fail(ExitCode::usage, "unknown application '{}'; known are encoder, lm and unilm", printable(application));
}

bool exists(const ModelOptions& options) {
  return path_exists(options.path) || path_exists(options.path + ".index");
}

constexpr std::pair<std::string_view, Quantization> kQuantizations[] = {
    {"none", Quantization::none}, {"int8", Quantization::int8}, {"int4", Quantization::int4}};

}  // namespace

Quantization parse_quantization(std::string_view name) {
  for (const auto& [known, value] : kQuantizations) {
    if (known == name) return value;
  }
  fail(ExitCode::usage, "unknown quantization {}; known are none, int8 and int4", printable(name));
}

std::string_view quantization_name(Quantization quantization) {
  for (const auto& [name, known] : kQuantizations) {
    if (known == quantization) return name;
  }
  return "?";
}

std::string_view model_format_name(ModelFormat format) {
  switch (format) {
    case ModelFormat::huggingface:
      return "huggingface";
    case ModelFormat::keras_hdf5:
      return "keras_hdf5";
    case ModelFormat::gguf:
      return "gguf";
    case ModelFormat::tensorflow:
      return "tensorflow";
  }
  return "";
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family& family : families()) {
    names.push_back(family.name);
    for (const std::string& name : family.seed_names) {
      if (name != family.name) names.push_back(name);
    }
  }
  return names;
}

std::optional<WeightMap> own_names(const ModelSource& source,
                                   const std::function<std::unique_ptr<LanguageModel>(TensorParallelPlace)>& make,
                                   const std::optional<WeightMap>& theirs) {
  if (source.format != ModelFormat::huggingface || source.reader == nullptr) return std::nullopt;
  std::unique_ptr<LanguageModel> model = make({});
  WeightMap ours;
  bool is_theirs = theirs.has_value();
  for (const Parameter& parameter : model->parameters().all()) {
    if (source.reader->find(parameter.name) == nullptr) return std::nullopt;
    if (is_theirs) {
      WeightSource found = find_source(*theirs, parameter, model->info().num_layers);
      is_theirs = source.reader->find(found.theirs) != nullptr;
    }
    ours.rows.push_back({parameter.name, parameter.name});
  }
  if (is_theirs) return std::nullopt;
  return ours;
}

OpenedModel open_model(const ModelOptions& said) {
  ModelOptions options = said;
  options.overrides = with_settings(said.overrides, said.set);
  if (!options.compat.empty() && options.compat != "bert4keras3") {
    fail(ExitCode::usage, "--compat knows only bert4keras3, not '{}'", printable(options.compat));
  }
  std::optional<AttentionPattern> attention = parse_application(options.application);
  OpenedModel opened;
  opened.path = options.path;
  opened.overrides = options.overrides;
  if (!exists(options)) fail_input("{}: no such file or folder", options.path);
  const fs::path folder = options.path;
  if (path_exists(folder / "adapter_config.json") && !path_exists(folder / "config.json")) {
    fail_input(
        "{}: holds a LoRA adapter; give its base model here, and the folder with --adapter (weft train: "
        "lora.adapter)",
        options.path);
  }
  open_files(options, opened);
  opened.family =
      options.family.empty() ? &family_of_config(*opened.config, opened.format) : &family_by_flag(options.family);
  opened.definition = opened.family->define({.format = opened.format,
                                             .config = *opened.config,
                                             .reader = opened.reader.get(),
                                             .compat = options.compat == "bert4keras3",
                                             .family = opened.family->name,
                                             .attention = attention,
                                             .alias = options.family,
                                             .encoder_alone = options.encoder_alone});
  opened.definition.info.family = opened.family->name;
  opened.weights = opened.definition.stored ? *opened.definition.stored : opened.definition.weights(opened.format);
  check_settings(*opened.config, opened.family->name, options.set);
  return opened;
}

const DecoderConfig& OpenedModel::decoder(std::string_view use) const {
  if (!definition.decoder) {
    fail_input("{}: {} is not known for the family {} yet, only for decoders such as llama", path, use, info().family);
  }
  return *definition.decoder;
}

}  // namespace weft
