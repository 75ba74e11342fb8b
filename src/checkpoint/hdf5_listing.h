// What the child process that opens an HDF5 file tells its parent, as bytes in a pipe. The parent trusts none of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/hdf5_file.h"

namespace weft {

constexpr int64_t kMaxInlineBytes = 64 << 10;              // HDF5's own limit for a compact dataset
constexpr size_t kMaxHdf5ListingBytes = size_t{64} << 20;  // a dataset takes about 100

/// Everything that is known of a file after the scan.
struct Hdf5Listing {
  std::vector<Hdf5Dataset> datasets;  // sorted by path
  std::map<std::string, Hdf5Attributes, std::less<>> group_attributes;
  std::map<std::string, std::vector<uint8_t>, std::less<>> inline_bytes;  // values of compact datasets, by path
};

/// The child's side. Writes through a buffer; exits the process when the pipe breaks.
class Hdf5ListingWriter {
 public:
  explicit Hdf5ListingWriter(int descriptor) : descriptor_(descriptor) {}

  void add_group(const std::string& path, const Hdf5Attributes& attributes);
  void add_dataset(const Hdf5Dataset& dataset, const std::vector<uint8_t>& inline_bytes);
  /// The listing is complete, or (with a message) the file can't be used. Nothing may follow.
  void finish();
  void finish_with_error(std::string_view message);

 private:
  template <typename T>
  void put(const T& value);
  void put_string(std::string_view text);
  void put_attributes(const Hdf5Attributes& attributes);
  void flush();

  int descriptor_;
  std::string buffer_;
};

/// The parent's side: parses the bytes of a finished child. Throws Error(bad_input) naming `path` when they are
/// incomplete, malformed or end with the child's error message.
Hdf5Listing parse_hdf5_listing(std::string_view bytes, const std::string& path);

}  // namespace weft
