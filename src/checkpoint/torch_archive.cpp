#include "checkpoint/torch_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "checkpoint/stored_checkpoint.h"
#include "checkpoint/torch_pickle.h"
#include "checkpoint/zip_directory.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr std::string_view kZipMagic = "PK\x03\x04";
/// A pickle of the number 0x1950a86a20f9469cfc6c.
constexpr std::string_view kOldMagic = "\x80\x02\x8a\nl\xfc\x9c\x46";
constexpr std::string_view kPickleName = "/data.pkl";
constexpr size_t kMaxNameBytes = 1000;  // the folder is named after the file

/// A storage with the first of its tensors, for messages.
struct TorchStorage {
  ZipRecord record;
  std::string tensor;
};

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
  TorchCheckpoint(std::string path,
                  std::vector<std::unique_ptr<File>> files,
                  std::vector<StoredTensor> tensors,
                  std::vector<TorchStorage> storages)
      : StoredCheckpoint("torch", std::move(path), std::move(files), std::move(tensors)),
        storages_(std::move(storages)) {}

  void verify_checksums(int part, int parts) const override {
    for (size_t i = static_cast<size_t>(part); i < storages_.size(); i += static_cast<size_t>(parts)) {
      const ZipRecord& record = storages_[i].record;
      if (record.crc32 == 0 || crc32_of(file(0), record) == record.crc32) continue;
      fail_input("{}: the checksum of tensor {} ({}) is wrong; damaged file, download it again",
                 printable(file(0).path()),
                 printable(storages_[i].tensor),
                 printable(record.name));
    }
  }

 private:
  std::vector<TorchStorage> storages_;
};

class TorchOpening {
 public:
  TorchOpening(const std::string& path, const std::string& file_path)
      : path_(path), file_(std::make_unique<File>(file_path)) {}

  std::unique_ptr<CheckpointReader> open() {
    check_magic();
    records_ = read_zip_directory(*file_);
    const ZipRecord& pickle_record = find_pickle();
    folder_ = pickle_record.name.substr(0, pickle_record.name.size() - kPickleName.size());
    check_byte_order();
    std::string pickle = read(pickle_record);
    if (pickle_record.crc32 != 0 && extend_crc32(0, pickle.data(), pickle.size()) != pickle_record.crc32) {
      fail_input("{}: the checksum of data.pkl is wrong; damaged file, download it again", printable(file_->path()));
    }
    for (const PickledTensor& tensor : parse_torch_pickle(file_->path(), pickle)) add(tensor);
    std::vector<std::unique_ptr<File>> files;
    files.push_back(std::move(file_));
    return std::make_unique<TorchCheckpoint>(path_, std::move(files), std::move(tensors_), std::move(storages_));
  }

 private:
  void check_magic() const {
    std::string magic(8, '\0');
    file_->read(0, magic.data(), std::min<int64_t>(file_->size(), 8));
    if (magic == kOldMagic) {
      fail_input("{}: was written in the format of before torch 1.6; load it and save it again with a newer torch",
                 printable(file_->path()));
    }
    if (!magic.starts_with(kZipMagic)) {
      fail_input("{}: not a file of torch.save, which begin with PK; damaged?", printable(file_->path()));
    }
  }

  std::string read(const ZipRecord& record) const {
    std::string bytes(static_cast<size_t>(record.size), '\0');
    file_->read(record.offset, bytes.data(), record.size);
    return bytes;
  }

  /// The data.pkl in the one folder that the archive has.
  const ZipRecord& find_pickle() const {
    const ZipRecord* found = nullptr;
    for (const ZipRecord& record : records_) {
      if (!record.name.ends_with(kPickleName) || record.name.size() > kMaxNameBytes) continue;
      if (record.name.find('/') != record.name.size() - kPickleName.size()) continue;
      if (found != nullptr) {
        fail_input("{}: holds {} and {}; damaged file",
                   printable(file_->path()),
                   printable(found->name),
                   printable(record.name));
      }
      found = &record;
    }
    if (found == nullptr) {
      fail_input("{}: a zip archive, but not of torch.save: it holds no data.pkl", printable(file_->path()));
    }
    return *found;
  }

  /// Files of before torch 2.1 don't say it.
  void check_byte_order() const {
    const ZipRecord* record = find_zip_record(records_, folder_ + "/byteorder");
    if (record == nullptr) return;
    std::string order = record->size > 10 ? std::string("?") : read(*record);
    if (order == "big") {
      fail_input("{}: was written on a big-endian machine; save it again on another", printable(file_->path()));
    }
    if (order != "little") {
      fail_input("{}: has a byte order of {}, not little; damaged file", printable(file_->path()), printable(order));
    }
  }

  void add(const PickledTensor& pickled) {
    const ZipRecord& record = record_of(pickled);
    StoredTensor tensor;
    tensor.info.name = pickled.name;
    tensor.info.shape = pickled.shape;
    tensor.info.dtype = pickled.type->dtype;
    tensor.info.storage_type = pickled.type->name;
    tensor.info.stored_bytes = pickled.shape.num_elements() * pickled.type->block_bytes;
    tensor.info.file = file_->path();
    tensor.type = pickled.is_readable ? pickled.type : nullptr;
    tensor.offset = record.offset + pickled.offset * pickled.type->block_bytes;
    tensors_.push_back(std::move(tensor));
  }

  /// Checks that the storage is there and as large as the pickle says; the tensor lies inside of it.
  const ZipRecord& record_of(const PickledTensor& pickled) {
    std::string name = fmt::format("{}/data/{}", folder_, pickled.storage);
    const ZipRecord* record = find_zip_record(records_, name);
    if (record == nullptr) {
      fail_input("{}: tensor {} lies in {}, which the archive lacks; damaged file",
                 printable(file_->path()),
                 printable(pickled.name),
                 printable(name));
    }
    if (stored_bytes(std::span(&pickled.storage_elements, 1), *pickled.type) != record->size) {
      fail_input("{}: tensor {} lies in a storage of {} elements of {}, but {} has {} bytes; damaged file",
                 printable(file_->path()),
                 printable(pickled.name),
                 pickled.storage_elements,
                 pickled.type->name,
                 printable(name),
                 record->size);
    }
    if (is_known_.insert(record).second) storages_.push_back({*record, std::string(pickled.name)});
    return *record;
  }

  const std::string& path_;
  std::unique_ptr<File> file_;
  std::string folder_;
  std::vector<ZipRecord> records_;
  std::set<const ZipRecord*> is_known_;
  std::vector<StoredTensor> tensors_;
  std::vector<TorchStorage> storages_;
};

}  // namespace

bool begins_as_torch_file(std::string_view first_bytes) {
  return first_bytes.starts_with(kZipMagic) || first_bytes == kOldMagic;
}

std::unique_ptr<CheckpointReader> open_torch_archive(const std::string& path, const std::string& file_path) {
  return TorchOpening(path, file_path).open();
}

}  // namespace weft
