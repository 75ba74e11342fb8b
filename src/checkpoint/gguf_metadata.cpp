#include <algorithm>
#include <limits>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_header.h"
#include "core/error.h"

namespace weft {
namespace {

// Type numbers of metadata values in ggml's docs/gguf.md.
enum class ValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// A value takes more memory here than in the file (a string's header, an int64 for a byte): more elements than this in
// one file are refused. Vocabularies have a quarter of a million.
constexpr uint64_t kMaxArrayElements = uint64_t{1} << 23;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr int64_t kMinValueEntryBytes = 8 + 4 + 1;

class MetadataParser {
 public:
  MetadataParser(FileCursor& cursor, GgufMetadata& metadata) : cursor_(cursor), metadata_(metadata) {}

  void parse_entry() {
    uint64_t length = cursor_.read_value<uint64_t>("length of a metadata key");
    if (length > kMaxKeyBytes) fail_input("{}: a metadata key of {} bytes; damaged file", file(), length);
    key_ = cursor_.read_string(length, "metadata key");
    uint32_t type = cursor_.read_value<uint32_t>("type of a metadata value");
    GgufValue value = type == static_cast<uint32_t>(ValueType::array) ? parse_array() : parse_scalar(type);
    if (!metadata_.values.emplace(key_, std::move(value)).second) {
      fail_input("{}: metadata key {} occurs twice", file(), printable(key_));
    }
  }

 private:
  std::string file() const { return printable(metadata_.path); }

  GgufValue parse_scalar(uint32_t type) {
    switch (static_cast<ValueType>(type)) {
      case ValueType::f32:
      case ValueType::f64:
        return parse_float(type);
      case ValueType::boolean:
        return parse_bool();
      case ValueType::string:
        return parse_string();
      default:
        return parse_int(type);
    }
  }

  int64_t parse_int(uint32_t type) {
    switch (static_cast<ValueType>(type)) {
      case ValueType::u8:
        return cursor_.read_value<uint8_t>("metadata value");
      case ValueType::i8:
        return cursor_.read_value<int8_t>("metadata value");
      case ValueType::u16:
        return cursor_.read_value<uint16_t>("metadata value");
      case ValueType::i16:
        return cursor_.read_value<int16_t>("metadata value");
      case ValueType::u32:
        return cursor_.read_value<uint32_t>("metadata value");
      case ValueType::i32:
        return cursor_.read_value<int32_t>("metadata value");
      case ValueType::i64:
        return cursor_.read_value<int64_t>("metadata value");
      case ValueType::u64:
        return parse_u64();
      default:
        fail_input("{}: metadata key {} has the unknown type {}", file(), printable(key_), type);
    }
  }

  int64_t parse_u64() {
    uint64_t value = cursor_.read_value<uint64_t>("metadata value");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail_input("{}: metadata key {} is {}, above the largest 64-bit signed integer", file(), printable(key_), value);
    }
    return static_cast<int64_t>(value);
  }

  double parse_float(uint32_t type) {
    if (static_cast<ValueType>(type) == ValueType::f64) return cursor_.read_value<double>("metadata value");
    return static_cast<double>(cursor_.read_value<float>("metadata value"));
  }

  bool parse_bool() {
    uint8_t value = cursor_.read_value<uint8_t>("metadata value");
    if (value > 1) {
      fail_input("{}: metadata key {} holds {}, expected a boolean 0 or 1", file(), printable(key_), value);
    }
    return value != 0;
  }

  std::string parse_string() {
    return cursor_.read_string(cursor_.read_value<uint64_t>("length of a string"), "metadata string");
  }

  GgufValue parse_array() {
    uint32_t type = cursor_.read_value<uint32_t>("element type of a metadata array");
    uint64_t count = cursor_.read_value<uint64_t>("length of a metadata array");
    if (count > static_cast<uint64_t>(cursor_.remaining())) {
      fail_input("{}: metadata array {} says it has {} elements, the file has {} bytes left; damaged or truncated",
                 file(),
                 printable(key_),
                 count,
                 cursor_.remaining());
    }
    num_array_elements_ += count;
    if (num_array_elements_ > kMaxArrayElements) {
      fail_input("{}: metadata arrays up to {} have {} elements, at most {} are read",
                 file(),
                 printable(key_),
                 num_array_elements_,
                 kMaxArrayElements);
    }
    switch (static_cast<ValueType>(type)) {
      case ValueType::array:
        fail_input("{}: metadata key {} is an array of arrays, which is not supported", file(), printable(key_));
      case ValueType::f32:
      case ValueType::f64:
        return parse_elements<double>(count, [&] { return parse_float(type); });
      case ValueType::boolean:
        return parse_elements<bool>(count, [&] { return parse_bool(); });
      case ValueType::string:
        return parse_elements<std::string>(count, [&] { return parse_string(); });
      default:
        return parse_elements<int64_t>(count, [&] { return parse_int(type); });
    }
  }

