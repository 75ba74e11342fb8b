#include "checkpoint/hdf5_scan.h"

#define H5_USE_110_API
#include <fmt/format.h>
#include <hdf5.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>

#include "core/error.h"

namespace weft {
namespace {

constexpr int kMaxDepth = 128;
constexpr size_t kMaxLinks = size_t{1} << 18;
constexpr size_t kMaxNameBytes = 4096;
constexpr size_t kMaxAttributeBytes = size_t{1} << 20;

struct ScanError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An HDF5 identifier, closed with its own function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what) : id_(id), close_(close) {
    if (id < 0) throw ScanError(fmt::format("HDF5 can't read {}; damaged file", what));
  }
  ~Handle() { close_(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void check(bool is_good, const std::string& what) {
  if (!is_good) throw ScanError(fmt::format("HDF5 can't read {}; damaged file", what));
}

bool is_half(hid_t type, size_t exponent_bits, size_t exponent_bias) {
  size_t sign = 0, exponent = 0, exponent_size = 0, mantissa = 0, mantissa_size = 0;
  return H5Tget_size(type) == 2 && H5Tget_order(type) == H5T_ORDER_LE &&
         H5Tget_fields(type, &sign, &exponent, &exponent_size, &mantissa, &mantissa_size) >= 0 && sign == 15 &&
         exponent_size == exponent_bits && exponent == 15 - exponent_bits && mantissa == 0 &&
         mantissa_size == 15 - exponent_bits && H5Tget_ebias(type) == exponent_bias;
}

bool says_bfloat16(const Hdf5Attributes& attributes) {
  auto found = attributes.find("dtype");
  return found != attributes.end() && found->second == Hdf5Attribute(std::string("bfloat16"));
}

// Weft's dtype of an HDF5 type, or nothing for those that are left out.
std::optional<DType> find_dtype(hid_t type, const Hdf5Attributes& attributes) {
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      if (H5Tequal(type, H5T_IEEE_F32LE) > 0) return DType::f32;
      if (H5Tequal(type, H5T_IEEE_F64LE) > 0) return DType::f64;
      if (is_half(type, 5, 15)) return DType::f16;
      if (is_half(type, 8, 127)) return DType::bf16;
      return std::nullopt;
    case H5T_INTEGER:
      if (H5Tequal(type, H5T_STD_I32LE) > 0) return DType::i32;
      if (H5Tequal(type, H5T_STD_I64LE) > 0) return DType::i64;
      if (H5Tequal(type, H5T_STD_U8LE) > 0) return DType::u8;
      return std::nullopt;
    case H5T_ENUM:  // h5py's booleans
      return H5Tget_size(type) == 1 ? std::optional(DType::u8) : std::nullopt;
    case H5T_OPAQUE:
      return H5Tget_size(type) == 2 && says_bfloat16(attributes) ? std::optional(DType::bf16) : std::nullopt;
    default:
      return std::nullopt;
  }
}

std::string read_string_attribute(hid_t attribute, hid_t type, const std::string& what) {
  if (H5Tis_variable_str(type) > 0) {
    char* text = nullptr;
    check(H5Aread(attribute, type, &text) >= 0, what);
    std::string value(text ? text : "");
    H5free_memory(text);
    return value;
  }
  size_t size = H5Tget_size(type);
  check(size > 0 && size <= kMaxAttributeBytes, what);
  std::string value(size, '\0');
  check(H5Aread(attribute, type, value.data()) >= 0, what);
  value.resize(strnlen(value.data(), size));
  if (H5Tget_strpad(type) == H5T_STR_SPACEPAD) value.erase(value.find_last_not_of(' ') + 1);
  return value;
}

template <typename T>
Hdf5Attribute read_number_attribute(
    hid_t attribute, hid_t memory_type, size_t count, bool is_scalar, const std::string& what) {
  std::vector<T> values(count);
  check(H5Aread(attribute, memory_type, values.data()) >= 0, what);
  if (is_scalar) return values.at(0);
  return values;
}

// Nothing for kinds that an Hdf5Attribute doesn't hold (arrays of strings, compounds, references).
std::optional<Hdf5Attribute> read_attribute(hid_t attribute, const std::string& what) {
  Handle type(H5Aget_type(attribute), H5Tclose, what);
  Handle space(H5Aget_space(attribute), H5Sclose, what);
  H5S_class_t space_class = H5Sget_simple_extent_type(space);
  hssize_t count = H5Sget_simple_extent_npoints(space);
  check(count >= 0 && static_cast<uint64_t>(count) <= kMaxAttributeBytes / sizeof(double), what);
  if (space_class == H5S_NULL || count == 0) return std::nullopt;
  bool is_scalar = space_class == H5S_SCALAR;
  size_t num_values = static_cast<size_t>(count);
  switch (H5Tget_class(type)) {
    case H5T_STRING:
      if (count != 1) return std::nullopt;
      return read_string_attribute(attribute, type, what);
    case H5T_FLOAT:
      return read_number_attribute<double>(attribute, H5T_NATIVE_DOUBLE, num_values, is_scalar, what);
    case H5T_INTEGER:
    case H5T_ENUM:
      return read_number_attribute<int64_t>(attribute, H5T_NATIVE_INT64, num_values, is_scalar, what);
    default:
      return std::nullopt;
  }
}

// Names are only collected in the library's callbacks: an exception must not cross it.
herr_t collect_link(hid_t, const char* name, const H5L_info_t* info, void* names) {
  auto* list = static_cast<std::vector<std::string>*>(names);
  if (info->type == H5L_TYPE_HARD) list->emplace_back(name);
  return list->size() > kMaxLinks ? -1 : 0;
}

herr_t collect_attribute(hid_t, const char* name, const H5A_info_t*, void* names) {
  auto* list = static_cast<std::vector<std::string>*>(names);
  list->emplace_back(name);
  return list->size() > kMaxLinks ? -1 : 0;
}

class Scanner {
 public:
  explicit Scanner(Hdf5ListingWriter& writer) : writer_(writer) {}

  void scan_group(hid_t group, const std::string& path, int depth) {
    std::string what = fmt::format("group /{}", printable(path));
    if (depth > kMaxDepth)
      throw ScanError(fmt::format("{}: groups nest deeper than {}; damaged file", what, kMaxDepth));
    writer_.add_group(path, read_attributes(group, what));
    std::vector<std::string> names;
    check(H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_link, &names) >= 0, what);
    num_links_ += names.size();
    if (num_links_ > kMaxLinks)
      throw ScanError(fmt::format("more than {} groups and datasets; damaged file", kMaxLinks));
    std::string prefix = path.empty() ? "" : fmt::format("{}/", path);
    for (const std::string& name : names) scan_object(group, name, prefix + name, depth);
  }

 private:
  void scan_object(hid_t parent, const std::string& name, const std::string& path, int depth) {
    std::string what = fmt::format("/{}", printable(path));
    if (path.size() > kMaxNameBytes) throw ScanError(what + ": path too long; damaged file");
    Handle object(H5Oopen(parent, name.c_str(), H5P_DEFAULT), H5Oclose, what);
    H5I_type_t kind = H5Iget_type(object);
    if (kind == H5I_GROUP) scan_group(object, path, depth + 1);
    if (kind == H5I_DATASET) scan_dataset(object, path);
  }

  Hdf5Attributes read_attributes(hid_t object, const std::string& what) {
    std::vector<std::string> names;
    check(H5Aiterate(object, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, collect_attribute, &names) >= 0, what);
    Hdf5Attributes attributes;
    for (const std::string& name : names) {
      std::string attribute_what = fmt::format("attribute {} of {}", printable(name), what);
      Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, attribute_what);
      std::optional<Hdf5Attribute> value = read_attribute(attribute, attribute_what);
      if (value) attributes[name] = std::move(*value);
    }
    return attributes;
  }

