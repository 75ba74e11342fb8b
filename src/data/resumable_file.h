// A file that grows at its end, through a buffer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weft {

class ResumableFile {
 public:
  /// Opens or creates the file and cuts it to `size` bytes, which it must have. Throws Error(bad_input) with the
  /// system's reason when it can't be written, here and below.
  ResumableFile(const std::string& path, int64_t size);
  ~ResumableFile();
  ResumableFile(const ResumableFile&) = delete;
  ResumableFile& operator=(const ResumableFile&) = delete;

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  /// Bytes in the file and in the buffer.
  int64_t size() const { return written_ + static_cast<int64_t>(buffer_.size()); }

  void append(const void* bytes, size_t count);
  /// Empties the buffer into the file.
  void flush();
  /// Flushes and waits until the disk has it.
  void sync();
  /// Overwrites bytes that were flushed.
  void write_at(int64_t offset, std::string_view bytes);

 private:
  [[noreturn]] void fail_write() const;

  std::string path_;
  int descriptor_ = -1;
  int64_t written_ = 0;
  std::string buffer_;
};

/// Waits until the disk has a folder's entries. Throws Error(bad_input).
void sync_folder(const std::string& path);

}  // namespace weft