  // Grows with what is read, not with what the file claims.
  template <typename T, typename Parse>
  std::vector<T> parse_elements(uint64_t count, Parse parse) {
    std::vector<T> elements;
    for (uint64_t i = 0; i < count; ++i) elements.push_back(parse());
    return elements;
  }

  FileCursor& cursor_;
  GgufMetadata& metadata_;
  std::string key_;
  uint64_t num_array_elements_ = 0;
};

template <typename T>
const T* find_as(const GgufMetadata& metadata, std::string_view key, const char* expected) {
  const GgufValue* value = metadata.find(key);
  if (!value) return nullptr;
  const T* typed = std::get_if<T>(value);
  if (!typed) fail_input("{}: metadata key {} is not {}", printable(metadata.path), printable(key), expected);
  return typed;
}

template <typename T>
std::optional<T> get_as(const GgufMetadata& metadata, std::string_view key, const char* expected) {
  const T* value = find_as<T>(metadata, key, expected);
  return value ? std::optional<T>(*value) : std::nullopt;
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  auto found = values.find(key);
  return found == values.end() ? nullptr : &found->second;
}

std::optional<int64_t> GgufMetadata::get_int(std::string_view key) const {
  return get_as<int64_t>(*this, key, "an integer");
}

std::optional<double> GgufMetadata::get_float(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value && std::holds_alternative<int64_t>(*value)) return static_cast<double>(std::get<int64_t>(*value));
  return get_as<double>(*this, key, "a number");
}

std::optional<bool> GgufMetadata::get_bool(std::string_view key) const {
  return get_as<bool>(*this, key, "a boolean");
}

std::optional<std::string> GgufMetadata::get_string(std::string_view key) const {
  return get_as<std::string>(*this, key, "a string");
}

const std::vector<std::string>* GgufMetadata::get_strings(std::string_view key) const {
  return find_as<std::vector<std::string>>(*this, key, "an array of strings");
}

uint64_t parse_gguf_metadata(FileCursor& cursor, GgufMetadata& metadata) {
  std::string file = printable(metadata.path);
  if (cursor.remaining() < 4 || cursor.read_string(4, "magic") != "GGUF") fail_input("{}: not a GGUF file", file);
  uint32_t version = cursor.read_value<uint32_t>("version");
  if (version == 2u << 24 || version == 3u << 24) fail_input("{}: a big-endian GGUF file, not supported", file);
  if (version != 2 && version != 3) fail_input("{}: GGUF version {}, expected 2 or 3", file, version);
  uint64_t num_tensors = cursor.read_value<uint64_t>("number of tensors");
  uint64_t num_values = cursor.read_value<uint64_t>("number of metadata values");
  if (num_values > static_cast<uint64_t>(cursor.remaining() / kMinValueEntryBytes)) {
    fail_input(
        "{}: says it has {} metadata values in {} bytes; damaged or truncated", file, num_values, cursor.remaining());
  }
  MetadataParser parser(cursor, metadata);
  for (uint64_t i = 0; i < num_values; ++i) parser.parse_entry();
  return num_tensors;
}

std::shared_ptr<const GgufMetadata> read_gguf_metadata(const std::string& path) {
  File file(path);
  FileCursor cursor(file);
  auto metadata = std::make_shared<GgufMetadata>();
  metadata->path = path;
  parse_gguf_metadata(cursor, *metadata);
  return metadata;
}

std::string gguf_without_tensors(const std::string& path) {
  // After magic and version.
  constexpr size_t kTensorCountOffset = 8;
  File file(path);
  FileCursor cursor(file);
  GgufMetadata metadata;
  metadata.path = path;
  parse_gguf_metadata(cursor, metadata);
  std::string bytes(static_cast<size_t>(cursor.position()), '\0');
  file.read(0, bytes.data(), cursor.position());
  std::fill_n(bytes.begin() + kTensorCountOffset, sizeof(uint64_t), '\0');
  return bytes;
}

}  // namespace weft
