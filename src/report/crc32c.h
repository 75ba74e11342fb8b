// CRC-32C (Castagnoli), as TFRecord files use it.
#pragma once

#include <cstdint>
#include <string_view>

namespace weft {

/// Of "123456789" it is e3069283 (RFC 3720, B.4, has more).
uint32_t crc32c(std::string_view bytes);

}  // namespace weft
