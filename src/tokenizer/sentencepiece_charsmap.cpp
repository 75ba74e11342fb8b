#include "tokenizer/sentencepiece_charsmap.h"

#include <cstdint>
#include <cstring>

#include "core/error.h"

namespace weft {

namespace {

// A unit's children lie at (its index ^ its offset ^ byte), so they share a block of 256 units.
constexpr size_t kUnitsABlock = 256;

uint32_t read_u32(std::string_view bytes, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

struct Unit {
  uint32_t bits;
  bool is_value() const { return bits >> 31 != 0; }
  bool has_value_child() const { return (bits >> 8 & 1) != 0; }
  uint32_t value() const { return bits & 0x7FFFFFFF; }
  uint32_t offset() const { return (bits >> 10) << ((bits & (1U << 9)) >> 6); }
};

}  // namespace

void validate_charsmap(std::string_view charsmap, const std::string& where) {
  if (charsmap.empty()) return;
  const auto refuse = [&](const char* what) {
    fail_input("{}: the normalization table (precompiled_charsmap) is damaged: {}", where, what);
  };
  if (charsmap.size() < 4) refuse("shorter than its header");
  const size_t trie_bytes = read_u32(charsmap, 0);
  if (trie_bytes == 0 || trie_bytes >= charsmap.size() - 4) refuse("its trie is larger than the table");
  if (trie_bytes % (4 * kUnitsABlock) != 0) refuse("its trie is not made of whole blocks");
  const std::string_view trie = charsmap.substr(4, trie_bytes);
  const std::string_view replacements = charsmap.substr(4 + trie_bytes);
  if (replacements.back() != '\0') refuse("its last replacement has no end");
  const size_t num_units = trie_bytes / 4;
  for (size_t i = 0; i < num_units; ++i) {
    const Unit unit{read_u32(trie, i * 4)};
    if (unit.is_value()) continue;  // never entered: no byte matches its label
    const size_t children = i ^ unit.offset();
    if (children >= num_units) refuse("an offset leads out of its trie");
    if (!unit.has_value_child()) continue;
    const Unit value{read_u32(trie, children * 4)};
    if (value.value() >= replacements.size()) refuse("a replacement lies outside the table");
  }
}

}  // namespace weft
