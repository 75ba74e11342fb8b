// Words seen lately and their ids: natural text repeats its words, so that most of them cost one cache line.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/hash.h"

namespace weft {

/// A fixed-size two-way table; a new word replaces an old one. Not thread-safe.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 24;
  static constexpr size_t kMaxIds = 9;

  struct Key {
    std::array<uint64_t, 3> words{};
    uint64_t hash = 0;
    uint8_t length = 0;
  };
  struct alignas(64) Slot {
    std::array<uint64_t, 3> words;
    std::array<int32_t, kMaxIds> ids;
    uint8_t length;  // 0: free
    uint8_t num_ids;
  };

  WordCache() : slots_(kNumSlots) {}

  /// 0 < word.size() <= kMaxWordBytes; memory up to `readable_end` may be read.
  static Key make_key(std::string_view word, const char* readable_end) {
    Key key;
    key.length = static_cast<uint8_t>(word.size());
    if (readable_end - word.data() >= static_cast<std::ptrdiff_t>(kMaxWordBytes)) {
      std::memcpy(key.words.data(), word.data(), kMaxWordBytes);
      for (size_t i = 0; i < 3; ++i) key.words[i] &= mask(word.size(), i);
    } else {
      std::memcpy(key.words.data(), word.data(), word.size());
    }
    key.hash = mix_hash(key.words[0] ^ key.length, key.words[1] + 0x9E3779B97F4A7C15ULL * key.words[2]);
    return key;
  }

  /// Null when the word is not there.
  const Slot* find(const Key& key) const {
    const Slot& first = slots_[key.hash % kNumSlots];
    if (matches(first, key)) return &first;
    const Slot& second = slots_[(key.hash % kNumSlots) ^ 1];
    return matches(second, key) ? &second : nullptr;
  }

  void insert(const Key& key, std::span<const int32_t> ids) {
    if (ids.size() > kMaxIds) return;
    const size_t home = key.hash % kNumSlots;
    const bool use_other = slots_[home].length != 0 && (slots_[home ^ 1].length == 0 || (key.hash >> 63) != 0);
    Slot& slot = slots_[use_other ? home ^ 1 : home];
    slot.words = key.words;
    slot.length = key.length;
    slot.num_ids = static_cast<uint8_t>(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) slot.ids[i] = ids[i];
  }

 private:
  static constexpr size_t kNumSlots = size_t{1} << 15;  // 2 MiB: about what a core's own cache holds

  static uint64_t mask(size_t length, size_t word) {
    if (length >= (word + 1) * 8) return ~uint64_t{0};
    return length <= word * 8 ? 0 : (uint64_t{1} << ((length - word * 8) * 8)) - 1;
  }
  static bool matches(const Slot& slot, const Key& key) { return slot.length == key.length && slot.words == key.words; }

  std::vector<Slot> slots_;
};

}  // namespace weft
