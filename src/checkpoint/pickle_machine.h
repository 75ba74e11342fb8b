// The machine that runs the pickle in a PyTorch checkpoint, as far as a state dict needs it (Python's pickletools
// describes the opcodes, torch/_utils.py what they rebuild).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/storage_type.h"

namespace weft {

/// The elements of a storage class.
struct TorchType {
  std::string_view global;
  StorageType type;
  bool is_readable = true;  // by Weft
};

/// What a pickle made, in flat tables: nothing in them owns memory, however deep it is nested.
struct PickledObjects {
  enum class Kind : uint8_t {
    other,
    boolean,
    number,
    text,
    list,
    tuple,
    dict,
    function,
    storage_class,
    storage,
    tensor
  };

  struct Value {
    Kind kind = Kind::other;
    uint32_t size = 0;   // of a text or tuple
    int64_t number = 0;  // an integer or bool, where a text or tuple begins, a list's number or the position in a table
  };

  struct Dict {
    bool is_ordered = false;
    bool has_metadata = false;  // the attribute that torch gives a state dict
    size_t num_items = 0;
    size_t num_tensors = 0;
  };

  /// An item of a dict that is a tensor, another dict or a bool, named by a text.
  struct Item {
    int64_t dict = 0;
    std::string_view name;
    Value value;
  };

  /// An element of a list that is a text.
  struct ListText {
    int64_t list = 0;
    std::string_view text;
  };

  struct Storage {
    const TorchType* type = nullptr;
    std::string_view key;
    int64_t num_elements = 0;
    // What tensors see of it: torch before 0.4 wrote parts of storages.
    int64_t view_offset = 0;
    int64_t view_elements = 0;
  };

  struct Tensor {
    int64_t storage = 0;
    int64_t offset = 0;
    Value shape;
    Value strides;
  };

  std::span<const Value> values(const Value& tuple) const {
    return std::span<const Value>(tuple_values).subspan(static_cast<size_t>(tuple.number), tuple.size);
  }

  Value top;
  std::vector<Value> tuple_values;
  std::vector<Dict> dicts;
  std::vector<Item> items;           // in the order in which they were set
  std::vector<ListText> list_texts;  // in the order in which they were added
  std::vector<Storage> storages;
  std::vector<Tensor> tensors;
};

/// Executes nothing: of all Python objects only OrderedDict and torch's plain tensors, parameters and storages are
/// known, any other is refused by its name. `path`, and `what` as the pickle's name, are for messages; texts lie in
/// `pickle`. Throws Error(bad_input). Memory is a small multiple of `pickle`, and bounded.
PickledObjects run_pickle(const std::string& path, std::string_view pickle, std::string_view what);

}  // namespace weft
