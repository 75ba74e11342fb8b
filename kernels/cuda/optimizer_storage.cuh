// How the optimizers' kernels read and write weights (WeightStorage): one struct a kind, with load<N>(i, values) giving
// the f32 masters of N neighbours and store<N>(i, values) setting masters and weights, to the bit as on the CPU.
#pragma once

#include <limits>

#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/random.cuh"
#include "kernels/optimizer.h"

namespace weft::cuda {

/// Elements that an optimizer's thread takes at a time: 16 bytes of bf16, and those that share a block of random
/// numbers.
inline constexpr int kOptimizerPack = 8;

/// The bits of a value with every NaN made the same one, whose mantissa survives additions to the low bits.
__device__ __forceinline__ uint32_t roundable_bits(float value) {
  uint32_t raw = __float_as_uint(value);
  return (raw & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : raw;
}

template <typename T>
struct OwnStorage {
  T* weight;

  bool fits() const { return packs_fit(weight, kOptimizerPack); }
  template <int N>
  __device__ __forceinline__ void load(int64_t i, float (&values)[N]) const {
    load_floats(weight + i, values);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i, const float (&values)[N]) const {
    store_floats(weight + i, values);
  }
};

struct LowBitsStorage {
  uint16_t* weight;
  int16_t* low;

  bool fits() const { return packs_fit(weight, kOptimizerPack) && packs_fit(low, kOptimizerPack); }
  template <int N>
  __device__ __forceinline__ void load(int64_t i, float (&values)[N]) const {
    uint16_t high_bits[N];
    int16_t low_bits[N];
    load_pack(weight + i, high_bits);
    load_pack(low + i, low_bits);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      uint32_t high = static_cast<uint32_t>(high_bits[k]) << 16;
      values[k] = __uint_as_float(high + static_cast<uint32_t>(static_cast<int32_t>(low_bits[k])));
    }
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i, const float (&values)[N]) const {
    uint16_t high_bits[N];
    int16_t low_bits[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
      uint32_t raw = roundable_bits(values[k]);
      high_bits[k] = static_cast<uint16_t>((raw + 0x8000u) >> 16);
      low_bits[k] = static_cast<int16_t>(static_cast<uint16_t>(raw));
    }
    store_pack(weight + i, high_bits);
    store_pack(low + i, low_bits);
  }
};

struct RoundedStorage {
  float* weight;
  float* master;

  bool fits() const { return packs_fit(weight, kOptimizerPack) && packs_fit(master, kOptimizerPack); }
  template <int N>
  __device__ __forceinline__ void load(int64_t i, float (&values)[N]) const {
    load_floats(master + i, values);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i, const float (&values)[N]) const {
    float rounded[N];
#pragma unroll
    for (int k = 0; k < N; ++k) rounded[k] = to_float(from_float<bf16>(values[k]));
    store_floats(master + i, values);
    store_floats(weight + i, rounded);
  }
};

inline bool has_gaps(const ElementMap& map) {
  return map.local_width != map.full_width;
}

/// A map without gaps as one row, so that run_length() does not end at rows that do not matter.
inline ElementMap merged(const ElementMap& map) {
  ElementMap result = map;
  if (map.local_width == map.full_width) result.local_width = result.full_width = std::numeric_limits<int64_t>::max();
  return result;
}

/// Element e of the parameter is rounded by the (e % 2)-th half of key.bits(e / 2).
struct StochasticStorage {
  uint16_t* weight;
  ElementMap map;
  RandomKey key;
  bool map_has_gaps;

  bool fits() const { return packs_fit(weight, kOptimizerPack); }
  template <int N>
  __device__ __forceinline__ void load(int64_t i, float (&values)[N]) const {
    uint16_t bits[N];
    load_pack(weight + i, bits);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = __uint_as_float(static_cast<uint32_t>(bits[k]) << 16);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i, const float (&values)[N]) const {
    uint16_t bits[N];
    uint32_t halves[N];
    random_halves(i, halves);
#pragma unroll
    for (int k = 0; k < N; ++k) bits[k] = static_cast<uint16_t>((roundable_bits(values[k]) + halves[k]) >> 16);
    store_pack(weight + i, bits);
  }

 private:
  template <int N>
  __device__ __forceinline__ void random_halves(int64_t i, uint32_t (&halves)[N]) const {
    if (!map_has_gaps) {  // without its divisions, which take longer than all else
      neighbouring_halves(map.first + map.offset + i, halves);
      return;
    }
    if constexpr (N > 1) {
      if (map.run_length(i) < N) {
#pragma unroll
        for (int k = 0; k < N; ++k) {
          uint32_t half[1];
          neighbouring_halves(map.full_index(i + k), half);
          halves[k] = half[0];
        }
        return;
      }
    }
    neighbouring_halves(map.full_index(i), halves);
  }
  template <int N>
  __device__ __forceinline__ void neighbouring_halves(int64_t first, uint32_t (&halves)[N]) const {
    constexpr int kWords = (N + 1) / 2 + 1;
    uint32_t words[kWords];
    auto is_odd = static_cast<int>(first & 1);
    random_bits(key, static_cast<uint64_t>(first) / 2, words, (is_odd + N + 1) / 2);
    if (is_odd) {
#pragma unroll
      for (int k = 0; k + 1 < kWords; ++k) words[k] = __funnelshift_r(words[k], words[k + 1], 16);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) halves[k] = k % 2 == 0 ? words[k / 2] & 0xffffu : words[k / 2] >> 16;
  }
};

/// Throws unless the dtype and the extra array are those of the storage.
inline void check_weight(const OptimizerWeight& weight, const char* kernel) {
  bool is_bf16 = weight.dtype == DType::bf16;
  bool is_f32 = weight.dtype == DType::f32;
  switch (weight.storage) {
    case WeightStorage::own:
      return require(is_bf16 || is_f32, kernel, "weights in f32 or bf16");
    case WeightStorage::low_bits:
      return require(is_bf16 && weight.extra != nullptr, kernel, "weights in bf16 and their low bits");
    case WeightStorage::rounded:
      return require(is_f32 && weight.extra != nullptr, kernel, "weights in f32 and their masters");
    case WeightStorage::stochastic:
      return require(is_bf16, kernel, "weights in bf16");
  }
}

/// Calls body(storage) for a weight that check_weight() let through, of which nothing is stored at random: what is kept
/// by stochastic rounding is read, and rounded to nearest.
template <typename Body>
void with_exact_storage(const OptimizerWeight& weight, const Body& body) {
  switch (weight.storage) {
    case WeightStorage::own:
    case WeightStorage::stochastic:
      if (weight.dtype == DType::bf16) return body(OwnStorage<bf16>{static_cast<bf16*>(weight.weight)});
      return body(OwnStorage<float>{static_cast<float*>(weight.weight)});
    case WeightStorage::low_bits:
      return body(LowBitsStorage{static_cast<uint16_t*>(weight.weight), static_cast<int16_t*>(weight.extra)});
    case WeightStorage::rounded:
      return body(RoundedStorage{static_cast<float*>(weight.weight), static_cast<float*>(weight.extra)});
  }
}

/// The same with stochastic rounding.
template <typename Body>
void with_storage(const OptimizerWeight& weight, const Body& body) {
  if (weight.storage != WeightStorage::stochastic) return with_exact_storage(weight, body);
  body(StochasticStorage{static_cast<uint16_t*>(weight.weight), weight.map, weight.key, has_gaps(weight.map)});
}

}  // namespace weft::cuda
