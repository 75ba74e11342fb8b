// Checksums of whole files.
#pragma once

#include <string>

namespace weft {

/// XXH3-128 of a file's content as 32 hexadecimal digits, in its canonical byte order, as `xxhsum -H128` prints it.
/// Throws Error(bad_input).
std::string file_checksum(const std::string& path);

}  // namespace weft
