// Files that are written: room is taken when they are made, so that a full disk is noticed at once, and several ranks
// may write their parts of the same file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weft {

/// A regular file open for writing. All methods throw Error(bad_input) naming the file; "disk full" when there is no
/// room. Writes are thread-safe.
class OutputFile {
 public:
  /// Makes a file of `bytes` bytes, or empties one that exists. On file systems that cannot reserve room it is noticed
  /// when writing.
  static OutputFile create(const std::string& path, int64_t bytes);
  /// A file that another rank made.
  static OutputFile open(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  void write(int64_t offset, const void* data, int64_t count) const;
  /// Returns when the file's content is on the disk.
  void sync() const;

 private:
  OutputFile(std::string path, int flags);

  std::string path_;
  int descriptor_ = -1;
};

/// Writes a small file, which is not on the disk yet on return.
void write_whole_file(const std::string& path, std::string_view bytes);

/// Returns when the content of a file that is not open is on the disk.
void sync_file(const std::string& path);

/// Makes what was created, renamed or removed in a folder last.
void sync_directory(const std::string& path);

/// Renames and makes it last. Throws Error(bad_input).
void rename_durably(const std::string& from, const std::string& to);

}  // namespace weft
