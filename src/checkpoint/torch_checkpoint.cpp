#include "checkpoint/torch_checkpoint.h"

#include <algorithm>

#include "checkpoint/shard_index.h"
#include "checkpoint/stored_checkpoint.h"
#include "checkpoint/torch_archive.h"
#include "checkpoint/torch_legacy.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr std::string_view kZipMagic = "PK\x03\x04";
/// A pickle of protocol 2 of the number that files of before torch 1.6 begin with.
constexpr std::string_view kLegacyMagic = "\x80\x02\x8a\nl\xfc\x9c\x46";

uint32_t crc32_of(const File& file, const ZipRecord& record) {
  constexpr int64_t piece_bytes = 4 << 20;
  std::string piece;
  uint32_t crc = 0;
  for (int64_t at = 0; at < record.size; at += piece_bytes) {
    piece.resize(static_cast<size_t>(std::min(piece_bytes, record.size - at)));
    file.read(record.offset + at, piece.data(), static_cast<int64_t>(piece.size()));
    crc = extend_crc32(crc, piece.data(), piece.size());
  }
  return crc;
}

/// Tensors may share a storage, so that the checksums are the storages'.
class TorchCheckpoint final : public StoredCheckpoint {
 public:
  TorchCheckpoint(std::string path, std::vector<std::unique_ptr<File>> files, TorchContents contents)
      : StoredCheckpoint("torch", std::move(path), std::move(files), std::move(contents.tensors)),
        storages_(std::move(contents.storages)) {}

  void verify_checksums(int part, int parts) const override {
    for (size_t i = static_cast<size_t>(part); i < storages_.size(); i += static_cast<size_t>(parts)) {
      const TorchStorage& storage = storages_[i];
      const ZipRecord& record = storage.record;
      if (record.crc32 == 0 || crc32_of(file(storage.file), record) == record.crc32) continue;
      fail_input("{}: the checksum of tensor {} ({}) is wrong; damaged file, download it again",
                 printable(file(storage.file).path()),
                 printable(storage.tensor),
                 printable(record.name));
    }
  }

 private:
  std::vector<TorchStorage> storages_;
};

/// Adds what `file`, number `file_index` of the checkpoint, holds.
void add_contents(const File& file, size_t file_index, TorchContents& contents) {
  std::string magic(8, '\0');
  file.read(0, magic.data(), std::min<int64_t>(file.size(), 8));
  if (magic.starts_with(kZipMagic)) return add_torch_archive(file, file_index, contents);
  if (magic.starts_with(kLegacyMagic[0])) return add_legacy_torch_file(file, file_index, contents);
  fail_input("{}: not a file of torch.save, which begin with PK or, before torch 1.6, as a pickle; damaged?",
             printable(file.path()));
}

}  // namespace

bool begins_as_torch_file(std::string_view first_bytes) {
  return first_bytes.starts_with(kZipMagic) || first_bytes == kLegacyMagic;
}

std::unique_ptr<CheckpointReader> open_torch_checkpoint(const std::string& path, const std::string& file_path) {
  std::vector<std::unique_ptr<File>> files;
  files.push_back(std::make_unique<File>(file_path));
  TorchContents contents;
  add_contents(*files[0], 0, contents);
  return std::make_unique<TorchCheckpoint>(path, std::move(files), std::move(contents));
}

std::unique_ptr<CheckpointReader> open_sharded_torch_checkpoint(const std::string& path,
                                                                const std::string& index_path) {
  ShardIndex index(index_path);
  TorchContents contents;
  for (size_t i = 0; i < index.files().size(); ++i) add_contents(*index.files()[i], i, contents);
  index.check_tensors(contents.tensors);
  return std::make_unique<TorchCheckpoint>(path, index.take_files(), std::move(contents));
}

}  // namespace weft
