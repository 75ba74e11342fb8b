// ggml's quantised blocks turned into floats, bit for bit as ggml's reference (ggml-quants.c) does. Every block starts
// with, or holds, one or two half-precision scales; see each function for its layout.
#pragma once

#include <cstdint>

namespace weft {

constexpr int64_t kQuantBlock = 32;        // values in a block of Q4_0 to Q8_0
constexpr int64_t kQuantSuperBlock = 256;  // values in a block of the K types

void dequantize_q4_0(const uint8_t* blocks, int64_t num_blocks, float* into);  // scale, 16 bytes of nibbles
void dequantize_q4_1(const uint8_t* blocks, int64_t num_blocks, float* into);  // scale, minimum, 16 bytes of nibbles
void dequantize_q5_0(const uint8_t* blocks, int64_t num_blocks, float* into);  // scale, 32 fifth bits, nibbles
void dequantize_q5_1(const uint8_t* blocks, int64_t num_blocks, float* into);  // scale, minimum, 32 fifth bits, nibbles
void dequantize_q8_0(const uint8_t* blocks, int64_t num_blocks, float* into);  // scale, 32 int8
void dequantize_q4_k(const uint8_t* blocks, int64_t num_blocks, float* into);  // two scales, 12 bytes of 6-bit scales
                                                                               // and minima, 128 bytes of nibbles
void dequantize_q5_k(const uint8_t* blocks, int64_t num_blocks, float* into);  // as Q4_K with 32 bytes of fifth bits
void dequantize_q6_k(const uint8_t* blocks, int64_t num_blocks, float* into);  // nibbles, 64 bytes of upper bit pairs,
                                                                               // 16 int8 scales, scale

}  // namespace weft
