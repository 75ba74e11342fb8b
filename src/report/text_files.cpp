#include "report/text_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/paths.h"

namespace weft {
namespace {

constexpr size_t kMaxPendingBytes = 4 << 20;

/// Cuts a stream of bytes into lines.
class LineSplitter {
 public:
  LineSplitter(const std::function<void(std::string_view, int64_t)>& visit, LineCounts& counts)
      : visit_(visit), counts_(counts) {}

  void add(std::string_view bytes) {
    while (!bytes.empty()) {
      size_t end = bytes.find('\n');
      bool is_whole = end != std::string_view::npos;
      std::string_view part = bytes.substr(0, end);
      keep(part);
      size_t taken = part.size() + (is_whole ? 1 : 0);
      offset_ += static_cast<int64_t>(taken);
      bytes.remove_prefix(taken);
      if (is_whole) finish_line();
    }
  }

  void finish() {
    if (!line_.empty() || is_too_long_) finish_line();
  }

 private:
  void keep(std::string_view part) {
    if (line_.size() + part.size() > kMaxLineBytes) is_too_long_ = true;
    if (!is_too_long_) line_ += part;
  }

  void finish_line() {
    if (is_too_long_) {
      ++counts_.too_long;
    } else {
      visit_(line_, offset_);
    }
    line_.clear();
    is_too_long_ = false;
  }

  const std::function<void(std::string_view, int64_t)>& visit_;
  LineCounts& counts_;
  std::string line_;
  int64_t offset_ = 0;
  bool is_too_long_ = false;
};

/// Bytes written, less than all of them on an error.
size_t write_all(int descriptor, std::string_view bytes, int64_t offset) {
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t count = pwrite(descriptor, bytes.data() + done, bytes.size() - done, offset + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

}  // namespace

LineCounts for_each_line(const std::string& path,
                         const std::function<void(std::string_view line, int64_t end)>& visit) {
  LineCounts counts;
  if (!is_plain_file(path)) return counts;
  std::FILE* file = std::fopen(path.c_str(), "rbe");
  if (file == nullptr) return counts;
  counts.opened = true;
  LineSplitter splitter(visit, counts);
  std::vector<char> buffer(1 << 16);
  while (size_t count = std::fread(buffer.data(), 1, buffer.size(), file)) splitter.add({buffer.data(), count});
  splitter.finish();
  std::fclose(file);
  return counts;
}

void WriteWarning::report(const std::string& path, const std::string& reason) {
  if (std::exchange(is_spent_, true)) return;
  show_(
      fmt::format("{} can't be written ({}); training goes on, and says no more of it", printable(path, 400), reason));
}

LogFile::LogFile(std::string path, int64_t keep_bytes, WriteWarning& warning)
    : path_(std::move(path)), warning_(warning) {
  if (open_and_cut(keep_bytes)) {
    end_torn_line();
  } else {
    fail(std::strerror(errno));
  }
}

bool LogFile::open_and_cut(int64_t keep_bytes) {
  descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
  struct stat status {};
  if (descriptor_ < 0 || fstat(descriptor_, &status) != 0) return false;
  size_ = status.st_size;
  if (keep_bytes < 0 || keep_bytes >= size_) return true;
  size_ = keep_bytes;
  return ftruncate(descriptor_, keep_bytes) == 0;
}

LogFile::~LogFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void LogFile::end_torn_line() {
  char last = '\n';
  if (size_ > 0 && pread(descriptor_, &last, 1, size_ - 1) == 1 && last != '\n') append("\n");
}

void LogFile::append(std::string_view bytes) {
  if (pending_.size() + bytes.size() > kMaxPendingBytes) return;
  pending_ += bytes;
  write_pending();
}

void LogFile::write_pending() {
  struct stat status {};
  if (descriptor_ < 0) return;
  if (fstat(descriptor_, &status) == 0 && status.st_nlink == 0) fail("it was deleted");
  size_t count = write_all(descriptor_, pending_, size_);
  if (count == pending_.size()) {
    size_ += static_cast<int64_t>(count);
    pending_.clear();
    return;
  }
  fail(std::strerror(errno));
  // Half a line would spoil the next one.
  if (ftruncate(descriptor_, size_) != 0) fail(std::strerror(errno));
}

void LogFile::fail(const char* reason) {
  warning_.report(path_, reason);
}

std::string write_file_atomically(const std::string& path, std::string_view bytes) {
  std::string partial = path + ".partial";
  int descriptor = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) return std::strerror(errno);
  std::string problem;
  if (write_all(descriptor, bytes, 0) != bytes.size()) problem = std::strerror(errno);
  if (close(descriptor) != 0 && problem.empty()) problem = std::strerror(errno);
  if (problem.empty() && std::rename(partial.c_str(), path.c_str()) != 0) problem = std::strerror(errno);
  if (!problem.empty()) unlink(partial.c_str());
  return problem;
}

}  // namespace weft
