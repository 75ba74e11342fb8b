#include "checkpoint/tensorflow_bundle.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "checkpoint/output_file.h"
#include "checkpoint/stored_checkpoint.h"
#include "checkpoint/tensor_bundle.pb.h"
#include "checkpoint/tensorflow_index.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

using Entries = std::vector<std::pair<std::string, std::string>>;

constexpr int kMaxShards = 99999;

struct BundleType {
  int number;
  StorageType storage;
};

/// Numbers of tensorflow/core/framework/types.proto.
constexpr BundleType kTypes[] = {
    {1, {"F32", DType::f32, 1, 4}},
    {2, {"F64", DType::f64, 1, 8}},
    {3, {"I32", DType::i32, 1, 4}},
    {4, {"U8", DType::u8, 1, 1}},
    {9, {"I64", DType::i64, 1, 8}},
    {14, {"BF16", DType::bf16, 1, 2}},
    {19, {"F16", DType::f16, 1, 2}},
};

const StorageType* storage_of(int number) {
  for (const BundleType& type : kTypes) {
    if (type.number == number) return &type.storage;
  }
  return nullptr;
}

int number_of(DType dtype) {
  for (const BundleType& type : kTypes) {
    if (type.storage.dtype == dtype) return type.number;
  }
  return 1;
}

std::string shard_path(const std::string& prefix, int shard, int num_shards) {
  return fmt::format("{}.data-{:05}-of-{:05}", prefix, shard, num_shards);
}

class BundleOpening {
 public:
  BundleOpening(const std::string& path, const std::string& index_path)
      : path_(path), index_path_(index_path), prefix_(index_path.substr(0, index_path.size() - 6)) {}

  std::unique_ptr<CheckpointReader> open() {
    Entries entries = read_tensorflow_index(index_path_);
    read_header(entries);
    for (size_t i = 1; i < entries.size(); ++i) add(entries[i].first, entries[i].second);
    std::vector<std::unique_ptr<File>> files;
    for (int shard = 0; shard < num_shards_; ++shard) {
      files.push_back(std::make_unique<File>(shard_path(prefix_, shard, num_shards_)));
    }
    std::vector<StoredTensor> all;
    for (auto& [shard, tensors] : tensors_) {
      const File& file = *files[static_cast<size_t>(shard)];
      check_stored_tensors(file, 0, file.size(), tensors);
      all.insert(all.end(), tensors.begin(), tensors.end());
    }
    all.insert(all.end(), unreadable_.begin(), unreadable_.end());
    return std::make_unique<StoredCheckpoint>("tensorflow", path_, std::move(files), std::move(all));
  }

 private:
  void read_header(const Entries& entries) {
    tensor_bundle::Header header;
    if (entries.empty() || !entries[0].first.empty() || !header.ParseFromString(entries[0].second)) {
      fail_input("{}: has no header; damaged, or no TensorFlow checkpoint", printable(index_path_));
    }
    if (header.endianness() != 0) {
      fail_input("{}: was written on a big-endian machine; write it again on another", printable(index_path_));
    }
    num_shards_ = header.num_shards();
    // Each shard is a file, and an entry says which: more shards than entries cannot be.
    if (num_shards_ < 1 || num_shards_ > kMaxShards || static_cast<size_t>(num_shards_) > entries.size()) {
      fail_input("{}: says it has {} data files for {} variables; damaged",
                 printable(index_path_),
                 num_shards_,
                 entries.size() - 1);
    }
  }

  [[noreturn]] void damaged(const std::string& name, std::string_view what) const {
    fail_input("{}: variable {} {}; damaged file", printable(index_path_), printable(name), what);
  }

  void add(const std::string& name, const std::string& value) {
    tensor_bundle::Entry entry;
    if (!entry.ParseFromString(value)) damaged(name, "has an entry that cannot be read");
    // A key that begins with 0 is one slice of a partitioned variable, whose own entry says so.
    if (name.front() == '\0') return;
    StoredTensor tensor;
    tensor.info.name = name;
    tensor.info.shape = shape_of(name, entry);
    tensor.info.file = shard_path(prefix_, entry.shard_id(), num_shards_);
    const StorageType* type = storage_of(entry.dtype());
    if (entry.slices_size() > 0 || type == nullptr) {
      tensor.info.storage_type = entry.slices_size() > 0 ? "slices of a partitioned variable"
                                                         : fmt::format("TensorFlow type {}", entry.dtype());
      // Nothing says how many values there are: a shape that cannot be believed is not told.
      if (tensor.info.shape.num_elements() > entry.size()) tensor.info.shape = {};
      unreadable_.push_back(std::move(tensor));
      return;
    }
    if (entry.shard_id() < 0 || entry.shard_id() >= num_shards_)
      damaged(name, "lies in a data file that does not exist");
    std::vector<int64_t> dims(tensor.info.shape.begin(), tensor.info.shape.end());
    std::optional<int64_t> bytes = stored_bytes(dims, *type);
    if (!bytes || *bytes != entry.size()) {
      damaged(name, fmt::format("is {} and takes {} bytes", to_string(tensor.info.shape), entry.size()));
    }
    if (entry.offset() < 0) damaged(name, "lies before its file's start");
    tensor.info.dtype = type->dtype;
    tensor.info.storage_type = std::string(type->name);
    tensor.info.stored_bytes = *bytes;
    tensor.type = type;
    tensor.file = static_cast<size_t>(entry.shard_id());
    tensor.offset = entry.offset();
    tensor.crc32c = entry.crc32c();
    tensors_[entry.shard_id()].push_back(std::move(tensor));
  }

