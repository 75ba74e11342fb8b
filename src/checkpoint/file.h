// Read-only files whose size is known, and a cursor over untrusted bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace weft {

/// An open regular file. Every range is checked against the size found on opening; reads are thread-safe and return
/// whole ranges or throw Error(bad_input) naming the file.
class File {
 public:
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  int descriptor() const { return descriptor_; }

  /// Reads `count` bytes at `offset`, in as many system calls as it takes.
  void read(int64_t offset, void* into, int64_t count) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

/// Reads little-endian values one after the other through a buffer. Everything asked for is checked against what the
/// file still holds before memory is taken for it.
class FileCursor {
 public:
  explicit FileCursor(const File& file) : file_(file) {}

  int64_t position() const { return buffer_start_ + static_cast<int64_t>(buffer_position_); }
  int64_t remaining() const { return file_.size() - position(); }

  void read(void* into, int64_t count, const char* what);
  /// A string of `length` bytes, as the file claims.
  std::string read_string(uint64_t length, const char* what);

  template <typename T>
  T read_value(const char* what) {
    T value;
    read(&value, sizeof(T), what);
    return value;
  }

 private:
  void refill();

  const File& file_;
  std::vector<char> buffer_;
  int64_t buffer_start_ = 0;
  size_t buffer_position_ = 0;
};

}  // namespace weft