  void scan_dataset(hid_t dataset, const std::string& path) {
    std::string what = fmt::format("dataset /{}", printable(path));
    Hdf5Dataset found{.path = path, .shape = {}, .dtype = DType::f32, .file_offset = -1, .attributes = {}};
    found.attributes = read_attributes(dataset, what);
    Handle type(H5Dget_type(dataset), H5Tclose, what);
    Handle space(H5Dget_space(dataset), H5Sclose, what);
    std::optional<DType> dtype = find_dtype(type, found.attributes);
    if (!dtype || H5Sget_simple_extent_type(space) == H5S_NULL) return;
    found.dtype = *dtype;
    found.shape = read_shape(space, what);
    std::vector<uint8_t> inline_bytes;
    if (H5Sget_simple_extent_npoints(space) != 0) locate(dataset, type, what, found, inline_bytes);
    writer_.add_dataset(found, inline_bytes);
  }

  Shape read_shape(hid_t space, const std::string& what) {
    int rank = H5Sget_simple_extent_ndims(space);
    if (rank < 0 || rank > Shape::kMaxRank) {
      throw ScanError(fmt::format("{} has {} dimensions, at most {} expected", what, rank, Shape::kMaxRank));
    }
    std::array<hsize_t, Shape::kMaxRank> dims{};
    std::array<int64_t, Shape::kMaxRank> signed_dims{};
    check(H5Sget_simple_extent_dims(space, dims.data(), nullptr) >= 0, what);
    for (size_t i = 0; i < static_cast<size_t>(rank); ++i) {
      check(dims[i] <= static_cast<hsize_t>(std::numeric_limits<int64_t>::max()), what);
      signed_dims[i] = static_cast<int64_t>(dims[i]);
    }
    return Shape(signed_dims.data(), signed_dims.data() + rank);
  }

