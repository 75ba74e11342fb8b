// A folder that a command writes: it appears under its name only when it is whole.
#pragma once

#include <string>

namespace weft {

class OutputFolder {
 public:
  /// `path` as --out gave it. Touches nothing.
  explicit OutputFolder(std::string path);
  /// Deletes what was prepared and not published: the command failed.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// Where to write until it is whole: a folder beside the final one.
  const std::string& partial() const { return partial_; }
  /// Makes partial(), emptied of what an interrupted run left. Throws Error(bad_input) when the final folder exists and
  /// is not empty, or when nothing can be made there.
  void prepare();
  /// Brings partial() to the disk and gives it its name.
  void publish();

 private:
  std::string path_;
  std::string partial_;
  bool is_unfinished_ = false;
};

}  // namespace weft
