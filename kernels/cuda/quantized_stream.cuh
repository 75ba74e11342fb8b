// Products of quantized_stream.cu: codes in shared memory by x, on tensor cores.
//
// A step is what a warp multiplies at a time: two units, of which a lane reads 16
// bytes, or one, of which it reads 8. The 16 rows of the instruction's first factor are then 8 output features by two
// units, or 16 output features; a lane has the input features of one word of each of its output features, the same for
// all of them, and those of x in the same order are its part of the second factor.
//
// Rows of x fill the 8 columns of the second factor only if there are 8. With fewer, a column is one row of x by one
// unit: it is zero while other units are multiplied. So the sums of up to 8 units stay apart until they have all been
// multiplied, and meet the scales of their groups together, in different lanes.
//
// Codes of int4 become 128 + code in bf16 by two instructions for each pair; 128 times the sum of x is taken off
// together with the minimum. That sum over a unit is a product with ones.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/quantized_stream_ring.cuh"

namespace weft::cuda::quantized_stream_parts {

/// How kRows rows of x are multiplied (those behind the last repeat it).
template <int kBits, int kRows>
struct Form {
  static constexpr int kTileRows = kRows < 8 ? kRows : 8;  // in the columns of one instruction
  static constexpr int kTiles = kRows / kTileRows;
  static constexpr int kStepUnits = kTileRows == 8 ? 1 : 2;
  static constexpr int kBatchUnits = 8 / kTileRows;  // whose sums meet their scales together
  static constexpr int kBatchSteps = kBatchUnits / kStepUnits;
  static constexpr int kWords = 2 * kStepUnits;      // of a lane in a step, each of another output feature
  static constexpr int kPairs = kBits == 4 ? 4 : 2;  // of codes in a word
  static constexpr int kWordFeatures = 2 * kPairs;
  static constexpr int kUnitFeatures = 4 * kWordFeatures;
  static constexpr int kValues = kTileRows == 1 ? 1 : 2;  // columns of an instruction that mean something to a lane
};

/// Where a lane stands in an instruction. Its rows are those of `group`, its columns of the second factor `group`, of
/// the sums 2 · member and the one behind it.
template <int kBits, int kRows>
struct Lane {
  using F = Form<kBits, kRows>;
  int group, member;
  int half;         // which unit of a step its words are of
  int feature;      // the first of its output features
  int input_unit;   // of a batch, that its column of x is of
  int result_unit;  // that its sums are of

  __device__ __forceinline__ Lane() {
    int lane = static_cast<int>(threadIdx.x) % 32;
    group = lane / 4;
    member = lane % 4;
    half = F::kStepUnits == 2 ? lane / 16 : 0;
    feature = F::kStepUnits == 2 ? group % 4 * 4 : group * 2;
    input_unit = group / F::kTileRows;
    result_unit = F::kTileRows == 1 ? 2 * member + half : F::kTileRows == 2 ? member / 2 * 2 + half : half;
  }
  __device__ __forceinline__ int codes_offset() const {
    return half * (Chunk<kBits>::codes_offset(1) - Chunk<kBits>::codes_offset(0)) + member * 64 + feature * 4;
  }
  __device__ __forceinline__ int scales_offset() const {
    return Chunk<kBits>::scales_offset(result_unit) + feature * 2;
  }
  /// Whether its sums' columns are of its words' unit.
  __device__ __forceinline__ bool is_useful() const {
    return F::kTileRows == 2 ? half == member % 2 : F::kTileRows == 4 ? half == member / 2 : true;
  }
};

/// 4, 2 or 1 words from shared memory.
template <int kCount>
__device__ __forceinline__ void load_words(uint32_t from, uint32_t (&words)[kCount]) {
  if constexpr (kCount == 4) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
  } else if constexpr (kCount == 2) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "r"(from) : "memory");
  } else {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(words[0]) : "r"(from) : "memory");
  }
}

