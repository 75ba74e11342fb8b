#include "checkpoint/safetensors.h"

#include "checkpoint/shard_index.h"

namespace weft {

std::unique_ptr<CheckpointReader> open_safetensors(const std::string& path) {
  std::vector<std::unique_ptr<File>> files;
  files.push_back(std::make_unique<File>(path));
  std::vector<StoredTensor> tensors = parse_safetensors_header(*files[0], 0);
  return std::make_unique<StoredCheckpoint>("safetensors", path, std::move(files), std::move(tensors));
}

std::unique_ptr<CheckpointReader> open_sharded_safetensors(const std::string& path, const std::string& index_path) {
  ShardIndex index(index_path);
  std::vector<StoredTensor> tensors;
  for (size_t i = 0; i < index.files().size(); ++i) {
    for (StoredTensor& tensor : parse_safetensors_header(*index.files()[i], i)) tensors.push_back(std::move(tensor));
  }
  index.check_tensors(tensors);
  return std::make_unique<StoredCheckpoint>("safetensors", path, index.take_files(), std::move(tensors));
}

}  // namespace weft
