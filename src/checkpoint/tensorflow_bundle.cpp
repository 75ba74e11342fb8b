#include "checkpoint/tensorflow_bundle.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "checkpoint/stored_checkpoint.h"
#include "checkpoint/tensor_bundle.pb.h"
#include "checkpoint/tensorflow_bundle_format.h"
#include "checkpoint/tensorflow_index.h"
#include "core/error.h"

namespace weft {
namespace {

using Entries = std::vector<std::pair<std::string, std::string>>;

constexpr int kMaxShards = 99999;

class BundleOpening {
 public:
  BundleOpening(const std::string& path, const std::string& index_path)
      : path_(path), index_path_(index_path), prefix_(index_path.substr(0, index_path.rfind('.'))) {}

  std::unique_ptr<CheckpointReader> open() {
    entries_ = read_tensorflow_index(index_path_);
    read_header();
    for (size_t i = 1; i < entries_.size(); ++i) {
      // A key that begins with 0 is a slice of a partitioned variable, whose own entry names it.
      if (entries_[i].first.front() != '\0') add(entries_[i].first, parse(entries_[i].first, entries_[i].second));
    }
    for (size_t i = 0; i < files_.size(); ++i) check_stored_tensors(*files_[i], 0, files_[i]->size(), places_[i]);
    return std::make_unique<StoredCheckpoint>("tensorflow", path_, std::move(files_), std::move(tensors_));
  }

 private:
  void read_header() {
    tensor_bundle::Header header;
    if (entries_.empty() || !entries_[0].first.empty() || !header.ParseFromString(entries_[0].second)) {
      fail_input("{}: has no header; damaged, or no TensorFlow checkpoint", printable(index_path_));
    }
    if (header.endianness() != 0) {
      fail_input("{}: was written on a big-endian machine; write it again on another", printable(index_path_));
    }
    num_shards_ = header.num_shards();
    if (num_shards_ < 1 || num_shards_ > kMaxShards) {
      fail_input("{}: says it has {} data files; damaged", printable(index_path_), num_shards_);
    }
  }

  [[noreturn]] void damaged(const std::string& name, std::string_view what) const {
    fail_input("{}: variable {} {}; damaged file", printable(index_path_), printable(name), what);
  }

  tensor_bundle::Entry parse(const std::string& name, const std::string& value) const {
    tensor_bundle::Entry entry;
    if (!entry.ParseFromString(value)) damaged(name, "has an entry that cannot be read");
    return entry;
  }

  void add(const std::string& name, const tensor_bundle::Entry& entry) {
    StoredTensor tensor;
    tensor.info.name = name;
    tensor.info.shape = shape_of(name, entry);
    tensor.info.storage_type = bundle_type_name(entry.dtype());
    tensor.info.file = index_path_;
    tensor.type = bundle_storage_type(entry.dtype());
    if (tensor.type != nullptr) tensor.info.dtype = tensor.type->dtype;
    if (entry.slices_size() > 0) {
      set_parts(tensor, entry);
    } else {
      set_place(tensor, entry);
    }
    if (tensor.type == nullptr) {
      tensor.parts.clear();
      // Nothing says how many values there are: a shape that cannot be believed is not told.
      if (tensor.info.shape.num_elements() > tensor.info.stored_bytes) tensor.info.shape = {};
    }
    tensors_.push_back(std::move(tensor));
  }

  Shape shape_of(const std::string& name, const tensor_bundle::Entry& entry) const {
    std::vector<int64_t> dims;
    for (const tensor_bundle::Dimension& dim : entry.shape().dim()) dims.push_back(dim.size());
    if (entry.shape().unknown_rank() || dims.size() > static_cast<size_t>(Shape::kMaxRank)) {
      fail_input("{}: variable {} has {} dimensions, Weft reads up to {}; remove it from the checkpoint",
                 printable(index_path_),
                 printable(name),
                 entry.shape().unknown_rank() ? "an unknown number of" : std::to_string(dims.size()),
                 Shape::kMaxRank);
    }
    if (!checked_num_elements(dims)) damaged(name, "has a shape that cannot be");
    return {dims.data(), dims.data() + dims.size()};
  }

  /// Checks the entry of a tensor or slice of the given shape, and sets where it lies.
  void set_place(StoredTensor& tensor, const tensor_bundle::Entry& entry) {
    TensorInfo& info = tensor.info;
    if (entry.shard_id() < 0 || entry.shard_id() >= num_shards_) {
      damaged(info.name, fmt::format("lies in data file {} of {}", entry.shard_id(), num_shards_));
    }
    if (entry.offset() < 0 || entry.size() < 0) damaged(info.name, "lies before its file's start");
    std::vector<int64_t> dims(info.shape.begin(), info.shape.end());
    if (tensor.type != nullptr && stored_bytes(dims, *tensor.type) != entry.size()) {
      damaged(info.name, fmt::format("is {} and takes {} bytes", to_string(info.shape), entry.size()));
    }
    tensor.file = file_of(entry.shard_id());
    tensor.offset = entry.offset();
    info.file = files_[tensor.file]->path();
    info.stored_bytes = entry.size();
    if (tensor.type != nullptr) tensor.crc32c = entry.crc32c();
    places_[tensor.file].push_back(tensor);
  }

