// The zip archives that torch.save writes (docs.pytorch.org, "Serialization semantics"): NAME/data.pkl describes the
// tensors, NAME/data/KEY are their storages.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/stored_checkpoint.h"
#include "checkpoint/zip_directory.h"

namespace weft {

/// A storage with the first of its tensors, for messages.
struct TorchStorage {
  ZipRecord record;
  size_t file = 0;
  std::string tensor;
};

/// What the files of a PyTorch checkpoint hold.
struct TorchContents {
  std::vector<StoredTensor> tensors;
  std::vector<TorchStorage> storages;  // those that have checksums
};

/// Adds the tensors and storages of one archive. `file_index` is stored in each. Throws Error(bad_input).
void add_torch_archive(const File& file, size_t file_index, TorchContents& contents);

}  // namespace weft