/// kCount numbers of f16 from shared memory.
template <int kCount>
__device__ __forceinline__ void load_halves(uint32_t from, float (&values)[kCount]) {
  uint32_t words[kCount / 2];
  load_words(from, words);
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

/// (word & kMask) | 0x43004300 by one instruction, which two constants would else make two of: 128 + what the mask
/// leaves of the lower 7 bits, twice in bf16.
template <uint32_t kMask>
__device__ __forceinline__ uint32_t take_bits(uint32_t word) {
  uint32_t bits;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(bits) : "r"(word), "n"(kMask), "n"(0x43004300));
  return bits;
}

/// A word's codes in bf16, pairs of neighbouring input features: 128 + code of int4, the code of int8. Exact.
template <int kBits, int kPairs>
__device__ __forceinline__ void decode_pairs(uint32_t word, uint32_t (&pairs)[kPairs]) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    uint32_t shifted = word >> (kBits * i);
    if constexpr (kBits == 4) {
      pairs[i] = take_bits<0x000f000fu>(shifted);
    } else {
      // 128 + the lower 7 bits, and 128 or, for a negative code, 256.
      uint32_t low = take_bits<0x007f007fu>(shifted), sign = take_bits<0x00800080u>(shifted);
      __nv_bfloat162 code =
          __hsub2(*reinterpret_cast<__nv_bfloat162*>(&low), *reinterpret_cast<__nv_bfloat162*>(&sign));
      pairs[i] = *reinterpret_cast<uint32_t*>(&code);
    }
  }
}

/// A lane's part of the second factor of a batch.
template <int kBits, int kRows>
struct Inputs {
  uint32_t words[Form<kBits, kRows>::kTiles][Form<kBits, kRows>::kPairs];
};

/// Input features from `begin` on, of which those behind `end` count as zeros.
struct Stretch {
  int begin, end;
};

/// Of the chunk at a cursor.
template <int kBits>
__device__ __forceinline__ Stretch stretch_of(const Parameters& parameters, const Cursor<kBits>& cursor, int units) {
  int begin = cursor.granule * kGranuleFeatures;
  return {begin, min(parameters.in_features, begin + units * (kGranuleFeatures / Chunk<kBits>::kGranuleUnits))};
}

/// Where a lane reads x.
template <int kBits, int kRows>
class InputRows {
 public:
  using F = Form<kBits, kRows>;

  __device__ __forceinline__ InputRows(const Parameters& parameters, const Lane<kBits, kRows>& lane)
      : offset_(lane.input_unit * F::kUnitFeatures + lane.member * F::kWordFeatures) {
#pragma unroll
    for (int t = 0; t < F::kTiles; ++t) {
      int row = kRows == 1 ? 0 : min(t * F::kTileRows + lane.group % F::kTileRows, parameters.rows - 1);
      rows_[t] = parameters.x + int64_t{row} * parameters.in_features + offset_;
    }
  }

  /// The batch at the beginning of a stretch.
  __device__ __forceinline__ void load(const Stretch& stretch, Inputs<kBits, kRows>& inputs) const {
    bool exists = stretch.begin + offset_ < stretch.end;
#pragma unroll
    for (int t = 0; t < F::kTiles; ++t) {
      const bf16* from = rows_[t] + stretch.begin;
      if constexpr (kBits == 4) {
        uint4 words = exists ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
        inputs.words[t][0] = words.x;
        inputs.words[t][1] = words.y;
        inputs.words[t][2] = words.z;
        inputs.words[t][3] = words.w;
      } else {
        uint2 words = exists ? *reinterpret_cast<const uint2*>(from) : make_uint2(0, 0);
        inputs.words[t][0] = words.x;
        inputs.words[t][1] = words.y;
      }
    }
  }

 private:
  const bf16* rows_[F::kTiles];
  int offset_;
};

