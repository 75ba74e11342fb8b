#include "checkpoint/pickle_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

using Kind = PickledObjects::Kind;
using Value = PickledObjects::Value;
using Dict = PickledObjects::Dict;

// Python writes dicts and lists a thousand items at a time.
constexpr size_t kMaxStack = size_t{1} << 16;
/// A tensor takes about thirty: items of its tuples, what the memo holds, itself.
constexpr size_t kMaxKept = size_t{1} << 21;
constexpr uint32_t kMaxKeyBytes = 100;  // of a storage; torch counts

constexpr std::array<TorchType, 11> kTypes = {{
    {"torch.FloatStorage", {"F32", DType::f32, 1, 4}},
    {"torch.HalfStorage", {"F16", DType::f16, 1, 2}},
    {"torch.BFloat16Storage", {"BF16", DType::bf16, 1, 2}},
    {"torch.DoubleStorage", {"F64", DType::f64, 1, 8}},
    {"torch.LongStorage", {"I64", DType::i64, 1, 8}},
    {"torch.IntStorage", {"I32", DType::i32, 1, 4}},
    {"torch.ByteStorage", {"U8", DType::u8, 1, 1}},
    {"torch.BoolStorage", {"BOOL", DType::u8, 1, 1}},
    {"torch.ShortStorage", {"I16", DType::f32, 1, 2}, false},
    {"torch.CharStorage", {"I8", DType::f32, 1, 1}, false},
    {"torch.ComplexFloatStorage", {"C64", DType::f32, 1, 8}, false},
}};

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
// Of types that have no storage class of their own, such as the 8-bit floats.
constexpr std::string_view kRebuildNewTensor = "torch._utils._rebuild_tensor_v3";
constexpr std::string_view kRebuildOldTensor = "torch._utils._rebuild_tensor";  // of before torch 0.4
constexpr std::array<std::string_view, 4> kFunctions = {
    kOrderedDict, kRebuildTensor, kRebuildOldTensor, kRebuildParameter};

class PickleMachine {
 public:
  PickleMachine(const std::string& path, std::string_view pickle, std::string_view what)
      : path_(path), pickle_(pickle), what_(what) {}

  PickledObjects run() {
    constexpr char protocol = '\x80';
    if (pickle_.size() < 2 || pickle_[0] != protocol || pickle_[1] < 2 || pickle_[1] > 5) {
      damaged("does not begin as a pickle of protocol 2 to 5");
    }
    position_ = 2;
    for (;;) {
      op_position_ = position_;
      auto op = take<uint8_t>();
      if (op == '.') break;
      if (!push_constant(op) && !use_memo(op) && !make_container(op) && !fill_container(op) && !make_object(op)) {
        fail_input(
            "{}: {} holds opcode {:#04x} at byte {}, which no state dict of plain tensors has; save a state dict "
            "with torch.save",
            printable(path_),
            what_,
            op,
            op_position_);
      }
    }
    if (position_ != pickle_.size()) damaged("goes on after its end");
    if (stack_.size() != 1 || !marks_.empty()) damaged("ends in the middle of an object");
    objects_.top = stack_.back();
    return std::move(objects_);
  }

 private:
  [[noreturn]] void damaged(std::string_view what) const {
    fail_input("{}: {} {}, at byte {}; damaged file", printable(path_), what_, what, op_position_);
  }

  [[noreturn]] void refuse_object(std::string_view name) const {
    if (name == kRebuildNewTensor) {
      fail_input(
          "{}: holds a tensor of a type that Weft doesn't read, at byte {} of {}; convert it to BF16, F16 or F32",
          printable(path_),
          op_position_,
          what_);
    }
    fail_input("{}: holds a Python object ({}), not plain tensors, at byte {} of {}; save a state dict with torch.save",
               printable(path_),
               printable(name),
               op_position_,
               what_);
  }

  std::string_view take_bytes(uint64_t count) {
    if (count > pickle_.size() - position_) damaged("ends in the middle of an opcode");
    std::string_view bytes = pickle_.substr(position_, count);
    position_ += count;
    return bytes;
  }

  template <typename T>
  T take() {
    T value;
    std::memcpy(&value, take_bytes(sizeof(T)).data(), sizeof(T));
    return value;
  }

