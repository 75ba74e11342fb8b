#include "config/run_config.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "config/json_text.h"
#include "config/merge.h"
#include "config/overrides.h"
#include "config/run_config_state.h"
#include "core/error.h"
#include "core/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = size_t{1} << 20;
constexpr size_t kMaxExtends = 16;

std::string read_file(const std::string& path, const std::string& named_at) {
  std::string name = named_at.empty() ? printable(path, 400) : named_at + "'" + printable(path, 400) + "'";
  if (is_folder(path)) fail_input("{}: a folder, not a config", name);
  if (!path_exists(path)) fail_input("{}: no such file", name);
  if (!is_plain_file(path)) fail_input("{}: no regular file", name);
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_input("{}: {}", name, std::strerror(errno));
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) fail_input("{}: larger than 1 MB; is it a config?", name);
  return text;
}

std::string canonical_path(const std::string& path) {
  std::error_code error;
  fs::path canonical = fs::weakly_canonical(path, error);
  return error ? path : canonical.string();
}

std::shared_ptr<RunConfig::State> read_with_bases(const std::string& text,
                                                  const std::string& path,
                                                  std::vector<std::string>& including) {
  auto state = std::make_shared<RunConfig::State>();
  state->file = path;
  std::string config_text =
      path.ends_with(".json") ? json_to_config_text(text, path, *config::RunConfig::descriptor()) : text;
  read_config_text(config_text, path, state->message, state->locations);
  if (!state->message.has_extends()) return state;

  std::string named_at = state->locations.at("extends") + ": extends ";
  std::string base_path = (fs::path(path).parent_path() / state->message.extends()).lexically_normal().string();
  including.push_back(canonical_path(path));
  std::string canonical = canonical_path(base_path);
  if (std::find(including.begin(), including.end(), canonical) != including.end()) {
    fail_input("{}'{}', which is this file or extends it; remove one of the two", named_at, printable(base_path, 400));
  }
  if (including.size() > kMaxExtends) fail_input("{}more than {} files deep", named_at, kMaxExtends);
  auto base = read_with_bases(read_file(base_path, named_at), base_path, including);

  state->message.clear_extends();
  state->locations.erase("extends");
  merge_config(state->message, state->locations, base->message, base->locations);
  base->file = path;
  return base;
}

}  // namespace

const config::RunConfig& RunConfig::message() const {
  return state_->message;
}

std::string RunConfig::location(std::string_view field_path) const {
  for (std::string_view path = field_path; !path.empty();) {
    auto found = state_->locations.find(path);
    if (found != state_->locations.end()) return found->second;
    size_t end = path.find_last_of(".[");
    path = end == std::string_view::npos ? std::string_view() : path.substr(0, end);
  }
  return printable(state_->file, 400);
}

RunConfig parse_run_config(const std::string& text,
                           const std::string& name,
                           const std::vector<std::string>& overrides) {
  std::vector<std::string> including;
  auto state = read_with_bases(text, name, including);
  for (const std::string& override : overrides) {
    if (override.starts_with("extends")) fail_input("--set extends: only a file can extend another");
    apply_override(override, state->message, state->locations);
  }
  return RunConfig(state);
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_run_config(read_file(path, ""), path, overrides);
}

}  // namespace weft
