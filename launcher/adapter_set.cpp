#include "launcher/adapter_set.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNoneName = "none";

struct AdapterFlag {
  std::string name;
  std::string folder;
};

AdapterFlag parse_flag(const std::string& flag) {
  size_t equals = flag.find('=');
  // A folder may have the sign in its name.
  if (equals == std::string::npos || equals == 0 || path_exists(flag)) {
    std::string name = (fs::path(flag).lexically_normal() / "").parent_path().filename().string();
    return {name, flag};
  }
  return {flag.substr(0, equals), flag.substr(equals + 1)};
}

}  // namespace

AdapterSet::AdapterSet(const Context& context,
                       LanguageModel& model,
                       const std::vector<std::string>& flags,
                       const std::string& use_name,
                       DType dtype) {
  for (const std::string& flag : flags) {
    AdapterFlag parsed = parse_flag(flag);
    bool is_known =
        std::any_of(loaded_.begin(), loaded_.end(), [&](const Loaded& loaded) { return loaded.name == parsed.name; });
    if (is_known || parsed.name == kNoneName) {
      fail(ExitCode::usage,
           "--adapter {}: the name {} is taken; give another one with --adapter NAME=DIR",
           printable(flag),
           printable(parsed.name));
    }
    OpenedAdapter opened = open_adapter(parsed.folder);
    auto adapter = std::make_unique<Adapter>(model, opened.options);
    read_adapter_weights(context, opened, *adapter, dtype);
    loaded_.push_back({parsed.name, std::move(adapter), read_replaced(context, opened, model, dtype)});
    log::info(
        "adapter {}: rank {}, scale {:g}, {}", parsed.name, opened.options.rank, opened.options.scale(), parsed.folder);
  }
  if (use_name.empty()) {
    use(loaded_.empty() ? kNone : 0);
  } else {
    use(find(use_name));
  }
}

AdapterSet::~AdapterSet() = default;

int AdapterSet::find(const std::string& name) const {
  if (name == kNoneName) return kNone;
  for (size_t i = 0; i < loaded_.size(); ++i) {
    if (loaded_[i].name == name) return static_cast<int>(i);
  }
  if (loaded_.empty()) fail(ExitCode::usage, "no adapter is loaded; give --adapter [NAME=]DIR");
  fail(ExitCode::usage, "no adapter is called {}; there are {}", printable(name), names());
}

void AdapterSet::use(int index) {
  if (used_ != kNone) {
    exchange_replaced();
    loaded_[static_cast<size_t>(used_)].adapter->detach();
  }
  used_ = index;
  if (used_ == kNone) return;
  exchange_replaced();
  loaded_[static_cast<size_t>(used_)].adapter->attach();
}

/// Puts the adapter's own values into the model and keeps the model's, or the other way round.
void AdapterSet::exchange_replaced() {
  for (ReplacedParameter& one : loaded_[static_cast<size_t>(used_)].replaced)
    std::swap(one.parameter->value, one.value);
}

std::string AdapterSet::names() const {
  std::string text;
  for (const Loaded& loaded : loaded_) text += loaded.name + ", ";
  return text + kNoneName;
}

}  // namespace weft
