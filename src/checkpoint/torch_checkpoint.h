// PyTorch checkpoints: what torch.save writes, today and before torch 1.6, in one file or in shards with an index.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "checkpoint/reader.h"

namespace weft {

/// True of the first 8 bytes of what torch.save writes, today or before torch 1.6.
bool begins_as_torch_file(std::string_view first_bytes);

/// One file of torch.save. `path` is what the user gave.
std::unique_ptr<CheckpointReader> open_torch_checkpoint(const std::string& path, const std::string& file_path);

/// The folder of `index_path` (pytorch_model.bin.index.json): every file in its weight_map. `path` is what the user
/// gave.
std::unique_ptr<CheckpointReader> open_sharded_torch_checkpoint(const std::string& path, const std::string& index_path);

}  // namespace weft
