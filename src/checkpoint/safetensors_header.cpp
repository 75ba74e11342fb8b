#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/safetensors.h"
#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the safetensors library
constexpr size_t kMaxTensors = size_t{1} << 20;

constexpr std::array<StorageType, 8> kTypes = {{
    {"F32", DType::f32, 1, 4},
    {"F16", DType::f16, 1, 2},
    {"BF16", DType::bf16, 1, 2},
    {"F64", DType::f64, 1, 8},
    {"I64", DType::i64, 1, 8},
    {"I32", DType::i32, 1, 4},
    {"U8", DType::u8, 1, 1},
    {"BOOL", DType::u8, 1, 1},
}};

const StorageType* find_type(std::string_view name) {
  auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const StorageType& type) { return type.name == name; });
  return found == kTypes.end() ? nullptr : &*found;
}

// Receives the header's JSON event by event, so that memory is taken only for the tensors it describes.
// Level 1 is the header, 2 one tensor (or __metadata__), 3 its shape or offsets.
class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  HeaderHandler(const File& file, size_t file_index, int64_t data_begin)
      : file_(file), file_index_(file_index), data_begin_(data_begin) {}

  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool start_object(size_t) override {
    if (++depth_ > 2) damaged("an object inside a tensor's entry");
    if (depth_ == 2) start_tensor();
    return true;
  }

  bool end_object() override {
    if (depth_-- == 2 && !is_metadata_) finish_tensor();
    return true;
  }

  bool start_array(size_t) override {
    bool is_expected = depth_ == 2 && !is_metadata_ && (field_ == "shape" || field_ == "data_offsets");
    if (!is_expected) damaged("an unexpected array");
    ++depth_;
    std::vector<int64_t>& list = field_ == "shape" ? shape_ : offsets_;
    if (!list.empty()) damaged("a field that occurs twice");
    has_shape_ = has_shape_ || field_ == "shape";
    list_ = &list;
    return true;
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool key(std::string& name) override {
    if (depth_ == 1) {
      name_ = name;
      is_metadata_ = name == "__metadata__";
    } else {
      field_ = name;
    }
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ != 2) damaged("an unexpected string");
    if (is_metadata_) metadata[field_] = value;
    if (!is_metadata_ && field_ == "dtype") dtype_ = value;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (depth_ != 3) damaged("an unexpected number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) damaged("a number beyond 2^63");
    if (list_->size() >= static_cast<size_t>(Shape::kMaxRank)) damaged("a shape of more than 6 dimensions");
    list_->push_back(static_cast<int64_t>(value));
    return true;
  }

  bool number_integer(int64_t) override { damaged("a negative number"); }
  bool number_float(double, const std::string&) override { damaged("a fraction"); }
  bool binary(Json::binary_t&) override { damaged("binary data"); }
  bool null() override { damaged("null"); }
  bool boolean(bool) override { damaged("a boolean"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail_input("{}: the header is no JSON at its byte {}; damaged file", printable(file_.path()), position);
  }

 private:
  [[noreturn]] void damaged(const char* what) const {
    fail_input("{}: the header's entry {} holds {}; damaged file", printable(file_.path()), printable(name_), what);
  }

  void start_tensor() {
    shape_.clear();
    offsets_.clear();
    dtype_.clear();
    has_shape_ = false;
    if (tensors.size() >= kMaxTensors) damaged("one tensor too many (2^20 are the most)");
  }

  void finish_tensor() {
    if (dtype_.empty() || !has_shape_ || offsets_.size() != 2) damaged("no dtype, shape or data_offsets");
    StoredTensor tensor;
    tensor.info = {.name = name_,
                   .shape = Shape(shape_.data(), shape_.data() + shape_.size()),
                   .storage_type = dtype_,
                   .stored_bytes = offsets_[1] - offsets_[0],
                   .file = file_.path()};
    tensor.type = find_type(dtype_);
    tensor.file = file_index_;
    if (tensor.type) tensor.info.dtype = tensor.type->dtype;
    check_offsets(tensor);
    tensor.offset = data_begin_ + offsets_[0];
    tensors.push_back(std::move(tensor));
  }

  void check_offsets(const StoredTensor& tensor) const {
    if (offsets_[0] > offsets_[1] || offsets_[1] > file_.size() - data_begin_) {
      fail_input("{}: tensor {} lies at [{}, {}) of {} data bytes; damaged or truncated",
                 printable(file_.path()),
                 printable(name_),
                 offsets_[0],
                 offsets_[1],
                 file_.size() - data_begin_);
    }
    if (!checked_num_elements(shape_)) damaged("a shape of more than 2^63 elements");
    if (tensor.type && stored_bytes(shape_, *tensor.type) != tensor.info.stored_bytes) {
      fail_input("{}: tensor {} is {} of {}, which doesn't take the {} bytes it has; damaged file",
                 printable(file_.path()),
                 printable(name_),
                 to_string(tensor.info.shape),
                 printable(dtype_),
                 tensor.info.stored_bytes);
    }
  }

  const File& file_;
  size_t file_index_;
  int64_t data_begin_;
  int depth_ = 0;
  bool is_metadata_ = false;
  bool has_shape_ = false;
  std::string name_;
  std::string field_;
  std::string dtype_;
  std::vector<int64_t> shape_;
  std::vector<int64_t> offsets_;
  std::vector<int64_t>* list_ = nullptr;
};

HeaderHandler parse_header(const File& file, size_t file_index) {
  uint64_t length = 0;
  if (file.size() < 8) fail_input("{}: {} bytes are no safetensors file", printable(file.path()), file.size());
  file.read(0, &length, sizeof(length));
  if (length > static_cast<uint64_t>(std::min(file.size() - 8, kMaxHeaderBytes))) {
    fail_input("{}: says its header has {} bytes, the file has {}; damaged, truncated or no safetensors file",
               printable(file.path()),
               length,
               file.size());
  }
  std::string header(static_cast<size_t>(length), '\0');
  file.read(8, header.data(), static_cast<int64_t>(length));
  if (header.empty() || header[0] != '{') fail_input("{}: no safetensors file", printable(file.path()));
  int64_t data_begin = 8 + static_cast<int64_t>(length);
  HeaderHandler handler(file, file_index, data_begin);
  Json::sax_parse(header, &handler);
  check_stored_tensors(file, data_begin, file.size(), handler.tensors);
  return handler;
}

}  // namespace

std::vector<StoredTensor> parse_safetensors_header(const File& file, size_t file_index) {
  return std::move(parse_header(file, file_index).tensors);
}

std::map<std::string, std::string> read_safetensors_metadata(const std::string& path) {
  File file(path);
  return std::move(parse_header(file, 0).metadata);
}

}  // namespace weft
