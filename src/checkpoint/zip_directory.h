// The directory of a zip archive whose records are stored as they are (format document: PKWARE's APPNOTE.TXT).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/file.h"

namespace weft {

/// A file in the archive: `size` bytes at `offset`.
struct ZipRecord {
  std::string name;
  int64_t offset = 0;
  int64_t size = 0;
  uint32_t crc32 = 0;  // 0: none was taken, as torch.save does when told so
};

/// The records sorted by name, each inside the file and none sharing a byte with another. Throws Error(bad_input); a
/// compressed or encrypted record, a comment at the end and a second disk are refused.
std::vector<ZipRecord> read_zip_directory(const File& file);

/// Null when there is no such record. `records` are sorted by name.
const ZipRecord* find_zip_record(const std::vector<ZipRecord>& records, std::string_view name);

}  // namespace weft
