// A shuffled order that takes no memory: a bijection of 0 … size − 1, computed for one index at a time.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "core/random.h"

namespace weft {

/// Names an order of a run.
struct PermutationKey {
  uint64_t seed = 0;
  uint32_t epoch = 0;
  uint32_t source = 0;
  uint32_t purpose = 0;  // documents and rows of an epoch are shuffled each in their own way
};

/// A Feistel network on the next power of four, walked until the result lies within (Black and Rogaway, "Ciphers with
/// arbitrary finite domains", 2002): at most four steps on average.
class Permutation {
 public:
  Permutation(const PermutationKey& key, uint64_t size) : size_(size) {
    half_bits_ = static_cast<int>((std::bit_width(size > 1 ? size - 1 : 1) + 1) / 2);
    for (uint32_t round = 0; round < kRounds; ++round) {
      const auto numbers = philox4x32({round, key.epoch, key.source, key.purpose},
                                      {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)});
      round_keys_[round] = uint64_t{numbers[0]} << 32 | numbers[1];
    }
  }

  /// `index` must be less than the size, and so is the result.
  uint64_t operator()(uint64_t index) const {
    do index = encrypt(index);
    while (index >= size_);
    return index;
  }

 private:
  static constexpr uint32_t kRounds = 6;

  uint64_t encrypt(uint64_t value) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (const uint64_t key : round_keys_) {
      const uint64_t next = left ^ (scramble(right ^ key) & mask);
      left = right;
      right = next;
    }
    return left << half_bits_ | right;
  }

  static uint64_t scramble(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
    return value ^ (value >> 31);
  }

  uint64_t size_;
  int half_bits_;
  std::array<uint64_t, kRounds> round_keys_ = {};
};

}  // namespace weft
