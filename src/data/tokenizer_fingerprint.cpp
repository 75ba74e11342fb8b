#include "data/tokenizer_fingerprint.h"

#include <algorithm>
#include <array>

#include "data/token_file_format.h"

namespace weft {

uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer) {
  // Merges and normalization show in how words fall apart.
  constexpr std::array<std::string_view, 3> kProbes = {
      "The quick brown fox jumps over 13 lazy dogs.\n\n  Isn't it?\t",
      "Se\xC3\xB1or M\xC3\xBCller \xE6\x9D\xB1\xE4\xBA\xAC \xD0\x9C\xD0\xBE\xD1\x81\xD0\xBA\xD0\xB2\xD0\xB0 "
      "\xF0\x9F\x99\x82",
      "int main() { return x->y[0] != 0x7F; }  // internationalization, antidisestablishmentarianism"};
  uint64_t hash = static_cast<uint64_t>(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) hash = checksum_bytes(tokenizer.id_to_token(id), hash);
  for (const std::string_view probe : kProbes) {
    const std::vector<int32_t> ids = tokenizer.encode(probe, false);
    hash = checksum_bytes({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)}, hash);
  }
  return std::max<uint64_t>(hash, 1);
}

}  // namespace weft
