// PyTorch checkpoints: the zip archives that torch.save writes (docs.pytorch.org, "Serialization semantics"):
// NAME/data.pkl describes the tensors, NAME/data/KEY are their storages.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "checkpoint/reader.h"

namespace weft {

/// True of the first 8 bytes of what torch.save writes, today or before torch 1.6.
bool begins_as_torch_file(std::string_view first_bytes);

/// `path` is what the user gave. Files of before torch 1.6 are refused with the way out.
std::unique_ptr<CheckpointReader> open_torch_archive(const std::string& path, const std::string& file_path);

}  // namespace weft
