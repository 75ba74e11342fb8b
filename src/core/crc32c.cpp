#include "core/crc32c.h"

#include <array>
#include <cstring>

namespace weft {
namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

/// Table k advances a byte that stands k bytes before the end of a group of eight.
constexpr Tables make_tables(uint32_t reversed_polynomial) {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? reversed_polynomial : 0);
    tables[0][byte] = remainder;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

constexpr Tables kCastagnoli = make_tables(0x82F63B78);
constexpr Tables kIeee = make_tables(0xEDB88320);

uint32_t extend(const Tables& tables, uint32_t crc, const void* bytes, size_t count) {
  const auto* at = static_cast<const unsigned char*>(bytes);
  uint32_t remainder = ~crc;
  for (; count >= 8; count -= 8, at += 8) {
    uint64_t group;
    std::memcpy(&group, at, 8);
    group ^= remainder;
    remainder = 0;
    for (size_t k = 0; k < 8; ++k) remainder ^= tables[7 - k][(group >> (8 * k)) & 0xFF];
  }
  for (; count > 0; --count, ++at) remainder = (remainder >> 8) ^ tables[0][(remainder ^ *at) & 0xFF];
  return ~remainder;
}

}  // namespace

uint32_t extend_crc32c(uint32_t crc, const void* bytes, size_t count) {
  return extend(kCastagnoli, crc, bytes, count);
}

uint32_t extend_crc32(uint32_t crc, const void* bytes, size_t count) {
  return extend(kIeee, crc, bytes, count);
}

uint32_t crc32c(std::string_view bytes) {
  return extend_crc32c(0, bytes.data(), bytes.size());
}

}  // namespace weft
