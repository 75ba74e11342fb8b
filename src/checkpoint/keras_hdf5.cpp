#include "checkpoint/keras_hdf5.h"

#include <algorithm>
#include <array>

#include "checkpoint/hdf5_file.h"
#include "checkpoint/stored_checkpoint.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr std::string_view kOldTopGroup = "_layer_checkpoint_dependencies/";

// In the order of DType.
constexpr std::array<StorageType, 7> kTypes = {{
    {"F32", DType::f32, 1, 4},
    {"BF16", DType::bf16, 1, 2},
    {"F16", DType::f16, 1, 2},
    {"F64", DType::f64, 1, 8},
    {"I32", DType::i32, 1, 4},
    {"I64", DType::i64, 1, 8},
    {"U8", DType::u8, 1, 1},
}};

StoredTensor stored_tensor(const Hdf5Dataset& dataset, const std::string& file_path) {
  const StorageType& type = kTypes[static_cast<size_t>(dataset.dtype)];
  bool is_empty = dataset.shape.num_elements() == 0;
  if (dataset.file_offset < 0 && !is_empty) {
    fail_input("{}: dataset {} has no place of its own in the file; write it contiguously, as Keras does",
               printable(file_path),
               printable(dataset.path));
  }
  std::string name = dataset.path;
  if (name.starts_with(kOldTopGroup)) name = "layers/" + name.substr(kOldTopGroup.size());
  StoredTensor tensor;
  tensor.info = {.name = std::move(name),
                 .shape = dataset.shape,
                 .dtype = dataset.dtype,
                 .storage_type = std::string(type.name),
                 .stored_bytes = dataset.shape.num_elements() * type.block_bytes,
                 .file = file_path};
  tensor.type = &type;
  tensor.offset = std::max<int64_t>(0, dataset.file_offset);
  return tensor;
}

}  // namespace

std::unique_ptr<CheckpointReader> open_keras_hdf5(const std::string& path, const std::string& file_path) {
  std::shared_ptr<const Hdf5File> listing = Hdf5File::open(file_path);
  std::vector<std::unique_ptr<File>> files;
  files.push_back(std::make_unique<File>(file_path));
  std::vector<StoredTensor> tensors;
  for (const Hdf5Dataset& dataset : listing->datasets()) tensors.push_back(stored_tensor(dataset, file_path));
  check_stored_tensors(*files[0], 0, files[0]->size(), tensors);
  return std::make_unique<StoredCheckpoint>("keras_hdf5", path, std::move(files), std::move(tensors));
}

}  // namespace weft
