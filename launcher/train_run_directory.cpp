#include "launcher/train_run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

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

/// The lines of `text` that `other` lacks, joined; what belongs to a message is named by its field only.
std::string lines_missing(const std::string& text, const std::string& other) {
  std::set<std::string> known;
  std::istringstream others(other);
  for (std::string line; std::getline(others, line);) known.insert(line);
  std::string missing;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (known.count(line) != 0) continue;
    line.erase(0, line.find_first_not_of(' '));
    missing += (missing.empty() ? "" : ", ") + line;
  }
  return missing;
}

void warn_about_changes(const std::string& before, const std::string& now) {
  if (before.empty() || before == now) return;
  log::warning("the run was begun with another config; before: {}; now: {}",
               printable(lines_missing(before, now), 300),
               printable(lines_missing(now, before), 300));
}

/// The message of what went wrong, or nothing.
std::string prepare(const RunConfig& config, bool starts_over) {
  const std::string& directory = config.message().output().directory();
  std::error_code error;
  if (starts_over) fs::remove_all(fs::path(directory) / "checkpoints", error);
  fs::path path = fs::path(directory) / "config.textproto";
  std::string text = config.to_text();
  if (!starts_over) warn_about_changes(read_if_there(path), text);
  fs::path partial = path;
  partial += ".partial";
  std::ofstream file(partial, std::ios::binary);
  file << text;
  file.close();
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

void RunDirectory::begin(bool starts_over) {
  agree(world_, world_.rank() == 0 ? prepare(config_, starts_over) : std::string(), ExitCode::bad_input);
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
