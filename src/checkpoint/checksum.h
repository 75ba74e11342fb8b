// Checksums of whole files.
#pragma once

#include <cstdint>
#include <string>

namespace weft {

class CheckpointReader;

/// XXH3-128 of a file's content as 32 hexadecimal digits, in its canonical byte order, as `xxhsum -H128` prints it.
/// Throws Error(bad_input).
std::string file_checksum(const std::string& path);

/// What tells a model's weights from those of another one of the same shape: of every tensor its name, its shape and a
/// few of its values. The same for a copy elsewhere, in files of other sizes or in a type that holds the same values.
/// Never 0. Throws Error(bad_input).
uint64_t weights_fingerprint(const CheckpointReader& reader);

}  // namespace weft
