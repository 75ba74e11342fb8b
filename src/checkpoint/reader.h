// One interface for every checkpoint format: names, shapes, and slices read straight into place.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace weft {

/// A tensor as it lies in the file.
struct TensorInfo {
  std::string name;
  Shape shape;               // outermost dimension first, whatever the format's own order
  DType dtype = DType::f32;  // natural dtype to read it in; quantised types say f32
  std::string storage_type;  // the file's own word: "BF16", "Q4_K", "F32", …
  int64_t stored_bytes = 0;  // bytes it takes in the file
  std::string file;          // the file that holds it
};

/// Random access to the tensors of a checkpoint. Opening validates all metadata against the size of the files; nothing
/// larger than the metadata is read or allocated then. All methods throw Error(bad_input) naming file and tensor. Reads
/// are thread-safe.
class CheckpointReader {
 public:
  virtual ~CheckpointReader() = default;

  /// "safetensors", "gguf", "keras_hdf5", "tensorflow", "torch".
  virtual std::string_view format() const = 0;
  /// The path given to open_checkpoint, for messages.
  virtual const std::string& path() const = 0;
  /// Sorted.
  virtual const std::vector<std::string>& names() const = 0;
  /// Null when the checkpoint holds no such tensor.
  virtual const TensorInfo* find(std::string_view name) const = 0;

  /// Like find, but throws an error that names the tensor and the nearest name that exists.
  const TensorInfo& info(std::string_view name) const;

  /// Reads the box [begin, end) (one bound a dimension) into `into`, contiguous row-major, converted to `dtype`
  /// (f32, bf16, f16 or f64). Reads only the bytes of the box; a quantised row is read in whole blocks.
  virtual void read_slice(std::string_view name,
                          std::span<const int64_t> begin,
                          std::span<const int64_t> end,
                          void* into,
                          DType dtype) const = 0;

  /// The whole tensor.
  void read(std::string_view name, void* into, DType dtype) const;

  /// Reads every `parts`-th tensor from number `part` on whole, and compares its checksum where the format has one.
  /// Throws Error(bad_input) naming the first that is damaged.
  virtual void verify_checksums(int part, int parts) const { (void)part, (void)parts; }

  /// Bytes asked of the files' data so far (metadata excluded).
  virtual int64_t bytes_read() const = 0;
};

/// Opens a checkpoint: a Hugging Face folder (model.safetensors or model.safetensors.index.json), a .safetensors file,
/// a .gguf file, a folder with one .gguf, a Keras 3 .weights.h5 file or a folder with one, a TensorFlow checkpoint by
/// its prefix or .index file or a folder with one, a .pth file of torch.save or a folder with one or with
/// pytorch_model.bin or pytorch_model.bin.index.json (and nothing of the others). Says what it looked for when it finds
/// none.
std::unique_ptr<CheckpointReader> open_checkpoint(const std::string& path);

}  // namespace weft
