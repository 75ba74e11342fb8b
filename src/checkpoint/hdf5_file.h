// HDF5 files read with care: the library is asked for metadata only, in another process with limits on memory and time,
// which yields every contiguous dataset's place in the file; the bytes are then read like any other file's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace weft {

using Hdf5Attribute = std::variant<std::string, double, int64_t, std::vector<double>, std::vector<int64_t>>;
using Hdf5Attributes = std::map<std::string, Hdf5Attribute, std::less<>>;

struct Hdf5Dataset {
  std::string path;     // without a leading slash: "layers/dense/vars/0"
  Shape shape;          // rank 0 for a scalar
  DType dtype;          // an opaque 2-byte type with attribute dtype="bfloat16" is bf16
  int64_t file_offset;  // -1 when the dataset has no bytes (never written or empty)
  Hdf5Attributes attributes;
};

class Hdf5File {
 public:
  /// Throws Error(bad_input) when the file is no HDF5, damaged, or asks for anything but contiguous plain datasets.
  static std::shared_ptr<const Hdf5File> open(const std::string& path);
  virtual ~Hdf5File() = default;

  virtual const std::string& path() const = 0;
  /// All datasets, sorted by path. Datasets of types other than Weft's dtypes (strings, compounds) are left out.
  virtual const std::vector<Hdf5Dataset>& datasets() const = 0;
  virtual const Hdf5Dataset* find(std::string_view path) const = 0;
  /// Attributes of a group or dataset ("" is the root); empty when it has none.
  virtual const Hdf5Attributes& attributes(std::string_view path) const = 0;
  /// Reads a whole dataset, converted to T (float, double, int32_t, int64_t) from any numeric dtype.
  virtual void read(const Hdf5Dataset& dataset, void* into, DType dtype) const = 0;

  template <typename T>
  std::vector<T> read_all(const Hdf5Dataset& dataset) const {
    std::vector<T> values(static_cast<size_t>(dataset.shape.num_elements()));
    read(dataset, values.data(), DTypeOf<T>::value);
    return values;
  }
};

}  // namespace weft