  size_t file_of(int shard) {
    auto [found, is_new] = file_of_shard_.emplace(shard, files_.size());
    if (is_new) {
      files_.push_back(std::make_unique<File>(bundle_shard_path(prefix_, shard, num_shards_)));
      places_.emplace_back();
    }
    return found->second;
  }

  /// Takes the slices of a partitioned variable together.
  void set_parts(StoredTensor& tensor, const tensor_bundle::Entry& entry) {
    tensor.cut_dim = cut_dim_of(tensor.info.name, entry);
    // In order and without repetition first: each slice then costs a search for a key that is in the file.
    for (const Cut& cut : cuts_of(tensor, entry)) {
      StoredTensor piece{.info = tensor.info, .type = tensor.type};
      piece.info.shape.set(tensor.cut_dim, cut.end - cut.begin);
      set_place(piece, slice_entry(tensor.info.name, *cut.slice, entry.dtype()));
      tensor.parts.push_back({cut.begin, cut.end, piece.file, piece.offset, piece.crc32c});
      tensor.info.stored_bytes += piece.info.stored_bytes;
    }
  }

  struct Cut {
    int64_t begin = 0;
    int64_t end = 0;
    const tensor_bundle::TensorSlice* slice = nullptr;
  };

  std::vector<Cut> cuts_of(const StoredTensor& tensor, const tensor_bundle::Entry& entry) const {
    int64_t size = tensor.info.shape[tensor.cut_dim];
    std::vector<Cut> cuts;
    for (const tensor_bundle::TensorSlice& slice : entry.slices()) {
      const tensor_bundle::Extent& extent = slice.extent(tensor.cut_dim);
      int64_t length = extent.has_length() ? extent.length() : size;
      int64_t begin = extent.has_length() ? extent.start() : 0;
      if (begin < 0 || length < 1 || begin > size - length) damaged(tensor.info.name, "has a slice outside of it");
      cuts.push_back({begin, begin + length, &slice});
    }
    std::sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) { return a.begin < b.begin; });
    int64_t covered = 0;
    bool is_whole = true;
    for (const Cut& cut : cuts) {
      is_whole = is_whole && cut.begin == covered;
      covered = cut.end;
    }
    if (!is_whole || covered != size) damaged(tensor.info.name, "has slices that overlap or leave a gap");
    return cuts;
  }

  /// The one dimension along which slices differ; TensorFlow's partitioners know no other kind.
  int cut_dim_of(const std::string& name, const tensor_bundle::Entry& entry) const {
    int cut_dim = 0;
    bool is_cut = false;
    for (const tensor_bundle::TensorSlice& slice : entry.slices()) {
      if (slice.extent_size() != entry.shape().dim_size() || slice.extent_size() == 0) {
        damaged(name, "has a slice of another rank");
      }
      for (int dim = 0; dim < slice.extent_size(); ++dim) {
        const tensor_bundle::Extent& extent = slice.extent(dim);
        if (!extent.has_length() || extent.length() == entry.shape().dim(dim).size()) continue;
        if (is_cut && dim != cut_dim) {
          fail_input("{}: variable {} is cut along several dimensions, Weft reads one; save it whole",
                     printable(index_path_),
                     printable(name));
        }
        cut_dim = dim;
        is_cut = true;
      }
    }
    return cut_dim;
  }

  tensor_bundle::Entry slice_entry(const std::string& name, const tensor_bundle::TensorSlice& slice, int dtype) const {
    std::string key = bundle_slice_key(name, slice);
    auto found = std::lower_bound(entries_.begin(), entries_.end(), key, [](const auto& entry, const auto& wanted) {
      return entry.first < wanted;
    });
    if (found == entries_.end() || found->first != key) damaged(name, "names a slice that is not there");
    tensor_bundle::Entry entry = parse(name, found->second);
    if (entry.dtype() != dtype) damaged(name, "has a slice of another type");
    return entry;
  }

  const std::string& path_;
  const std::string& index_path_;
  std::string prefix_;
  int num_shards_ = 0;
  Entries entries_;
  std::map<int, size_t> file_of_shard_;
  std::vector<std::unique_ptr<File>> files_;       // of the shards that hold something
  std::vector<std::vector<StoredTensor>> places_;  // by file: tensors and slices, to be held against its size
  std::vector<StoredTensor> tensors_;
};

}  // namespace

std::unique_ptr<CheckpointReader> open_tensorflow_bundle(const std::string& path, const std::string& index_path) {
  return BundleOpening(path, index_path).open();
}

}  // namespace weft
