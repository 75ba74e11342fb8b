#include "checkpoint/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/error.h"

namespace weft {
namespace {

constexpr int64_t kCursorBufferBytes = 64 << 10;

}  // namespace

File::File(const std::string& path) : path_(path) {
  // Opening a FIFO for reading would otherwise wait for a writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail_input("{}: cannot open: {}", printable(path), std::strerror(errno));
  struct stat status {};
  bool is_regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (!is_regular) {
    ::close(descriptor_);
    fail_input("{}: not a regular file", printable(path));
  }
  size_ = status.st_size;
}

File::~File() {
  ::close(descriptor_);
}

void File::read(int64_t offset, void* into, int64_t count) const {
  if (offset < 0 || count < 0 || offset > size_ || count > size_ - offset) {
    fail_input("{}: truncated: {} bytes wanted at {}, the file has {}", printable(path_), count, offset, size_);
  }
  char* target = static_cast<char*>(into);
  while (count > 0) {
    ssize_t got = ::pread(descriptor_, target, static_cast<size_t>(count), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_input("{}: cannot read at {}: {}", printable(path_), offset, std::strerror(errno));
    if (got == 0) fail_input("{}: truncated while being read: no bytes at {}", printable(path_), offset);
    target += got;
    offset += got;
    count -= got;
  }
}

void FileCursor::refill() {
  buffer_start_ = position();
  buffer_position_ = 0;
  buffer_.resize(static_cast<size_t>(std::min(kCursorBufferBytes, file_.size() - buffer_start_)));
  file_.read(buffer_start_, buffer_.data(), static_cast<int64_t>(buffer_.size()));
}

void FileCursor::read(void* into, int64_t count, const char* what) {
  if (count > remaining()) {
    fail_input("{}: truncated: the {} at byte {} takes {} bytes, the file has {} left",
               printable(file_.path()),
               what,
               position(),
               count,
               remaining());
  }
  char* target = static_cast<char*>(into);
  while (count > 0) {
    if (buffer_position_ == buffer_.size()) refill();
    size_t part = std::min(static_cast<size_t>(count), buffer_.size() - buffer_position_);
    std::memcpy(target, buffer_.data() + buffer_position_, part);
    buffer_position_ += part;
    target += part;
    count -= static_cast<int64_t>(part);
  }
}

std::string FileCursor::read_string(uint64_t length, const char* what) {
  if (length > static_cast<uint64_t>(remaining())) {
    fail_input("{}: the {} at byte {} says it has {} bytes, the file has {} left; damaged or truncated",
               printable(file_.path()),
               what,
               position(),
               length,
               remaining());
  }
  std::string text(static_cast<size_t>(length), '\0');
  read(text.data(), static_cast<int64_t>(length), what);
  return text;
}

}  // namespace weft
