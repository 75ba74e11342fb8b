// The tensors that the pickle in a PyTorch checkpoint describes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/pickle_machine.h"
#include "checkpoint/storage_type.h"
#include "checkpoint/stored_checkpoint.h"
#include "core/shape.h"

namespace weft {

/// A contiguous tensor inside of a storage.
struct PickledTensor {
  std::string_view name;  // texts lie in the pickle's bytes
  Shape shape;
  const StorageType* type = nullptr;  // says the size of an element even of a type that Weft can't read
  bool is_readable = true;
  std::string_view storage;
  int64_t storage_elements = 0;
  int64_t offset = 0;  // elements from the storage's start
};

/// The tensors of a state dict: a dict of tensors, or a dict that holds exactly one such dict ("model",
/// "state_dict", …). Other values in it are passed over. Each tensor is contiguous and inside its storage as the pickle
/// gives it. Throws Error(bad_input) that begins with `path`.
std::vector<PickledTensor> find_torch_tensors(const std::string& path, const PickledObjects& objects);

/// The tensors that a data.pkl describes. Executes nothing: any Python object other than torch's plain tensors is
/// refused, by name. Throws Error(bad_input) that begins with `path`. Memory is a small multiple of `pickle`, and
/// bounded.
std::vector<PickledTensor> parse_torch_pickle(const std::string& path, std::string_view pickle);

/// The tensor in `file`, number `file_index` of its checkpoint, where its storage begins at `storage_begin`.
StoredTensor place_tensor(const PickledTensor& pickled, const File& file, size_t file_index, int64_t storage_begin);

}  // namespace weft
