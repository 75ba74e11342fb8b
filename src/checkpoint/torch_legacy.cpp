#include "checkpoint/torch_legacy.h"

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/pickle_bytes.h"
#include "checkpoint/torch_pickle.h"
#include "core/error.h"

namespace weft {
namespace {

/// How the pickle of 0x1950a86a20f9469cfc6c ends, in every protocol that has long numbers.
constexpr std::string_view kMagicNumber = "\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.";
constexpr int64_t kVersion = 1001;

class LegacyTorchFile {
 public:
  LegacyTorchFile(const File& file, size_t file_index, TorchContents& contents)
      : file_(file), file_index_(file_index), contents_(contents), cursor_(file) {}

  void add_all() {
    check_start();
    std::string pickle = take_pickle(cursor_, file_.path(), kStateDict);
    PickledObjects objects = run_pickle(file_.path(), pickle, kStateDict);
    std::string keys_pickle = take_pickle(cursor_, file_.path(), kKeys);
    PickledObjects keys = run_pickle(file_.path(), keys_pickle, kKeys);
    find_storages(objects, keys);
    for (const PickledTensor& tensor : find_torch_tensors(file_.path(), objects)) {
      contents_.tensors.push_back(place_tensor(tensor, file_, file_index_, storage_of(tensor)));
    }
  }

 private:
  static constexpr const char* kStart = "first pickles";
  static constexpr const char* kStateDict = "pickle of tensors";
  static constexpr const char* kKeys = "pickle of storages";

  void check_start() {
    if (!take_pickle(cursor_, file_.path(), kStart).ends_with(kMagicNumber)) {
      fail_input("{}: a pickle, but not of torch.save; save a state dict with torch.save", printable(file_.path()));
    }
    PickledObjects version = run_pickle(file_.path(), take_pickle(cursor_, file_.path(), kStart), kStart);
    if (version.top.kind != PickledObjects::Kind::number || version.top.number != kVersion) {
      fail_input(
          "{}: is not of version {} of torch.save's format before torch 1.6; load it and save it again with a "
          "newer torch",
          printable(file_.path()),
          kVersion);
    }
    std::string pickle = take_pickle(cursor_, file_.path(), kStart);
    PickledObjects machine = run_pickle(file_.path(), pickle, kStart);
    auto order = std::find_if(machine.items.begin(), machine.items.end(), [](const PickledObjects::Item& item) {
      return item.name == "little_endian" && item.value.kind == PickledObjects::Kind::boolean;
    });
    if (order == machine.items.end()) fail_input("{}: has no byte order; damaged file", printable(file_.path()));
    if (order->value.number == 0) {
      fail_input("{}: was written on a big-endian machine; save it again on another", printable(file_.path()));
    }
  }

  /// Each storage is the number of its elements in 8 bytes and the elements, one behind the other up to the file's end.
  void find_storages(const PickledObjects& objects, const PickledObjects& keys) {
    std::map<std::string_view, const PickledObjects::Storage*> described;
    for (const PickledObjects::Storage& storage : objects.storages) {
      const PickledObjects::Storage* first = described.emplace(storage.key, &storage).first->second;
      if (first->type != storage.type || first->num_elements != storage.num_elements) {
        fail_input(
            "{}: storage {} has two sizes or types; damaged file", printable(file_.path()), printable(storage.key));
      }
    }
    int64_t position = cursor_.position();
    for (const PickledObjects::ListText& item : keys.list_texts) {
      auto storage = described.find(item.text);
      if (storage == described.end() || item.list != keys.top.number || begins_.contains(std::string(item.text))) {
        fail_input("{}: storage {} is there twice or of no tensor; damaged file",
                   printable(file_.path()),
                   printable(item.text));
      }
      begins_.emplace(item.text, position + kCountBytes);
      position = end_of(*storage->second, position);
    }
    if (position != file_.size()) {
      fail_input("{}: goes on after its last storage, at byte {}; damaged file", printable(file_.path()), position);
    }
  }

  int64_t end_of(const PickledObjects::Storage& storage, int64_t position) const {
    int64_t count = -1;
    if (file_.size() - position >= kCountBytes) file_.read(position, &count, kCountBytes);
    std::optional<int64_t> bytes = stored_bytes(std::span(&storage.num_elements, 1), storage.type->type);
    if (count != storage.num_elements || !bytes || *bytes > file_.size() - position - kCountBytes) {
      fail_input(
          "{}: storage {} of {} elements of {} should be at byte {}, but there are {} elements or the file ends; "
          "damaged or truncated",
          printable(file_.path()),
          printable(storage.key),
          storage.num_elements,
          storage.type->type.name,
          position,
          count);
    }
    return position + kCountBytes + *bytes;
  }

  int64_t storage_of(const PickledTensor& tensor) const {
    auto found = begins_.find(tensor.storage);
    if (found == begins_.end()) {
      fail_input("{}: tensor {} lies in storage {}, which the file lacks; damaged file",
                 printable(file_.path()),
                 printable(tensor.name),
                 printable(tensor.storage));
    }
    return found->second;
  }

  static constexpr int64_t kCountBytes = sizeof(int64_t);

  const File& file_;
  size_t file_index_;
  TorchContents& contents_;
  FileCursor cursor_;
  std::map<std::string, int64_t, std::less<>> begins_;  // of the storages' elements
};

}  // namespace

void add_legacy_torch_file(const File& file, size_t file_index, TorchContents& contents) {
  LegacyTorchFile(file, file_index, contents).add_all();
}

}  // namespace weft
