// A checkpoint in several files, shards, as Hugging Face writes it: NAME.index.json says which tensor lies in which
// file.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/stored_checkpoint.h"

namespace weft {

class ShardIndex {
 public:
  /// Opens every file that the weight_map of `path` names, all in the folder of `path`. Throws Error(bad_input) when
  /// one is missing.
  explicit ShardIndex(const std::string& path);

  /// The shards in the order of their names.
  const std::vector<std::unique_ptr<File>>& files() const { return files_; }
  std::vector<std::unique_ptr<File>> take_files() { return std::move(files_); }

  /// Throws Error(bad_input) unless each tensor of the index is among `tensors`, which are those of all shards, and in
  /// the file that the index says.
  void check_tensors(const std::vector<StoredTensor>& tensors) const;

 private:
  std::string path_of(const std::string& name) const;

  std::string path_;
  std::map<std::string, std::string> weight_map_;  // tensor → file name
  std::vector<std::unique_ptr<File>> files_;
};

}  // namespace weft
