#include "tokenizer/vocabulary.h"

#include <bit>

#include "core/error.h"
#include "tokenizer/hash.h"

namespace weft {

namespace {
// Holes in the id space that published vocabularies have are smaller by far; each costs 8 bytes.
constexpr int64_t kMaxUnusedIds = 1 << 20;
}  // namespace

StringTable::StringTable(size_t expected_entries) {
  entries_.reserve(expected_entries);
  slots_.assign(std::bit_ceil(expected_entries * 2 + 16), -1);
}

size_t StringTable::slot_of(std::string_view key, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash & mask;
  while (slots_[slot] >= 0) {
    const Entry& entry = entries_[static_cast<size_t>(slots_[slot])];
    if (entry.hash == hash && std::string_view(arena_).substr(entry.offset, entry.length) == key) break;
    slot = (slot + 1) & mask;
  }
  return slot;
}

void StringTable::set(std::string_view key, int32_t value) {
  const uint64_t hash = hash_bytes(key);
  const size_t slot = slot_of(key, hash);
  if (slots_[slot] >= 0) {
    entries_[static_cast<size_t>(slots_[slot])].value = value;
    return;
  }
  slots_[slot] = static_cast<int32_t>(entries_.size());
  entries_.push_back({.hash = hash,
                      .offset = static_cast<uint32_t>(arena_.size()),
                      .length = static_cast<uint32_t>(key.size()),
                      .value = value});
  arena_.append(key);
  if (entries_.size() * 2 > slots_.size()) grow();
}

void StringTable::grow() {
  slots_.assign(slots_.size() * 2, -1);
  const size_t mask = slots_.size() - 1;
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t slot = entries_[i].hash & mask;
    while (slots_[slot] >= 0) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<int32_t>(i);
  }
}

int32_t StringTable::find(std::string_view key) const {
  const int32_t entry = slots_[slot_of(key, hash_bytes(key))];
  return entry < 0 ? -1 : entries_[static_cast<size_t>(entry)].value;
}

void Vocabulary::add(std::string_view token, int32_t id) {
  if (id >= size()) tokens_.resize(static_cast<size_t>(id) + 1);
  Token& entry = tokens_[static_cast<size_t>(id)];
  entry.offset = static_cast<uint32_t>(arena_.size());
  entry.length = static_cast<uint32_t>(token.size());
  entry.is_used = 1;
  arena_.append(token);
  ids_.set(token, id);
}

std::string_view Vocabulary::token(int32_t id) const {
  if (!contains(id)) return {};
  const Token& entry = tokens_[static_cast<size_t>(id)];
  return std::string_view(arena_).substr(entry.offset, entry.length);
}

void check_token_id(int64_t id, size_t num_tokens, std::string_view token, const std::string& where) {
  const int64_t limit = static_cast<int64_t>(num_tokens) + kMaxUnusedIds;
  if (id >= 0 && id < limit) return;
  fail_input("{}: token '{}' has id {}, expected 0 to {} for {} tokens; the file is damaged",
             where,
             printable(token),
             id,
             limit - 1,
             num_tokens);
}

}  // namespace weft
