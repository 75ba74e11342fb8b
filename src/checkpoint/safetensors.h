// safetensors checkpoints (format document: the safetensors README; folders as Hugging Face writes them).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/reader.h"
#include "checkpoint/stored_checkpoint.h"

namespace weft {

/// The tensors in one .safetensors file, with offsets from the file's start. `file_index` is stored in each.
std::vector<StoredTensor> parse_safetensors_header(const File& file, size_t file_index);

/// What a .safetensors file says of itself (__metadata__).
std::map<std::string, std::string> read_safetensors_metadata(const std::string& path);

/// One .safetensors file.
std::unique_ptr<CheckpointReader> open_safetensors(const std::string& path);

/// The folder of `index_path` (model.safetensors.index.json): every file in its weight_map. `path` is what the user
/// gave.
std::unique_ptr<CheckpointReader> open_sharded_safetensors(const std::string& path, const std::string& index_path);

}  // namespace weft
