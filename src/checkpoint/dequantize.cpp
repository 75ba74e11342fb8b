// Compiled with -ffp-contract=off: a fused multiply-add would round differently from the reference.
#include "checkpoint/dequantize.h"

#include <cstring>

#include "core/dtype.h"

namespace weft {
namespace {

constexpr int kHalf = 16;  // a nibble block's low nibbles are its first 16 values, the high ones its last 16

float read_half(const uint8_t* bytes) {
  float16 half;
  std::memcpy(&half.bits, bytes, sizeof(half.bits));
  return static_cast<float>(half);
}

uint32_t read_u32(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// Scale and minimum of the 32-value group `group` of a Q4_K or Q5_K block: groups 0 to 3 have their 6 bits whole, the
// upper two bits of groups 4 to 7 lie in the top bits of the first eight bytes.
struct GroupScale {
  float scale;
  float minimum;
};

GroupScale group_scale(const uint8_t* packed, int group, float scale, float minimum_scale) {
  int scale_bits, minimum_bits;
  if (group < 4) {
    scale_bits = packed[group] & 63;
    minimum_bits = packed[group + 4] & 63;
  } else {
    scale_bits = (packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4);
    minimum_bits = (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4);
  }
  return {scale * static_cast<float>(scale_bits), minimum_scale * static_cast<float>(minimum_bits)};
}

// Adds the fifth bit of values 0 to 15 and 16 to 31 to their nibbles.
void unpack_five_bits(const uint8_t* nibbles, uint32_t fifth_bits, int* values) {
  for (int i = 0; i < kHalf; ++i) {
    values[i] = (nibbles[i] & 15) | static_cast<int>(((fifth_bits >> i) & 1u) << 4);
    values[i + kHalf] = (nibbles[i] >> 4) | static_cast<int>(((fifth_bits >> (i + kHalf)) & 1u) << 4);
  }
}

}  // namespace

void dequantize_q4_0(const uint8_t* blocks, int64_t num_blocks, float* into) {
  for (int64_t b = 0; b < num_blocks; ++b, blocks += 2 + kHalf, into += kQuantBlock) {
    float scale = read_half(blocks);
    const uint8_t* nibbles = blocks + 2;
    for (int i = 0; i < kHalf; ++i) {
      into[i] = static_cast<float>((nibbles[i] & 15) - 8) * scale;
      into[i + kHalf] = static_cast<float>((nibbles[i] >> 4) - 8) * scale;
    }
  }
}

void dequantize_q4_1(const uint8_t* blocks, int64_t num_blocks, float* into) {
  for (int64_t b = 0; b < num_blocks; ++b, blocks += 4 + kHalf, into += kQuantBlock) {
    float scale = read_half(blocks);
    float minimum = read_half(blocks + 2);
    const uint8_t* nibbles = blocks + 4;
    for (int i = 0; i < kHalf; ++i) {
      into[i] = static_cast<float>(nibbles[i] & 15) * scale + minimum;
      into[i + kHalf] = static_cast<float>(nibbles[i] >> 4) * scale + minimum;
    }
  }
}

void dequantize_q5_0(const uint8_t* blocks, int64_t num_blocks, float* into) {
  for (int64_t b = 0; b < num_blocks; ++b, blocks += 6 + kHalf, into += kQuantBlock) {
    float scale = read_half(blocks);
    int values[kQuantBlock];
    unpack_five_bits(blocks + 6, read_u32(blocks + 2), values);
    for (int i = 0; i < kQuantBlock; ++i) into[i] = static_cast<float>(values[i] - 16) * scale;
  }
}

void dequantize_q5_1(const uint8_t* blocks, int64_t num_blocks, float* into) {
  for (int64_t b = 0; b < num_blocks; ++b, blocks += 8 + kHalf, into += kQuantBlock) {
    float scale = read_half(blocks);
    float minimum = read_half(blocks + 2);
    int values[kQuantBlock];
    unpack_five_bits(blocks + 8, read_u32(blocks + 4), values);
    for (int i = 0; i < kQuantBlock; ++i) into[i] = static_cast<float>(values[i]) * scale + minimum;
  }
}

void dequantize_q8_0(const uint8_t* blocks, int64_t num_blocks, float* into) {
  for (int64_t b = 0; b < num_blocks; ++b, blocks += 2 + kQuantBlock, into += kQuantBlock) {
    float scale = read_half(blocks);
    for (int i = 0; i < kQuantBlock; ++i) into[i] = static_cast<float>(static_cast<int8_t>(blocks[2 + i])) * scale;
  }
}

void dequantize_q4_k(const uint8_t* blocks, int64_t num_blocks, float* into) {
  constexpr int kBlockBytes = 4 + 12 + 128;
  for (int64_t b = 0; b < num_blocks; ++b, blocks += kBlockBytes) {
    float scale = read_half(blocks);
    float minimum_scale = read_half(blocks + 2);
    const uint8_t* nibbles = blocks + 16;
    for (int group = 0; group < 8; group += 2, nibbles += 32, into += 64) {
      GroupScale low = group_scale(blocks + 4, group, scale, minimum_scale);
      GroupScale high = group_scale(blocks + 4, group + 1, scale, minimum_scale);
      for (int i = 0; i < 32; ++i) into[i] = low.scale * static_cast<float>(nibbles[i] & 15) - low.minimum;
      for (int i = 0; i < 32; ++i) into[i + 32] = high.scale * static_cast<float>(nibbles[i] >> 4) - high.minimum;
    }
  }
}

void dequantize_q5_k(const uint8_t* blocks, int64_t num_blocks, float* into) {
  constexpr int kBlockBytes = 4 + 12 + 32 + 128;
  for (int64_t b = 0; b < num_blocks; ++b, blocks += kBlockBytes) {
    float scale = read_half(blocks);
    float minimum_scale = read_half(blocks + 2);
    const uint8_t* fifth_bits = blocks + 16;  // bit g of byte i belongs to value i of group g
    const uint8_t* nibbles = blocks + 48;
    for (int group = 0; group < 8; group += 2, nibbles += 32, into += 64) {
      GroupScale low = group_scale(blocks + 4, group, scale, minimum_scale);
      GroupScale high = group_scale(blocks + 4, group + 1, scale, minimum_scale);
      for (int i = 0; i < 32; ++i) {
        int value = (nibbles[i] & 15) | (((fifth_bits[i] >> group) & 1) << 4);
        into[i] = low.scale * static_cast<float>(value) - low.minimum;
      }
      for (int i = 0; i < 32; ++i) {
        int value = (nibbles[i] >> 4) | (((fifth_bits[i] >> (group + 1)) & 1) << 4);
        into[i + 32] = high.scale * static_cast<float>(value) - high.minimum;
      }
    }
  }
}

void dequantize_q6_k(const uint8_t* blocks, int64_t num_blocks, float* into) {
  constexpr int kBlockBytes = 128 + 64 + 16 + 2;
  for (int64_t b = 0; b < num_blocks; ++b, blocks += kBlockBytes) {
    float scale = read_half(blocks + 208);
    for (int half = 0; half < 2; ++half) {
      const uint8_t* nibbles = blocks + 64 * half;
      const uint8_t* pairs = blocks + 128 + 32 * half;
      // Four runs of 32 values: low and high nibbles of 64 bytes, each with its pair of upper bits.
      for (int run = 0; run < 4; ++run, into += 32) {
        const uint8_t* run_nibbles = nibbles + 32 * (run & 1);
        int nibble_shift = 4 * (run >> 1);
        for (int i = 0; i < 32; ++i) {
          int value = ((run_nibbles[i] >> nibble_shift) & 15) | (((pairs[i] >> (2 * run)) & 3) << 4);
          int8_t group_scale_value = static_cast<int8_t>(blocks[192 + 8 * half + 2 * run + i / 16]);
          into[i] = scale * static_cast<float>(group_scale_value) * static_cast<float>(value - 32);
        }
      }
    }
  }
}

}  // namespace weft