template <int kBits, int kRows>
using Totals = float[Form<kBits, kRows>::kTiles][Form<kBits, kRows>::kWords][Form<kBits, kRows>::kValues];

/// A lane's column of x where it is of this step's units, else zeros.
template <int kBits, int kRows>
__device__ __forceinline__ void choose_inputs(const Inputs<kBits, kRows>& inputs,
                                              bool is_chosen,
                                              Inputs<kBits, kRows>& chosen) {
  using F = Form<kBits, kRows>;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < F::kPairs; ++i) chosen.words[t][i] = is_chosen ? inputs.words[t][i] : 0;
  }
}

/// sums += codes · x of the units of a step; of two output features in each [2][2] of output feature and column.
template <int kBits, int kRows>
__device__ __forceinline__ void add_step(uint32_t codes,
                                         const Inputs<kBits, kRows>& inputs,
                                         float (&sums)[Form<kBits, kRows>::kTiles][Form<kBits, kRows>::kStepUnits][4]) {
  using F = Form<kBits, kRows>;
  uint32_t words[F::kWords];
  load_words(codes, words);
#pragma unroll
  for (int s = 0; s < F::kStepUnits; ++s) {
    uint32_t first[F::kPairs], second[F::kPairs];
    decode_pairs<kBits>(words[2 * s], first);
    decode_pairs<kBits>(words[2 * s + 1], second);
#pragma unroll
    for (int i = 0; i < F::kPairs; i += 2) {
      const uint32_t rows[4] = {first[i], second[i], first[i + 1], second[i + 1]};
#pragma unroll
      for (int t = 0; t < F::kTiles; ++t) mma_bf16(sums[t][s], rows, inputs.words[t][i], inputs.words[t][i + 1]);
    }
  }
}

/// Multiplies a batch of a chunk and adds what it comes to, scaled, to the totals. `units` are left of the chunk.
template <int kBits, int kRows>
__device__ __forceinline__ void add_batch(uint32_t codes,
                                          uint32_t scales,
                                          int units,
                                          const Lane<kBits, kRows>& lane,
                                          const Inputs<kBits, kRows>& inputs,
                                          Totals<kBits, kRows>& totals) {
  using F = Form<kBits, kRows>;
  float sums[F::kTiles][F::kStepUnits][4] = {};
  if constexpr (F::kBatchSteps == 1) {
    add_step<kBits, kRows>(codes, inputs, sums);
  } else {
#pragma unroll
    for (int step = 0; step < F::kBatchSteps; ++step) {
      if (step * F::kStepUnits >= units) break;
      Inputs<kBits, kRows> chosen;
      choose_inputs(inputs, lane.input_unit / F::kStepUnits == step, chosen);
      add_step<kBits, kRows>(
          codes + Chunk<kBits>::codes_offset(step * F::kStepUnits) - Chunk<kBits>::codes_offset(0), chosen, sums);
    }
  }
  float scale[F::kWords], offset[F::kWords];
  load_halves(scales, scale);
  if constexpr (kBits == 4) {
    load_halves(scales + 32, offset);
#pragma unroll
    for (int i = 0; i < F::kWords; ++i) offset[i] = fmaf(-128.0f, scale[i], offset[i]);
  }
  constexpr bool kMayBeMissing = F::kBatchUnits > (kBits == 4 ? 1 : 2);  // chunks of int8 are whole groups
  if (kMayBeMissing && lane.result_unit >= units) {                      // what was read is no scale
#pragma unroll
    for (int i = 0; i < F::kWords; ++i) scale[i] = offset[i] = 0;
  }
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
    float x_sums[4] = {};
    if constexpr (kBits == 4) {
      constexpr uint32_t kOnes = 0x3f803f80u;
      const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
      mma_bf16(x_sums, ones, inputs.words[t][0], inputs.words[t][1]);
      mma_bf16(x_sums, ones, inputs.words[t][2], inputs.words[t][3]);
    }
#pragma unroll
    for (int e = 0; e < F::kValues; ++e) {
      bool is_second = F::kValues == 1 && lane.half == 1;
      float x_sum = is_second ? x_sums[1] : x_sums[e];
#pragma unroll
      for (int i = 0; i < F::kWords; ++i) {
        const float* both = sums[t][i / 2] + i % 2 * 2;
        float sum = is_second ? both[1] : both[e];
        totals[t][i][e] = fmaf(scale[i], sum, totals[t][i][e]);
        if constexpr (kBits == 4) totals[t][i][e] = fmaf(offset[i], x_sum, totals[t][i][e]);
      }
    }
  }
}

