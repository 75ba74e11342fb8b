#include "data/resumable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace weft {

namespace {
constexpr size_t kBufferBytes = size_t{1} << 20;
}

ResumableFile::ResumableFile(const std::string& path, int64_t size) : path_(path), written_(size) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail_write();
  struct stat status {};
  const bool is_cut = ::fstat(descriptor_, &status) == 0 && status.st_size >= size &&
                      ::ftruncate(descriptor_, size) == 0 && ::lseek(descriptor_, size, SEEK_SET) == size;
  if (is_cut) return;
  ::close(descriptor_);
  fail_input("{}: cannot be cut to {} bytes; remove it and start again", printable(path_, 400), size);
}

ResumableFile::~ResumableFile() {
  ::close(descriptor_);
}

void ResumableFile::fail_write() const {
  fail_input("{}: cannot write: {}", printable(path_, 400), std::strerror(errno));
}

void ResumableFile::append(const void* bytes, size_t count) {
  buffer_.append(static_cast<const char*>(bytes), count);
  if (buffer_.size() >= kBufferBytes) flush();
}

void ResumableFile::flush() {
  write_at(written_, buffer_);
  written_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

void ResumableFile::sync() {
  flush();
  if (::fdatasync(descriptor_) != 0) fail_write();
}

void ResumableFile::write_at(int64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_write();
    bytes.remove_prefix(static_cast<size_t>(count));
    offset += count;
  }
}

void sync_folder(const std::string& path) {
  const int descriptor = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool is_synced = descriptor >= 0 && ::fsync(descriptor) == 0;
  const int error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (!is_synced) fail_input("{}: cannot sync: {}", printable(path, 400), std::strerror(error));
}

}  // namespace weft
