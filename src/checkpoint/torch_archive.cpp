#include "checkpoint/torch_archive.h"

#include <fmt/format.h>

#include <set>

#include "checkpoint/torch_pickle.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr std::string_view kPickleName = "/data.pkl";
constexpr size_t kMaxNameBytes = 1000;  // the folder is named after the file

class TorchArchive {
 public:
  TorchArchive(const File& file, size_t file_index, TorchContents& contents)
      : file_(file), file_index_(file_index), contents_(contents) {}

  void add_all() {
    records_ = read_zip_directory(file_);
    const ZipRecord& pickle_record = find_pickle();
    folder_ = pickle_record.name.substr(0, pickle_record.name.size() - kPickleName.size());
    check_byte_order();
    std::string pickle = read(pickle_record);
    if (pickle_record.crc32 != 0 && extend_crc32(0, pickle.data(), pickle.size()) != pickle_record.crc32) {
      fail_input("{}: the checksum of data.pkl is wrong; damaged file, download it again", printable(file_.path()));
    }
    for (const PickledTensor& tensor : parse_torch_pickle(file_.path(), pickle)) {
      contents_.tensors.push_back(place_tensor(tensor, file_, file_index_, record_of(tensor).offset));
    }
  }

 private:
  std::string read(const ZipRecord& record) const {
    std::string bytes(static_cast<size_t>(record.size), '\0');
    file_.read(record.offset, bytes.data(), record.size);
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
                   printable(file_.path()),
                   printable(found->name),
                   printable(record.name));
      }
      found = &record;
    }
    if (found == nullptr) {
      fail_input("{}: a zip archive, but not of torch.save: it holds no data.pkl", printable(file_.path()));
    }
    return *found;
  }

  /// Files of before torch 2.1 don't say it.
  void check_byte_order() const {
    const ZipRecord* record = find_zip_record(records_, folder_ + "/byteorder");
    if (record == nullptr) return;
    std::string order = record->size > 10 ? std::string("?") : read(*record);
    if (order == "big") {
      fail_input("{}: was written on a big-endian machine; save it again on another", printable(file_.path()));
    }
    if (order != "little") {
      fail_input("{}: has a byte order of {}, not little; damaged file", printable(file_.path()), printable(order));
    }
  }

  /// Checks that the storage is there and as large as the pickle says; the tensor lies inside of it.
  const ZipRecord& record_of(const PickledTensor& pickled) {
    std::string name = fmt::format("{}/data/{}", folder_, pickled.storage);
    const ZipRecord* record = find_zip_record(records_, name);
    if (record == nullptr) {
      fail_input("{}: tensor {} lies in {}, which the archive lacks; damaged file",
                 printable(file_.path()),
                 printable(pickled.name),
                 printable(name));
    }
    if (stored_bytes(std::span(&pickled.storage_elements, 1), *pickled.type) != record->size) {
      fail_input("{}: tensor {} lies in a storage of {} elements of {}, but {} has {} bytes; damaged file",
                 printable(file_.path()),
                 printable(pickled.name),
                 pickled.storage_elements,
                 pickled.type->name,
                 printable(name),
                 record->size);
    }
    if (is_known_.insert(record).second)
      contents_.storages.push_back({*record, file_index_, std::string(pickled.name)});
    return *record;
  }

  const File& file_;
  size_t file_index_;
  TorchContents& contents_;
  std::string folder_;
  std::vector<ZipRecord> records_;
  std::set<const ZipRecord*> is_known_;
};

}  // namespace

void add_torch_archive(const File& file, size_t file_index, TorchContents& contents) {
  TorchArchive(file, file_index, contents).add_all();
}

}  // namespace weft
