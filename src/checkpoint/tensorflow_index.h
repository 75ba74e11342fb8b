// The .index file of a TensorFlow checkpoint: a sorted table of keys and values in the format of LevelDB (its
// doc/table_format.md), uncompressed.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace weft {

/// All entries in order. Throws Error(bad_input) for a file that is damaged, compressed or out of order; nothing larger
/// than the file is allocated.
std::vector<std::pair<std::string, std::string>> read_tensorflow_index(const std::string& path);

/// The bytes of a file with these entries, which must be sorted by key. TensorFlow writes the same.
std::string tensorflow_index_bytes(const std::vector<std::pair<std::string, std::string>>& entries);

}  // namespace weft