  void locate(
      hid_t dataset, hid_t type, const std::string& what, Hdf5Dataset& found, std::vector<uint8_t>& inline_bytes) {
    Handle properties(H5Dget_create_plist(dataset), H5Pclose, what);
    H5D_layout_t layout = H5Pget_layout(properties);
    if (layout == H5D_COMPACT) {
      hsize_t bytes = H5Dget_storage_size(dataset);
      check(bytes > 0 && bytes <= static_cast<hsize_t>(kMaxInlineBytes), what);
      check(bytes == static_cast<hsize_t>(found.shape.num_elements()) * dtype_bytes(found.dtype), what);
      inline_bytes.resize(static_cast<size_t>(bytes));
      check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, inline_bytes.data()) >= 0, what);
      return;
    }
    if (layout != H5D_CONTIGUOUS || H5Pget_external_count(properties) != 0) {
      throw ScanError(what +
                      " is chunked, compressed or stored elsewhere; write it contiguously (h5py: no chunks, "
                      "compression or maxshape)");
    }
    haddr_t offset = H5Dget_offset(dataset);
    if (offset == HADDR_UNDEF) return;
    check(offset <= static_cast<haddr_t>(std::numeric_limits<int64_t>::max()), what);
    found.file_offset = static_cast<int64_t>(offset);
  }

  Hdf5ListingWriter& writer_;
  size_t num_links_ = 0;
};

void scan_file(const std::string& path, Hdf5ListingWriter& writer) {
  // A read-only open needs no lock, and some file systems have none.
  ::setenv("HDF5_USE_FILE_LOCKING", "FALSE", 1);
  H5Eset_auto(H5E_DEFAULT, nullptr, nullptr);
  H5PLset_loading_state(0);  // no filter plugins from the environment
  Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "it");
  Handle root(H5Gopen(file, "/", H5P_DEFAULT), H5Gclose, "the root group");
  Scanner(writer).scan_group(root, "", 0);
}

}  // namespace

void scan_hdf5(const std::string& path, Hdf5ListingWriter& writer) {
  try {
    scan_file(path, writer);
    writer.finish();
  } catch (const std::exception& error) {
    writer.finish_with_error(error.what());
  }
}

}  // namespace weft
