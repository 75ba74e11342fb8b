// How the optimizers' loops read and write weights (WeightStorage): one struct a kind, with load(i) giving the f32
// master and store(i, value) setting master and weight.
#pragma once

#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/random_blocks.h"
#include "kernels/optimizer.h"

namespace weft::WEFT_ISA {

WEFT_INLINE uint32_t bits_of(float value) {
  return __builtin_bit_cast(uint32_t, value);
}
/// Its bits with every NaN made the same one, whose mantissa survives additions to the low bits.
WEFT_INLINE uint32_t roundable_bits(float value) {
  uint32_t raw = bits_of(value);
  return (raw & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : raw;
}

template <typename T>
struct OwnStorage {
  T* weight;

  WEFT_INLINE float load(int64_t i) const { return WEFT_ISA::load(weight[i]); }
  WEFT_INLINE void store(int64_t i, float value) const { weight[i] = round_to<T>(value); }
};

struct LowBitsStorage {
  uint16_t* weight;
  int16_t* low;

  WEFT_INLINE float load(int64_t i) const {
    uint32_t high = static_cast<uint32_t>(weight[i]) << 16;
    return __builtin_bit_cast(float, high + static_cast<uint32_t>(static_cast<int32_t>(low[i])));
  }
  WEFT_INLINE void store(int64_t i, float value) const {
    uint32_t raw = roundable_bits(value);
    weight[i] = static_cast<uint16_t>((raw + 0x8000u) >> 16);
    low[i] = static_cast<int16_t>(raw);
  }
};

struct RoundedStorage {
  float* weight;
  float* master;

  WEFT_INLINE float load(int64_t i) const { return master[i]; }
  WEFT_INLINE void store(int64_t i, float value) const {
    master[i] = value;
    weight[i] = WEFT_ISA::load(round_to<bfloat16>(value));
  }
};

/// Two elements share a random word.
typedef uint16_t RandomHalf __attribute__((may_alias));

/// Element i is rounded by halves[i + shift].
struct StochasticStorage {
  uint16_t* weight;
  const RandomHalf* halves;
  int64_t shift;

  WEFT_INLINE float load(int64_t i) const { return __builtin_bit_cast(float, static_cast<uint32_t>(weight[i]) << 16); }
  WEFT_INLINE void store(int64_t i, float value) const {
    weight[i] = static_cast<uint16_t>((roundable_bits(value) + halves[i + shift]) >> 16);
  }
};

/// Calls body(storage, begin, end) for ranges over which the elements are neighbours in the parameter, each with its
/// random words in the cache.
template <typename Body>
WEFT_INLINE void with_random_words(const OptimizerWeight& weight, int64_t begin, int64_t end, const Body& body) {
  constexpr int64_t kChunk = 2048;  // eight elements a block, and one block more where neither end is at a block's
  uint32_t words[kChunk / 2 + 8];
  const ElementMap& map = weight.map;
  while (begin < end) {
    int64_t local = map.first + begin;
    int64_t column = local % map.local_width;
    auto full = static_cast<uint64_t>(local / map.local_width * map.full_width + map.offset + column);
    int64_t count = smaller(smaller(end - begin, kChunk), map.local_width - column);
    auto skipped = static_cast<int64_t>(full % 8);
    random_blocks(weight.key, full / 8, (skipped + count + 7) / 8, words);
    const auto* halves = reinterpret_cast<const RandomHalf*>(words);
    body(StochasticStorage{static_cast<uint16_t*>(weight.weight), halves, skipped - begin}, begin, begin + count);
    begin += count;
  }
}

/// Calls body(storage, begin, end) for all of the range, in one call or several.
template <typename Body>
WEFT_INLINE void with_storage(const OptimizerWeight& weight, int64_t begin, int64_t end, const Body& body) {
  switch (weight.storage) {
    case WeightStorage::own:
      if (weight.dtype == DType::bf16)
        return body(OwnStorage<bfloat16>{static_cast<bfloat16*>(weight.weight)}, begin, end);
      return body(OwnStorage<float>{static_cast<float*>(weight.weight)}, begin, end);
    case WeightStorage::low_bits:
      return body(
          LowBitsStorage{static_cast<uint16_t*>(weight.weight), static_cast<int16_t*>(weight.extra)}, begin, end);
    case WeightStorage::rounded:
      return body(RoundedStorage{static_cast<float*>(weight.weight), static_cast<float*>(weight.extra)}, begin, end);
    case WeightStorage::stochastic:
      return with_random_words(weight, begin, end, body);
  }
}

/// The same where nothing is stored at random.
template <typename Body>
WEFT_INLINE void with_exact_storage(OptimizerWeight weight, int64_t begin, int64_t end, const Body& body) {
  if (weight.storage == WeightStorage::stochastic) weight.storage = WeightStorage::own;
  with_storage(weight, begin, end, body);
}

}  // namespace weft::WEFT_ISA
