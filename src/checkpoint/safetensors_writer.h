// safetensors files written by several ranks at once (format document: the safetensors README; several files and their
// index as Hugging Face writes them). Nothing is gathered: every rank writes what it holds.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/output_file.h"
#include "checkpoint/slice_runs.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace weft {

/// A tensor to be written, of its full shape.
struct OutputTensor {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
};

/// Which tensor lies where: the same on every rank that gives the same list.
class SafetensorsLayout {
 public:
  static constexpr int64_t kDefaultFileBytes = 5'000'000'000;

  struct Place {
    size_t file = 0;     // index into files()
    int64_t offset = 0;  // from the file's start
    OutputTensor tensor;
  };
  struct OutputShard {
    std::string name;    // STEM.safetensors, or STEM-00001-of-00003.safetensors
    std::string header;  // the file's first bytes
    int64_t bytes = 0;   // of the whole file
  };

  /// Tensors fill files of at most `max_file_bytes` (a larger tensor has a file of its own). Asserts that names differ.
  /// `metadata` is what every file says of itself.
  SafetensorsLayout(std::string stem,
                    std::vector<OutputTensor> tensors,
                    int64_t max_file_bytes = kDefaultFileBytes,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  const std::vector<OutputShard>& files() const { return files_; }
  /// Name of the index and its JSON; the text is empty for a single file.
  std::string index_name() const { return stem_ + ".safetensors.index.json"; }
  const std::string& index() const { return index_; }
  /// Of all tensors, without headers.
  int64_t total_bytes() const { return total_bytes_; }
  /// The tensor must be of the list.
  const Place& place(std::string_view name) const;

 private:
  std::string stem_;
  std::vector<OutputShard> files_;
  std::string index_;
  int64_t total_bytes_ = 0;
  std::map<std::string, Place, std::less<>> places_;
};

/// Makes the files of a layout with room for all tensors, their headers, and the index. One rank does it, before any
/// SafetensorsWriter opens them. Throws Error(bad_input), "disk full" at once when there is no room.
void create_safetensors(const std::string& folder, const SafetensorsLayout& layout);

/// Writes into files that create_safetensors made. Every rank has its own. Throws Error(bad_input).
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& folder, std::shared_ptr<const SafetensorsLayout> layout);

  /// Elements [first, first + count) of the whole tensor, row-major, converted from `dtype`.
  void write_run(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype);
  /// Elements [begin, end) of a slice.
  void write_slice(
      std::string_view name, const TensorSlice& slice, int64_t begin, int64_t end, const void* values, DType dtype);
  /// Returns when what was written is on the disk.
  void sync() const;

 private:
  void write_values(
      const SafetensorsLayout::Place& place, int64_t first, int64_t count, const void* values, DType dtype);

  std::shared_ptr<const SafetensorsLayout> layout_;
  std::vector<OutputFile> files_;
  std::vector<std::byte> converted_;
};

}  // namespace weft
