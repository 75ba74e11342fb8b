// Files of a run: lines appended so that a failing disk never stops the writer, and lines read with suspicion.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace weft {

/// The longest line that for_each_line() hands out.
inline constexpr size_t kMaxLineBytes = 1 << 20;

/// Calls `visit(line, end)` for each line without its end; `end` is the offset behind it. A last line without an end
/// counts. Longer lines are skipped and counted. Returns false for what can't be read (missing, no plain file).
struct LineCounts {
  bool opened = false;
  int64_t too_long = 0;
};
LineCounts for_each_line(const std::string& path, const std::function<void(std::string_view line, int64_t end)>& visit);

/// Tells the user once that files can't be written, however many of them fail how often.
class WriteWarning {
 public:
  /// `show` gets the one line.
  explicit WriteWarning(std::function<void(const std::string&)> show) : show_(std::move(show)) {}
  void report(const std::string& path, const std::string& reason);

 private:
  std::function<void(const std::string&)> show_;
  bool is_spent_ = false;
};

/// A file that grows by whole pieces (a line, a record), each in the file when append() returns, or kept until the disk
/// takes it.
class LogFile {
 public:
  /// Keeps the first `keep_bytes` of what is there (−1: all of it); a torn last line is ended.
  LogFile(std::string path, int64_t keep_bytes, WriteWarning& warning);
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  void append(std::string_view bytes);

 private:
  bool open_and_cut(int64_t keep_bytes);
  void end_torn_line();
  void write_pending();
  void fail(const char* reason);

  std::string path_;
  WriteWarning& warning_;
  int descriptor_ = -1;
  int64_t size_ = 0;  // of the whole pieces
  std::string pending_;
};

/// Writes to a temporary name beside `path` and renames. Returns what went wrong, empty if nothing did.
std::string write_file_atomically(const std::string& path, std::string_view bytes);

}  // namespace weft
