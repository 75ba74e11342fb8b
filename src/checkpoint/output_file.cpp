#include "checkpoint/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

constexpr int kReadableByAll = 0644;
/// Linux moves at most 2^31 − 4096 bytes a call.
constexpr int64_t kMaxWriteBytes = int64_t{1} << 30;

[[noreturn]] void fail_write(const std::string& path, int error) {
  if (error == ENOSPC) fail_input("{}: disk full; make room or write elsewhere", printable(path));
  if (error == EDQUOT) fail_input("{}: disk full: the user's quota is used up", printable(path));
  fail_input("{}: cannot write: {}", printable(path), std::strerror(error));
}

/// posix_fallocate would fill the file with zeros where the file system knows no better; that may take minutes.
void reserve(int descriptor, const std::string& path, int64_t bytes) {
  if (bytes == 0) return;
  int result = 0;
  do {
    result = ::fallocate(descriptor, 0, 0, bytes);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EOPNOTSUPP) result = ::ftruncate(descriptor, bytes);
  if (result != 0) fail_write(path, errno);
}

}  // namespace

OutputFile::OutputFile(std::string path, int flags) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), flags | O_WRONLY | O_CLOEXEC, kReadableByAll);
  if (descriptor_ < 0) fail_write(path_, errno);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

OutputFile OutputFile::create(const std::string& path, int64_t bytes) {
  OutputFile file(path, O_CREAT | O_TRUNC);
  reserve(file.descriptor_, path, bytes);
  return file;
}

OutputFile OutputFile::open(const std::string& path) {
  return OutputFile(path, 0);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write(int64_t offset, const void* data, int64_t count) const {
  const char* source = static_cast<const char*>(data);
  while (count > 0) {
    ssize_t written = ::pwrite(descriptor_, source, static_cast<size_t>(std::min(count, kMaxWriteBytes)), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(path_, errno);
    source += written;
    offset += written;
    count -= written;
  }
}

void OutputFile::sync() const {
  if (::fsync(descriptor_) != 0) fail_write(path_, errno);
}

void write_whole_file(const std::string& path, std::string_view bytes) {
  OutputFile file = OutputFile::create(path, 0);
  file.write(0, bytes.data(), static_cast<int64_t>(bytes.size()));
}

void sync_file(const std::string& path) {
  OutputFile::open(path).sync();
}

void sync_directory(const std::string& path) {
  int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_input("{}: cannot open the folder: {}", printable(path), std::strerror(errno));
  int result = ::fsync(descriptor);
  int error = errno;
  ::close(descriptor);
  // Some file systems have nothing to sync for a folder and say so.
  if (result != 0 && error != EINVAL && error != ENOTSUP) fail_write(path, error);
}

void rename_durably(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    fail_input("{}: cannot be renamed to {}: {}", printable(from), printable(to), std::strerror(errno));
  }
  std::filesystem::path parent = std::filesystem::path(to).parent_path();
  sync_directory(parent.empty() ? "." : parent.string());
}

}  // namespace weft
