#include "launcher/train_run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "config/run.pb.h"
#include "core/error.h"
#include "core/log.h"
#include "launcher/common.h"
#include "parallel/agreement.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

/// How long the ranks of a run that was killed may take to go away.
constexpr auto kLockWait = std::chrono::seconds(6);

std::string read_if_there(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The fields of a config in text form, a line each with its whole name: "lora.rank: 8"; of repeated messages from the
/// second on "data.sources[1].path: …".
std::vector<std::string> field_lines(const std::string& text) {
  std::vector<std::string> fields;
  std::vector<std::string> prefixes = {""};
  std::map<std::string, int> seen;  // messages by their name
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line.erase(0, line.find_first_not_of(' '));
    if (line == "}" && prefixes.size() > 1) {
      prefixes.pop_back();
    } else if (line.ends_with(" {")) {
      std::string name = prefixes.back() + line.substr(0, line.size() - 2);
      const int number = seen[name]++;
      prefixes.push_back(number == 0 ? name + "." : fmt::format("{}[{}].", name, number));
    } else if (!line.empty()) {
      fields.push_back(prefixes.back() + line);
    }
  }
  return fields;
}

/// Those that `others` lacks, joined.
std::string fields_missing(const std::vector<std::string>& fields, const std::vector<std::string>& others) {
  const std::set<std::string> known(others.begin(), others.end());
  std::string missing;
  for (const std::string& field : fields) {
    if (!known.contains(field)) missing += (missing.empty() ? "" : ", ") + field;
  }
  return missing.empty() ? "nothing of it" : printable(missing, 300);
}

void warn_about_changes(const std::string& before, const std::string& now) {
  if (before.empty() || before == now) return;
  const std::vector<std::string> fields_before = field_lines(before), fields_now = field_lines(now);
  log::warning("the run was begun with another config; before: {}; now: {}",
               fields_missing(fields_before, fields_now),
               fields_missing(fields_now, fields_before));
}

/// The message of what went wrong, or nothing.
std::string write(const RunConfig& config, bool starts_over) {
  fs::path path = fs::path(config.message().output().directory()) / "config.textproto";
  std::string text = config.to_text();
  if (!starts_over) warn_about_changes(read_if_there(path), text);
  fs::path partial = path;
  partial += ".partial";
  std::ofstream file(partial, std::ios::binary);
  file << text;
  file.close();
  std::error_code error;
  if (!file) {
    fs::remove(partial, error);
    return fmt::format("{}: cannot be written; is the disk full or read-only?", path.string());
  }
  fs::rename(partial, path, error);
  return error ? fmt::format("{}: {}", path.string(), error.message()) : std::string();
}

}  // namespace

RunDirectory::RunDirectory(const RunConfig& config, Communicator& world) : config_(config), world_(world) {
  std::string failure;
  if (world.rank() == 0) {
    const std::string& directory = config.message().output().directory();
    std::error_code error;
    fs::create_directories(directory, error);
    failure = error ? fmt::format("output.directory {}: {}", printable(directory), error.message()) : lock(directory);
  }
  agree(world_, failure, ExitCode::bad_input);
}

void RunDirectory::delete_checkpoints() {
  std::error_code error;
  const fs::path path = fs::path(config_.message().output().directory()) / "checkpoints";
  if (world_.rank() == 0) fs::remove_all(path, error);
  agree(world_,
        error ? fmt::format("{}: cannot be deleted: {}", path.string(), error.message()) : std::string(),
        ExitCode::bad_input);
}

void RunDirectory::write_config(bool starts_over) {
  agree(world_, world_.rank() == 0 ? write(config_, starts_over) : std::string(), ExitCode::bad_input);
}

RunDirectory::~RunDirectory() {
  if (lock_file_ >= 0) close(lock_file_);
}

std::string RunDirectory::lock(const std::string& directory) {
  std::string path = directory + "/.lock";
  lock_file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_file_ < 0) return fmt::format("{}: {}", printable(path), std::strerror(errno));
  auto deadline = std::chrono::steady_clock::now() + kLockWait;
  while (flock(lock_file_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return {};  // a file system without locks
    if (std::chrono::steady_clock::now() > deadline) {
      return fmt::format("output.directory {}: another run is using it; wait for its end or choose another directory",
                         printable(directory));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return {};
}

}  // namespace weft
