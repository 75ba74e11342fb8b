#include "models/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/gguf.h"
#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/paths.h"
#include "models/model_config.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

const std::vector<Family>& families() {
  static const std::vector<Family> all = {llama_family(), qwen2_family(), gemma_family(), gemma2_family()};
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
  }
  fail_input("{}: family '{}' is not supported; known are {}",
             config.path(),
             printable(type),
             fmt::join(family_names(), ", "));
}

bool is_shape_file(const fs::path& path) {
  return path.extension() == ".json" && is_plain_file(path);
}

fs::path config_beside(const OpenedModel& opened) {
  fs::path path = opened.path;
  fs::path folder = is_folder(path) ? path : path.parent_path();
  return folder / "config.json";
}

void open_files(OpenedModel& opened) {
  if (is_shape_file(opened.path)) {
    opened.config = ModelConfig::from_json_file(opened.path);
    return;
  }
  opened.reader = open_checkpoint(opened.path);
  if (opened.reader->format() == "gguf") {
    opened.format = ModelFormat::gguf;
    opened.config = ModelConfig::from_gguf(read_gguf_metadata(opened.reader->info("token_embd.weight").file));
    return;
  }
  opened.format = opened.reader->format() == "keras_hdf5" ? ModelFormat::keras_hdf5 : ModelFormat::huggingface;
  opened.config = ModelConfig::from_json_file(config_beside(opened).string());
}

}  // namespace

std::string_view model_format_name(ModelFormat format) {
  return format == ModelFormat::huggingface ? "huggingface" : format == ModelFormat::gguf ? "gguf" : "keras_hdf5";
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

OpenedModel open_model(const ModelOptions& options) {
  if (!options.compat.empty() && options.compat != "bert4keras3") {
    fail(ExitCode::usage, "--compat knows only bert4keras3, not '{}'", printable(options.compat));
  }
  OpenedModel opened;
  opened.path = options.path;
  if (!path_exists(options.path)) fail_input("{}: no such file or folder", options.path);
  open_files(opened);
  opened.family =
      options.family.empty() ? &family_of_config(*opened.config, opened.format) : &family_by_flag(options.family);
  ModelSource source{.format = opened.format,
                     .config = *opened.config,
                     .reader = opened.reader.get(),
                     .compat = options.compat == "bert4keras3"};
  opened.settings = opened.family->read_config(source);
  opened.settings.info.family = opened.family->name;
  return opened;
}

}  // namespace weft
