// The CheckpointReader behind every format: a table of tensors that lie as plain or quantised arrays in files.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/reader.h"
#include "checkpoint/storage_type.h"

namespace weft {

/// Positions [begin, end) of the dimension along which a tensor is cut: a row-major array of its own.
struct StoredPart {
  int64_t begin = 0;
  int64_t end = 0;
  size_t file = 0;
  int64_t offset = 0;
  std::optional<uint32_t> crc32c = std::nullopt;
};

struct StoredTensor {
  TensorInfo info;
  const StorageType* type = nullptr;              // null: of a type that Weft can't read, refused when it is asked for
  size_t file = 0;                                // index into the checkpoint's files
  int64_t offset = 0;                             // from the file's start
  std::optional<uint32_t> crc32c = std::nullopt;  // masked, where the format has one
  // Of a tensor that is cut along a dimension and has no place of its own: in order, covering it without gaps.
  int cut_dim = 0;
  std::vector<StoredPart> parts = {};
};

/// Throws unless every tensor lies inside [data_begin, data_end) of its file and no two share a byte. All tensors are
/// of `file`.
void check_stored_tensors(const File& file, int64_t data_begin, int64_t data_end, std::vector<StoredTensor>& tensors);

class StoredCheckpoint : public CheckpointReader {
 public:
  /// Throws when a name occurs twice.
  StoredCheckpoint(std::string_view format,
                   std::string path,
                   std::vector<std::unique_ptr<File>> files,
                   std::vector<StoredTensor> tensors);

  std::string_view format() const override { return format_; }
  const std::string& path() const override { return path_; }
  const std::vector<std::string>& names() const override { return names_; }
  const TensorInfo* find(std::string_view name) const override;
  void read_slice(std::string_view name,
                  std::span<const int64_t> begin,
                  std::span<const int64_t> end,
                  void* into,
                  DType dtype) const override;
  int64_t bytes_read() const override { return bytes_read_; }
  void verify_checksums(int part, int parts) const override;

 protected:
  const File& file(size_t index) const { return *files_[index]; }

 private:
  const StoredTensor* find_stored(std::string_view name) const;
  void read_parts(const StoredTensor& tensor,
                  std::span<const int64_t> begin,
                  std::span<const int64_t> end,
                  void* into,
                  DType dtype) const;
  void verify_checksum(const TensorInfo& info, const StoredPart& part, int64_t bytes) const;

  std::string_view format_;
  std::string path_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<StoredTensor> tensors_;  // sorted by name
  std::vector<std::string> names_;
  mutable std::atomic<int64_t> bytes_read_ = 0;
};

}  // namespace weft