  /// Appends to a table; returns the position. All tables together are bounded.
  template <typename T>
  int64_t keep(std::vector<T>& table, const T& item) {
    if (++num_kept_ > kMaxKept) damaged(fmt::format("makes more than {} objects", kMaxKept));
    table.push_back(item);
    return static_cast<int64_t>(table.size()) - 1;
  }

  void check_stack() const {
    if (stack_.size() + marks_.size() >= kMaxStack) damaged("nests too deep or puts too much on the stack");
  }

  void push(const Value& value) {
    check_stack();
    stack_.push_back(value);
  }

  Value pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) damaged("takes from an empty stack");
    Value value = stack_.back();
    stack_.pop_back();
    return value;
  }

  Value pop(Kind kind, std::string_view what) {
    Value value = pop();
    if (value.kind != kind) damaged(what);
    return value;
  }

  /// What was pushed since the last mark.
  std::vector<Value> pop_to_mark() {
    if (marks_.empty()) damaged("takes from an empty stack");
    auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Value> popped(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return popped;
  }

  std::string_view text(const Value& value) const {
    return pickle_.substr(static_cast<size_t>(value.number), value.size);
  }

  void push_text(uint32_t size) {
    auto begin = static_cast<int64_t>(position_);
    take_bytes(size);
    push({Kind::text, size, begin});
  }

  void push_number(int64_t number) { push({Kind::number, 0, number}); }

  bool push_constant(uint8_t op) {
    switch (op) {
      case 'K':  // BININT1
        push_number(take<uint8_t>());
        break;
      case 'M':  // BININT2
        push_number(take<uint16_t>());
        break;
      case 'J':  // BININT
        push_number(take<int32_t>());
        break;
      case 0x8a:  // LONG1
        push_long(take<uint8_t>());
        break;
      case 'X':  // BINUNICODE
        push_text(take<uint32_t>());
        break;
      case 0x8c:  // SHORT_BINUNICODE
        push_text(take<uint8_t>());
        break;
      case 'G':  // BINFLOAT
        take_bytes(8);
        push({});
        break;
      case 'N':  // NONE
        push({});
        break;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        push({Kind::boolean, 0, op == 0x88 ? 1 : 0});
        break;
      case 0x95:  // FRAME: how much could be read at once
        if (take<uint64_t>() > pickle_.size() - position_) damaged("has a frame that is longer than the pickle");
        break;
      default:
        return false;
    }
    return true;
  }

  void push_long(uint8_t size) {
    std::string_view bytes = take_bytes(size);
    if (size > 8) return push({});
    uint64_t number = size > 0 && (bytes.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
    std::memcpy(&number, bytes.data(), size);
    push_number(static_cast<int64_t>(number));
  }

  bool use_memo(uint8_t op) {
    switch (op) {
      case 'q':  // BINPUT
        put(take<uint8_t>());
        break;
      case 'r':  // LONG_BINPUT
        put(take<uint32_t>());
        break;
      case 0x94:  // MEMOIZE
        put(memo_.size());
        break;
      case 'h':  // BINGET
        get(take<uint8_t>());
        break;
      case 'j':  // LONG_BINGET
        get(take<uint32_t>());
        break;
      default:
        return false;
    }
    return true;
  }

  void put(size_t place) {
    Value top = pop();
    push(top);
    // Python counts up.
    if (place > memo_.size()) damaged("leaves a gap in its memo");
    if (place < memo_.size()) {
      memo_[place] = top;
    } else {
      keep(memo_, top);
    }
  }

  void get(size_t place) {
    if (place >= memo_.size()) damaged("asks its memo for something that is not there");
    push(memo_[place]);
  }

  void push_tuple(std::span<const Value> from) {
    Value tuple{Kind::tuple, static_cast<uint32_t>(from.size()), static_cast<int64_t>(objects_.tuple_values.size())};
    for (const Value& value : from) keep(objects_.tuple_values, value);
    push(tuple);
  }

  void push_tuple_of(size_t size) {
    std::array<Value, 3> last;
    for (size_t i = size; i > 0; --i) last[i - 1] = pop();
    push_tuple({last.data(), size});
  }

  void push_dict(bool is_ordered) { push({Kind::dict, 0, keep(objects_.dicts, Dict{.is_ordered = is_ordered})}); }

  bool make_container(uint8_t op) {
    switch (op) {
      case '(':  // MARK
        check_stack();
        marks_.push_back(stack_.size());
        break;
      case ')':  // EMPTY_TUPLE
        push_tuple({});
        break;
      case 0x85:  // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87:
        push_tuple_of(op - size_t{0x84});
        break;
      case 't':  // TUPLE
        push_tuple(pop_to_mark());
        break;
      case ']':  // EMPTY_LIST
        push({Kind::list, 0, num_lists_++});
        break;
      case '}':  // EMPTY_DICT
        push_dict(false);
        break;
      default:
        return false;
    }
    return true;
  }

  bool fill_container(uint8_t op) {
    switch (op) {
      case 'a':  // APPEND
        append(std::array{pop()});
        break;
      case 'e':  // APPENDS
        append(pop_to_mark());
        break;
      case 's': {  // SETITEM
        Value value = pop();
        set_items(std::array{pop(), value});
        break;
      }
      case 'u':  // SETITEMS
        set_items(pop_to_mark());
        break;
      default:
        return false;
    }
    return true;
  }

  /// To the list on the stack.
  void append(std::span<const Value> elements) {
    Value list = pop(Kind::list, "appends to something that is no list");
    for (const Value& value : elements) {
      if (value.kind == Kind::text) keep(objects_.list_texts, PickledObjects::ListText{list.number, text(value)});
    }
    push(list);
  }

  /// Names and values in turns, into the dict on the stack.
  void set_items(std::span<const Value> items) {
    if (items.size() % 2 != 0) damaged("sets an item that has no value");
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) damaged("takes from an empty stack");
    if (stack_.back().kind != Kind::dict) damaged("sets an item of something that is no dict");
    int64_t number = stack_.back().number;
    Dict& dict = objects_.dicts[static_cast<size_t>(number)];
    for (size_t i = 0; i < items.size(); i += 2) {
      const Value &name = items[i], &value = items[i + 1];
      ++dict.num_items;
      if (name.kind != Kind::text) continue;
      dict.has_metadata = dict.has_metadata || text(name) == "_metadata";
      dict.num_tensors += value.kind == Kind::tensor ? 1 : 0;
      if (value.kind == Kind::tensor || value.kind == Kind::dict || value.kind == Kind::boolean) {
        keep(objects_.items, PickledObjects::Item{number, text(name), value});
      }
    }
  }

  bool make_object(uint8_t op) {
    switch (op) {
      case 'c': {  // GLOBAL
        std::string_view module = take_line();
        push_global(module, take_line());
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        Value name = pop(Kind::text, "names an object by something that is no text");
        Value module = pop(Kind::text, "names an object by something that is no text");
        push_global(text(module), text(name));
        break;
      }
      case 'Q':  // BINPERSID
        push_storage(objects_.values(pop(Kind::tuple, "holds a storage that is no tuple")));
        break;
      case 'R': {  // REDUCE
        Value arguments = pop(Kind::tuple, "calls a function without a tuple");
        call(pop(), objects_.values(arguments));
        break;
      }
      case 'b':  // BUILD
        set_attributes();
        break;
      default:
        return false;
    }
    return true;
  }

  std::string_view take_line() {
    constexpr size_t longest = 1000;
    size_t size = pickle_.substr(position_, longest).find('\n');
    if (size == std::string_view::npos) damaged("holds a name without an end");
    return take_bytes(size + 1).substr(0, size);
  }

  void push_global(std::string_view module, std::string_view name) {
    // What comes from outside may be long; nothing that is known is.
    std::string full_name = fmt::format("{}.{}", module.substr(0, 200), name.substr(0, 200));
    auto function = std::find(kFunctions.begin(), kFunctions.end(), full_name);
    if (function != kFunctions.end()) return push({Kind::function, 0, function - kFunctions.begin()});
    auto type =
        std::find_if(kTypes.begin(), kTypes.end(), [&](const TorchType& row) { return row.global == full_name; });
    if (type == kTypes.end()) refuse_object(full_name);
    push({Kind::storage_class, 0, type - kTypes.begin()});
  }

  /// ("storage", class, key, device, number of elements), and before torch 1.6 None or (name, begin, size) of a part.
  void push_storage(std::span<const Value> tuple) {
    bool is_storage = (tuple.size() == 5 || tuple.size() == 6) && tuple[0].kind == Kind::text &&
                      text(tuple[0]) == "storage" && tuple[1].kind == Kind::storage_class &&
                      tuple[2].kind == Kind::text && tuple[2].size <= kMaxKeyBytes && tuple[3].kind == Kind::text &&
                      tuple[4].kind == Kind::number;
    if (!is_storage) damaged("holds a storage of another form than torch.save writes");
    PickledObjects::Storage storage{&kTypes[static_cast<size_t>(tuple[1].number)], text(tuple[2]), tuple[4].number};
    storage.view_elements = storage.num_elements;
    if (tuple.size() == 6 && tuple[5].kind == Kind::tuple) set_view(storage, objects_.values(tuple[5]));
    push({Kind::storage, 0, keep(objects_.storages, storage)});
  }

  void set_view(PickledObjects::Storage& storage, std::span<const Value> view) const {
    bool is_view = view.size() == 3 && view[1].kind == Kind::number && view[2].kind == Kind::number;
    if (!is_view || view[1].number < 0 || view[2].number < 0 || view[1].number > storage.num_elements ||
        view[2].number > storage.num_elements - view[1].number) {
      damaged("holds a part of a storage that does not lie in it");
    }
    storage.view_offset = view[1].number;
    storage.view_elements = view[2].number;
  }

  void call(const Value& function, std::span<const Value> arguments) {
    if (function.kind != Kind::function) damaged("calls something that is no function");
    std::string_view name = kFunctions[static_cast<size_t>(function.number)];
    if (name == kOrderedDict) {
      if (!arguments.empty()) damaged("makes an OrderedDict of something");
      push_dict(true);
    } else if (name == kRebuildParameter) {
      if (arguments.size() != 3 || arguments[0].kind != Kind::tensor) damaged("holds a parameter without a tensor");
      push(arguments[0]);
    } else {
      push_tensor(arguments, name == kRebuildOldTensor);
    }
  }

  /// (storage, offset, shape, strides), and since torch 0.4 (…, requires_grad, hooks).
  void push_tensor(std::span<const Value> arguments, bool is_old) {
    bool is_tensor = arguments.size() == (is_old ? 4 : 6) && arguments[0].kind == Kind::storage &&
                     arguments[1].kind == Kind::number && arguments[2].kind == Kind::tuple &&
                     arguments[3].kind == Kind::tuple && (is_old || arguments[5].kind == Kind::dict);
    if (!is_tensor) damaged("holds a tensor of another form than torch.save writes");
    PickledObjects::Tensor tensor{arguments[0].number, arguments[1].number, arguments[2], arguments[3]};
    push({Kind::tensor, 0, keep(objects_.tensors, tensor)});
  }

  /// The attributes of the OrderedDict on the stack: _metadata, which says versions of modules.
  void set_attributes() {
    Value state = pop(Kind::dict, "gives an object attributes that are no dict");
    Value object = pop(Kind::dict, "gives attributes to something that is no dict");
    const Dict& attributes = objects_.dicts[static_cast<size_t>(state.number)];
    bool is_metadata = attributes.num_items == 0 || (attributes.num_items == 1 && attributes.has_metadata);
    if (!objects_.dicts[static_cast<size_t>(object.number)].is_ordered || !is_metadata) {
      damaged("gives a dict attributes that no state dict has");
    }
    push(object);
  }

  const std::string& path_;
  std::string_view pickle_;
  std::string_view what_;
  size_t position_ = 0;
  size_t op_position_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;
  std::vector<Value> memo_;
  PickledObjects objects_;
  size_t num_kept_ = 0;
  int64_t num_lists_ = 0;
};

}  // namespace

PickledObjects run_pickle(const std::string& path, std::string_view pickle, std::string_view what) {
  return PickleMachine(path, pickle, what).run();
}

}  // namespace weft
