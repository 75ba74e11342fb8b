#include "checkpoint/hdf5_listing.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "checkpoint/storage_type.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr size_t kFlushBytes = 64 << 10;
constexpr uint8_t kNumDTypes = 7;

enum class Record : uint8_t { group, dataset, end, error };

// The child runs the same binary on the same machine: values cross the pipe as they lie in memory.
class ListingParser {
 public:
  ListingParser(std::string_view bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  Hdf5Listing parse() {
    Hdf5Listing listing;
    for (;;) {
      switch (get<Record>()) {
        case Record::group: {
          std::string path = get_string();
          listing.group_attributes[path] = get_attributes();
          break;
        }
        case Record::dataset:
          parse_dataset(listing);
          break;
        case Record::end:
          std::sort(listing.datasets.begin(), listing.datasets.end(), [](const Hdf5Dataset& a, const Hdf5Dataset& b) {
            return a.path < b.path;
          });
          return listing;
        case Record::error:
          fail_input("{}: {}", printable(path_), printable(get_string(), 400));
        default:
          malformed();
      }
    }
  }

 private:
  [[noreturn]] void malformed() const {
    fail_input("{}: not readable as HDF5; damaged or truncated", printable(path_));
  }

  std::string_view take(size_t count) {
    if (count > bytes_.size()) malformed();
    std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }

  template <typename T>
  T get() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string get_string() { return std::string(take(get<uint32_t>())); }

  template <typename T>
  std::vector<T> get_array() {
    std::string_view data = take(size_t{get<uint32_t>()} * sizeof(T));
    std::vector<T> values(data.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), data.data(), data.size());
    return values;
  }

  Hdf5Attributes get_attributes() {
    Hdf5Attributes attributes;
    for (uint32_t left = get<uint32_t>(); left > 0; --left) {
      std::string name = get_string();
      attributes[name] = get_attribute();
    }
    return attributes;
  }

  Hdf5Attribute get_attribute() {
    switch (get<uint8_t>()) {
      case 0:
        return get_string();
      case 1:
        return get<double>();
      case 2:
        return get<int64_t>();
      case 3:
        return get_array<double>();
      case 4:
        return get_array<int64_t>();
      default:
        malformed();
    }
  }

  void parse_dataset(Hdf5Listing& listing) {
    Hdf5Dataset dataset;
    dataset.path = get_string();
    std::vector<int64_t> dims = get_array<int64_t>();
    uint8_t dtype = get<uint8_t>();
    if (dims.size() > static_cast<size_t>(Shape::kMaxRank) || dtype >= kNumDTypes) malformed();
    dataset.dtype = static_cast<DType>(dtype);
    StorageType plain{dtype_name(dataset.dtype), dataset.dtype, 1, static_cast<int64_t>(dtype_bytes(dataset.dtype))};
    if (!stored_bytes(dims, plain)) malformed();
    dataset.shape = Shape(dims.data(), dims.data() + dims.size());
    dataset.file_offset = get<int64_t>();
    dataset.attributes = get_attributes();
    std::vector<uint8_t> inline_bytes = get_array<uint8_t>();
    if (!inline_bytes.empty()) listing.inline_bytes[dataset.path] = std::move(inline_bytes);
    listing.datasets.push_back(std::move(dataset));
  }

  std::string_view bytes_;
  const std::string& path_;
};

}  // namespace

template <typename T>
void Hdf5ListingWriter::put(const T& value) {
  buffer_.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void Hdf5ListingWriter::put_string(std::string_view text) {
  put(static_cast<uint32_t>(text.size()));
  buffer_.append(text);
}

void Hdf5ListingWriter::put_attributes(const Hdf5Attributes& attributes) {
  put(static_cast<uint32_t>(attributes.size()));
  for (const auto& [name, value] : attributes) {
    put_string(name);
    put(static_cast<uint8_t>(value.index()));
    std::visit(
        [this]<typename T>(const T& held) {
          if constexpr (std::is_arithmetic_v<T>) {
            put(held);
          } else {
            put(static_cast<uint32_t>(held.size()));
            buffer_.append(reinterpret_cast<const char*>(held.data()), held.size() * sizeof(held[0]));
          }
        },
        value);
  }
}

void Hdf5ListingWriter::add_group(const std::string& path, const Hdf5Attributes& attributes) {
  put(Record::group);
  put_string(path);
  put_attributes(attributes);
  if (buffer_.size() > kFlushBytes) flush();
}

void Hdf5ListingWriter::add_dataset(const Hdf5Dataset& dataset, const std::vector<uint8_t>& inline_bytes) {
  put(Record::dataset);
  put_string(dataset.path);
  put(static_cast<uint32_t>(dataset.shape.rank()));
  for (int64_t dim : dataset.shape) put(dim);
  put(static_cast<uint8_t>(dataset.dtype));
  put(dataset.file_offset);
  put_attributes(dataset.attributes);
  put_string({reinterpret_cast<const char*>(inline_bytes.data()), inline_bytes.size()});
  if (buffer_.size() > kFlushBytes) flush();
}

void Hdf5ListingWriter::finish() {
  put(Record::end);
  flush();
}

void Hdf5ListingWriter::finish_with_error(std::string_view message) {
  put(Record::error);
  put_string(message);
  flush();
}

void Hdf5ListingWriter::flush() {
  for (std::string_view left = buffer_; !left.empty();) {
    ssize_t written = ::write(descriptor_, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) ::_exit(1);
    left.remove_prefix(static_cast<size_t>(written));
  }
  buffer_.clear();
}

Hdf5Listing parse_hdf5_listing(std::string_view bytes, const std::string& path) {
  return ListingParser(bytes, path).parse();
}

}  // namespace weft
