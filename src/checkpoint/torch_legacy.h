// What torch.save wrote before torch 1.6, and writes when told so (torch/serialization.py, _legacy_save): pickles of a
// magic number, a version, facts of the machine, the state dict and the storages' keys, then the storages in that
// order.
#pragma once

#include "checkpoint/file.h"
#include "checkpoint/torch_archive.h"

namespace weft {

/// Adds the tensors of one such file; it has no checksums. `file_index` is stored in each. Executes nothing, as with
/// parse_torch_pickle. Throws Error(bad_input).
void add_legacy_torch_file(const File& file, size_t file_index, TorchContents& contents);

}  // namespace weft