  Shape shape_of(const std::string& name, const tensor_bundle::Entry& entry) const {
    std::vector<int64_t> dims;
    for (const tensor_bundle::Dimension& dim : entry.shape().dim()) dims.push_back(dim.size());
    if (entry.shape().unknown_rank() || static_cast<int>(dims.size()) > Shape::kMaxRank) {
      damaged(name, fmt::format("has {} dimensions, at most {} are known", dims.size(), Shape::kMaxRank));
    }
    if (!checked_num_elements(dims)) damaged(name, "has a shape that cannot be");
    return {dims.data(), dims.data() + dims.size()};
  }

  const std::string& path_;
  const std::string& index_path_;
  std::string prefix_;
  int num_shards_ = 0;
  std::map<int, std::vector<StoredTensor>> tensors_;  // by shard
  std::vector<StoredTensor> unreadable_;
};

class BundleWriter final : public CheckpointWriter {
 public:
  BundleWriter(std::string prefix, std::vector<OutputTensor> tensors)
      : prefix_(std::move(prefix)), file_(OutputFile::create(partial_path(), total_bytes(tensors))) {
    std::sort(
        tensors.begin(), tensors.end(), [](const OutputTensor& a, const OutputTensor& b) { return a.name < b.name; });
    int64_t offset = 0;
    for (OutputTensor& tensor : tensors) {
      int64_t bytes = tensor.shape.num_elements() * static_cast<int64_t>(dtype_bytes(tensor.dtype));
      places_.emplace(tensor.name, Place{.tensor = tensor, .offset = offset, .bytes = bytes});
      offset += bytes;
    }
  }

  void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) override {
    auto found = places_.find(name);
    WEFT_ASSERT(found != places_.end(), "{} is not among what is written", name);
    Place& place = found->second;
    WEFT_ASSERT(first == place.written, "{}: elements out of order", name);
    auto size = static_cast<int64_t>(dtype_bytes(place.tensor.dtype));
    converted_.resize(static_cast<size_t>(count * size));
    convert_dtype(values, dtype, converted_.data(), place.tensor.dtype, count);
    file_.write(place.offset + first * size, converted_.data(), count * size);
    place.crc = extend_crc32c(place.crc, converted_.data(), converted_.size());
    place.written += count;
  }

  void finish() override {
    file_.sync();
    rename_durably(partial_path(), shard_path(prefix_, 0, 1));
    // Last: a checkpoint without an index is none.
    write_whole_file(prefix_ + ".index.partial", tensorflow_index_bytes(entries()));
    rename_durably(prefix_ + ".index.partial", prefix_ + ".index");
  }

 private:
  struct Place {
    OutputTensor tensor;
    int64_t offset = 0, bytes = 0;
    int64_t written = 0;
    uint32_t crc = 0;
  };

  static int64_t total_bytes(const std::vector<OutputTensor>& tensors) {
    int64_t total = 0;
    for (const OutputTensor& tensor : tensors) {
      total += tensor.shape.num_elements() * static_cast<int64_t>(dtype_bytes(tensor.dtype));
    }
    return total;
  }

  std::string partial_path() const { return prefix_ + ".data.partial"; }

  Entries entries() const {
    Entries entries;
    tensor_bundle::Header header;
    header.set_num_shards(1);
    header.mutable_version()->set_producer(1);
    entries.emplace_back("", header.SerializeAsString());
    for (const auto& [name, place] : places_) {
      tensor_bundle::Entry entry;
      entry.set_dtype(number_of(place.tensor.dtype));
      entry.mutable_shape();
      for (int64_t dim : place.tensor.shape) entry.mutable_shape()->add_dim()->set_size(dim);
      entry.set_offset(place.offset);
      entry.set_size(place.bytes);
      entry.set_crc32c(masked_crc32c(place.crc));
      entries.emplace_back(name, entry.SerializeAsString());
    }
    return entries;
  }

  std::string prefix_;
  OutputFile file_;
  std::map<std::string, Place, std::less<>> places_;
  std::vector<std::byte> converted_;
};

}  // namespace

std::unique_ptr<CheckpointReader> open_tensorflow_bundle(const std::string& path, const std::string& index_path) {
  return BundleOpening(path, index_path).open();
}

std::unique_ptr<CheckpointWriter> make_tensorflow_writer(const std::string& prefix, std::vector<OutputTensor> tensors) {
  return std::make_unique<BundleWriter>(prefix, std::move(tensors));
}

}  // namespace weft
