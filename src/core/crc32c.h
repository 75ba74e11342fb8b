// CRC-32C (Castagnoli), as TFRecord files and TensorFlow checkpoints use it, and the CRC-32 of zip archives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace weft {

/// Of "123456789" it is e3069283 (RFC 3720, B.4, has more).
uint32_t crc32c(std::string_view bytes);

/// Of bytes that come in pieces: start with 0, hand in what the piece before gave.
uint32_t extend_crc32c(uint32_t crc, const void* bytes, size_t count);

/// The same of the CRC-32 (IEEE 802.3) of zip archives. Of "123456789" it is cbf43926.
uint32_t extend_crc32(uint32_t crc, const void* bytes, size_t count);

/// As those files store it: rotated and shifted, so that a checksum of bytes with checksums is not 0.
inline uint32_t masked_crc32c(uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

}  // namespace weft
