#include "checkpoint/torch_pickle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <set>
#include <span>

#include "core/error.h"

namespace weft {
namespace {

using Kind = PickledObjects::Kind;
using Value = PickledObjects::Value;
using Item = PickledObjects::Item;

constexpr size_t kMaxTensors = size_t{1} << 17;

class StateDict {
 public:
  StateDict(const std::string& path, const PickledObjects& objects) : path_(path), objects_(objects) {}

  std::vector<PickledTensor> tensors() const {
    int64_t dict = find_state_dict();
    std::vector<PickledTensor> result;
    std::set<std::string_view> names;
    if (objects_.dicts[static_cast<size_t>(dict)].num_tensors > kMaxTensors) {
      fail_input("{}: holds more than {} tensors", printable(path_), kMaxTensors);
    }
    for (const Item& item : objects_.items) {
      if (item.dict != dict || item.value.kind != Kind::tensor) continue;
      if (!names.insert(item.name).second) {
        fail_input("{}: tensor {} occurs twice; damaged file", printable(path_), printable(item.name));
      }
      result.push_back(describe(item.name, objects_.tensors[static_cast<size_t>(item.value.number)]));
    }
    return result;
  }

 private:
  int64_t find_state_dict() const {
    const Value& top = objects_.top;
    if (top.kind == Kind::tensor) {
      fail_input("{}: holds one tensor without a name; save a dict of tensors with torch.save", printable(path_));
    }
    if (top.kind != Kind::dict) {
      fail_input("{}: holds no dict of tensors; save a state dict with torch.save", printable(path_));
    }
    std::vector<std::string> found;
    int64_t nested = 0;
    if (objects_.dicts[static_cast<size_t>(top.number)].num_tensors > 0) found.emplace_back("the outermost");
    for (const Item& item : objects_.items) {
      if (item.dict != top.number || item.value.kind != Kind::dict) continue;
      if (objects_.dicts[static_cast<size_t>(item.value.number)].num_tensors == 0) continue;
      nested = item.value.number;
      if (found.size() < 10) found.push_back(printable(item.name, 40));
    }
    if (found.empty()) fail_input("{}: holds no tensors; save a state dict with torch.save", printable(path_));
    if (found.size() > 1) {
      fail_input("{}: holds several dicts of tensors ({}); save one of them with torch.save",
                 printable(path_),
                 fmt::join(found, ", "));
    }
    return objects_.dicts[static_cast<size_t>(top.number)].num_tensors > 0 ? top.number : nested;
  }

  PickledTensor describe(std::string_view name, const PickledObjects::Tensor& tensor) const {
    const PickledObjects::Storage& storage = objects_.storages[static_cast<size_t>(tensor.storage)];
    std::vector<int64_t> shape = dims_of(name, tensor.shape);
    std::vector<int64_t> strides = dims_of(name, tensor.strides);
    std::optional<int64_t> num_elements = checked_num_elements(shape);
    if (shape.size() != strides.size() || !num_elements) {
      fail_input("{}: tensor {} has a shape that cannot be; damaged file", printable(path_), printable(name));
    }
    if (*num_elements > 0 && !is_contiguous(shape, strides)) {
      fail_input("{}: tensor {} is not contiguous: shape [{}], strides [{}]; save its .contiguous()",
                 printable(path_),
                 printable(name),
                 fmt::join(shape, ", "),
                 fmt::join(strides, ", "));
    }
    if (storage.view_elements < 0 || tensor.offset < 0 || tensor.offset > storage.view_elements ||
        *num_elements > storage.view_elements - tensor.offset) {
      fail_input("{}: tensor {} has {} elements at {} of a storage of {}; damaged file",
                 printable(path_),
                 printable(name),
                 *num_elements,
                 tensor.offset,
                 storage.view_elements);
    }
    return {.name = name,
            .shape = Shape(shape.data(), shape.data() + shape.size()),
            .type = &storage.type->type,
            .is_readable = storage.type->is_readable,
            .storage = storage.key,
            .storage_elements = storage.num_elements,
            .offset = storage.view_offset + tensor.offset};
  }

  std::vector<int64_t> dims_of(std::string_view name, const Value& tuple) const {
    if (tuple.size > static_cast<uint32_t>(Shape::kMaxRank)) {
      fail_input("{}: tensor {} has {} dimensions, Weft reads up to {}; remove it from the checkpoint",
                 printable(path_),
                 printable(name),
                 tuple.size,
                 Shape::kMaxRank);
    }
    std::vector<int64_t> dims;
    for (const Value& value : objects_.values(tuple)) {
      // What is no number is refused like a negative one.
      dims.push_back(value.kind == Kind::number ? value.number : -1);
    }
    return dims;
  }

  static bool is_contiguous(std::span<const int64_t> shape, std::span<const int64_t> strides) {
    int64_t expected = 1;
    for (size_t i = shape.size(); i > 0; --i) {
      if (shape[i - 1] != 1 && strides[i - 1] != expected) return false;
      expected *= shape[i - 1];
    }
    return true;
  }

  const std::string& path_;
  const PickledObjects& objects_;
};

}  // namespace

std::vector<PickledTensor> find_torch_tensors(const std::string& path, const PickledObjects& objects) {
  return StateDict(path, objects).tensors();
}

std::vector<PickledTensor> parse_torch_pickle(const std::string& path, std::string_view pickle) {
  return find_torch_tensors(path, run_pickle(path, pickle, "data.pkl"));
}

StoredTensor place_tensor(const PickledTensor& pickled, const File& file, size_t file_index, int64_t storage_begin) {
  StoredTensor tensor;
  tensor.info.name = pickled.name;
  tensor.info.shape = pickled.shape;
  tensor.info.dtype = pickled.type->dtype;
  tensor.info.storage_type = pickled.type->name;
  tensor.info.stored_bytes = pickled.shape.num_elements() * pickled.type->block_bytes;
  tensor.info.file = file.path();
  tensor.type = pickled.is_readable ? pickled.type : nullptr;
  tensor.file = file_index;
  tensor.offset = storage_begin + pickled.offset * pickled.type->block_bytes;
  return tensor;
}

}  // namespace weft
