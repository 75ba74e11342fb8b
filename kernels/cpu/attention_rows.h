// What the loops of attention share: which keys a query sees, and scores.
#pragma once

#include "kernels/cpu/attention_work.h"
#include "kernels/cpu/simd.h"

namespace weft::WEFT_ISA {

inline constexpr double kLog2E = 1.4426950408889634074;
inline constexpr double kLn2 = 0.69314718055994530942;

/// Below every score, yet finite: differences of two stay numbers.
template <typename R>
inline constexpr R kMaskedScore = R(-3.0e38);

/// A half-open range of keys.
struct KeyRange {
  int64_t begin = 0, end = 0;
};

WEFT_INLINE KeyRange visible_keys(const AttentionSequence& sequence, const AttentionMask& mask, int64_t query) {
  int64_t position = sequence.key_count - sequence.query_count + query;
  KeyRange range{0, sequence.key_count};
  if (mask.causal) range.end = smaller(position + 1, sequence.key_count);
  if (mask.window > 0) range.begin = larger(0, position - mask.window + 1);
  return range;
}

/// Turns products q·k into scores in units of log2, so that weights are powers of two.
template <typename R>
struct ScoreScale {
  explicit WEFT_INLINE ScoreScale(const AttentionMask& mask) {
    has_cap = mask.soft_cap > 0;
    inner = has_cap ? static_cast<R>(mask.scale) / static_cast<R>(mask.soft_cap)
                    : static_cast<R>(mask.scale) * static_cast<R>(kLog2E);
    outer = static_cast<R>(mask.soft_cap) * static_cast<R>(kLog2E);
  }
  WEFT_INLINE Vector<R> operator()(Vector<R> product) const {
    if (has_cap) return outer * tanh_of(product * inner);
    return product * inner;
  }
  bool has_cap;
  R inner, outer;
};

/// All ones in the lanes whose index lies in [begin, end).
template <typename R>
WEFT_INLINE IntegerVector<R> lanes_between(int64_t begin, int64_t end) {
  using Integers = IntegerVector<R>;
  using Lane = decltype(Integers{}[0] + 0);
  Integers lane{};
  for (int i = 0; i < kLanes<R>; ++i) lane[i] = i;
  Lane low = static_cast<Lane>(larger(smaller(begin, kLanes<R>), 0));
  Lane high = static_cast<Lane>(larger(smaller(end, kLanes<R>), 0));
  return (lane >= low) & (lane < high);
}

}  // namespace weft::WEFT_ISA
