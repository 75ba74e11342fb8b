// Index files of TensorFlow checkpoints built by hand, right or wrong, with checksums that are right.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/crc32c.h"

namespace weft {

inline std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>((value & 0x7F) | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

inline std::string fixed32(uint32_t value) {
  std::string bytes;
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

/// An entry of a block: `shared` bytes of the key before and `rest` are the key.
inline std::string block_entry(uint64_t shared, std::string_view rest, std::string_view value) {
  return varint(shared) + varint(rest.size()) + varint(value.size()) + std::string(rest) + std::string(value);
}

/// A block's contents: entries and where restarts are.
inline std::string block_contents(const std::string& entries, const std::vector<uint32_t>& restarts = {0}) {
  std::string contents = entries;
  for (uint32_t restart : restarts) contents += fixed32(restart);
  return contents + fixed32(static_cast<uint32_t>(restarts.size()));
}

inline std::string trailer(std::string_view contents, char type = 0) {
  return type + fixed32(masked_crc32c(crc32c(std::string(contents) + type)));
}

/// A file of data blocks with these contents.
inline std::string index_file(const std::vector<std::string>& blocks, char type = 0) {
  std::string file, handles;
  std::vector<uint32_t> restarts;
  for (size_t i = 0; i < blocks.size(); ++i) {
    restarts.push_back(static_cast<uint32_t>(handles.size()));
    handles += block_entry(0, "k" + std::to_string(i), varint(file.size()) + varint(blocks[i].size()));
    file += blocks[i] + trailer(blocks[i], type);
  }
  std::string footer;
  for (const std::string& contents : {block_contents(""), block_contents(handles, restarts)}) {
    footer += varint(file.size()) + varint(contents.size());
    file += contents + trailer(contents);
  }
  footer.resize(40, '\0');
  return file + footer + "\x57\xfb\x80\x8b\x24\x75\x47\xdb";
}

}  // namespace weft
