// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A number depends only on key and counter, so it is the same at any tensor-parallel degree, under recomputation and
// after resume.
#pragma once

#include <array>
#include <cstdint>

namespace weft {

/// Four 32-bit numbers for a 128-bit counter and a 64-bit key.
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// Names a stream of random numbers: the run's seed, the step, and the place in the model.
struct RandomKey {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t site = 0;

  /// 32 random bits for the element with this global index.
  constexpr uint32_t bits(uint64_t index) const {
    uint64_t block = index / 4;
    auto numbers = philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), step, site},
                              {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    return numbers[index % 4];
  }
  /// Uniform in [0, 1).
  constexpr float uniform(uint64_t index) const { return static_cast<float>(bits(index) >> 8) * 0x1p-24f; }
};

}  // namespace weft
