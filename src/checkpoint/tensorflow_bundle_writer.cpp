#include <algorithm>
#include <map>

#include "checkpoint/output_file.h"
#include "checkpoint/tensor_bundle.pb.h"
#include "checkpoint/tensorflow_bundle.h"
#include "checkpoint/tensorflow_bundle_format.h"
#include "checkpoint/tensorflow_index.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

int64_t tensor_bytes(const OutputTensor& tensor) {
  return tensor.shape.num_elements() * static_cast<int64_t>(dtype_bytes(tensor.dtype));
}

int64_t total_bytes(const std::vector<OutputTensor>& tensors) {
  int64_t total = 0;
  for (const OutputTensor& tensor : tensors) total += tensor_bytes(tensor);
  return total;
}

class BundleWriter final : public CheckpointWriter {
 public:
  BundleWriter(std::string prefix, std::vector<OutputTensor> tensors)
      : prefix_(std::move(prefix)), file_(OutputFile::create(partial_data(), total_bytes(tensors))) {
    std::sort(
        tensors.begin(), tensors.end(), [](const OutputTensor& a, const OutputTensor& b) { return a.name < b.name; });
    int64_t offset = 0;
    for (OutputTensor& tensor : tensors) {
      int64_t bytes = tensor_bytes(tensor);
      std::string name = tensor.name;
      bool is_new = places_.emplace(name, Place{.tensor = std::move(tensor), .offset = offset}).second;
      WEFT_ASSERT(is_new && !name.empty(), "{} occurs twice", name);
      offset += bytes;
    }
  }

  void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) override {
    auto found = places_.find(name);
    WEFT_ASSERT(found != places_.end(), "{} is not among what is written", name);
    Place& place = found->second;
    // The checksum is one of all bytes in order.
    WEFT_ASSERT(first == place.num_written && count <= place.tensor.shape.num_elements() - first, "{}", name);
    auto width = static_cast<int64_t>(dtype_bytes(place.tensor.dtype));
    for_each_converted(values, dtype, count, place.tensor.dtype, [&](int64_t at, const void* piece, int64_t size) {
      file_.write(place.offset + (first + at) * width, piece, size * width);
      place.crc = extend_crc32c(place.crc, piece, static_cast<size_t>(size * width));
    });
    place.num_written += count;
  }

  void finish() override {
    std::string index = tensorflow_index_bytes(entries());
    file_.sync();
    write_whole_file(partial_index(), index);
    sync_file(partial_index());
    rename_durably(partial_data(), bundle_shard_path(prefix_, 0, 1));
    // Last: a checkpoint without an index is none.
    rename_durably(partial_index(), prefix_ + ".index");
  }

 private:
  struct Place {
    OutputTensor tensor;
    int64_t offset = 0;
    int64_t num_written = 0;
    uint32_t crc = 0;
  };

  std::string partial_data() const { return prefix_ + ".data.partial"; }
  std::string partial_index() const { return prefix_ + ".index.partial"; }

  std::vector<std::pair<std::string, std::string>> entries() const {
    tensor_bundle::Header header;
    header.set_num_shards(1);
    header.mutable_version()->set_producer(1);
    std::vector<std::pair<std::string, std::string>> entries = {{"", header.SerializeAsString()}};
    for (const auto& [name, place] : places_) {
      WEFT_ASSERT(place.num_written == place.tensor.shape.num_elements(), "{} is not written whole", name);
      tensor_bundle::Entry entry;
      entry.set_dtype(bundle_type_number(place.tensor.dtype));
      entry.mutable_shape();
      for (int64_t dim : place.tensor.shape) entry.mutable_shape()->add_dim()->set_size(dim);
      entry.set_offset(place.offset);
      entry.set_size(tensor_bytes(place.tensor));
      entry.set_crc32c(masked_crc32c(place.crc));
      entries.emplace_back(name, entry.SerializeAsString());
    }
    return entries;
  }

  std::string prefix_;
  OutputFile file_;
  std::map<std::string, Place, std::less<>> places_;
};

}  // namespace

std::unique_ptr<CheckpointWriter> make_tensorflow_writer(const std::string& prefix, std::vector<OutputTensor> tensors) {
  return std::make_unique<BundleWriter>(prefix, std::move(tensors));
}

}  // namespace weft