/// Joins the lanes' totals, leaves them at `partial` [kRows][kPanelWidth], and begins anew.
template <int kBits, int kRows>
__device__ __forceinline__ void finish_piece(const Lane<kBits, kRows>& lane,
                                             Totals<kBits, kRows>& totals,
                                             float* partial) {
  using F = Form<kBits, kRows>;
  bool writes =
      (F::kTileRows > 2 || lane.member % 2 == 0) && (F::kTileRows > 4 || lane.member / 2 == 0) && lane.half == 0;
  int first_row = F::kTileRows == 4 ? lane.member % 2 * 2 : F::kTileRows == 8 ? lane.member * 2 : 0;
#pragma unroll
  for (int t = 0; t < F::kTiles; ++t) {
#pragma unroll
    for (int e = 0; e < F::kValues; ++e) {
      float* row = partial + (t * F::kTileRows + first_row + e) * kPanelWidth + lane.feature;
#pragma unroll
      for (int i = 0; i < F::kWords; ++i) {
        float total = lane.is_useful() ? totals[t][i][e] : 0;
        if (F::kTileRows <= 2) total += __shfl_xor_sync(0xffffffffu, total, 1);
        if (F::kTileRows <= 4) total += __shfl_xor_sync(0xffffffffu, total, 2);
        if (F::kStepUnits == 2) total += __shfl_xor_sync(0xffffffffu, total, 16);
        if (writes) row[i] = total;
        totals[t][i][e] = 0;
      }
    }
  }
}

/// The sum of the pieces of a slot. Slots and warps go up together along a block's granules, so that a piece has the
/// place slot + warp to itself.
template <int kRows>
__device__ __forceinline__ float join_pieces(
    const Parameters& parameters, const Work& work, int slot, int place, const float* partial) {
  int begin = slot * parameters.panel_granules, end = begin + parameters.panel_granules;
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    int from = max(begin, range_begin(work, warp)), to = min(end, range_begin(work, warp + 1));
    if (from < to) sum += partial[(slot + warp) * kRows * kPanelWidth + place];
  }
  return sum;
}

/// Results of a block's slots.
template <int kRows, bool kGated>
__device__ __forceinline__ void write_slots(const Parameters& parameters, const Work& work, const float* partial) {
  constexpr int kSlotsOfResult = kGated ? 2 : 1;
  int count = work.slots / kSlotsOfResult * kRows * kPanelWidth;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    int place = i % (kRows * kPanelWidth), slot = i / (kRows * kPanelWidth) * kSlotsOfResult;
    int row = place / kPanelWidth;
    Panel panel = find_panel<kGated>(parameters, work, slot);
    int64_t feature = panel.index * kPanelWidth + place % kPanelWidth;
    if (row >= parameters.rows || feature >= panel.weight->out_features) continue;
    float sum = join_pieces<kRows>(parameters, work, slot, place, partial);
    if constexpr (kGated) {
      float up = join_pieces<kRows>(parameters, work, slot + 1, place, partial);
      quantized_parts::write_gated_sums<bf16>(parameters.form, *panel.weight, feature, row, sum, up);
    } else {
      quantized_parts::write_sum<bf16>(parameters.form, *panel.weight, feature, row, sum);
    }
  }
}

}  // namespace weft::cuda::quantized_stream_parts
