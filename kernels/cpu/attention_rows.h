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

/// An exponent of two that makes any weight vanish.
template <typename R>
inline constexpr R kNegligible = R(-1e4);

/// A half-open range of keys.
struct KeyRange {
  int64_t begin = 0, end = 0;
};

WEFT_INLINE KeyRange visible_keys(const AttentionSequence& sequence, const AttentionMask& mask, int64_t query) {
  if (sequence.visible_keys != nullptr) return {0, sequence.visible_keys[query]};
  int64_t position = sequence.key_count - sequence.query_count + query;
  KeyRange range{0, sequence.key_count};
  if (mask.causal) range.end = smaller(position + 1, sequence.key_count);
  if (mask.window > 0) range.begin = larger(0, position - mask.window + 1);
  return range;
}

/// Turns products q·k into scores in units of log2, so that weights are powers of two: factor · curve(product).
template <typename R>
struct ScoreScale {
  explicit WEFT_INLINE ScoreScale(const AttentionMask& mask) {
    has_cap = mask.soft_cap > 0;
    R scale = static_cast<R>(mask.scale);
    R cap = static_cast<R>(mask.soft_cap);
    // A scale below zero goes into the curve, which turns the order round; the factor must not.
    is_linear = !has_cap && scale > 0;
    inner = has_cap ? scale / cap : R(-1);
    factor = (has_cap ? cap : magnitude(scale)) * static_cast<R>(kLog2E);
    if (!has_cap && scale == 0) factor = inner = 0;
  }
  WEFT_INLINE Vector<R> curve(Vector<R> product) const {
    if (has_cap) return tanh_of(product * inner);
    return is_linear ? product : product * inner;
  }
  WEFT_INLINE Vector<R> operator()(Vector<R> product) const { return factor * curve(product); }
  bool has_cap, is_linear;
  R inner, factor;
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
