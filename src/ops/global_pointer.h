// GlobalPointer (Su, "GlobalPointer: a unified way of nested and flat named entity recognition", 2022): a score for
// each label and each pair of a first and a last token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/context.h"

namespace weft {

/// Sizes of a layer's output [tokens, labels · 2 · size]: for each label a query and a key a token.
struct PointerShape {
  int64_t labels = 0;
  int64_t size = 0;  // even: queries and keys are rotated by the token's place in its sequence (base 10000)
  /// The last so many labels are of pairs of tokens in any order, whose queries and keys are not rotated (GPLinker).
  int64_t pair_labels = 0;

  bool is_ordered(int64_t label) const { return label < labels - pair_labels; }
};

/// Tokens first and last, both within, of a sequence are of a label.
struct PointerMark {
  int32_t label = 0;
  int32_t first = 0, last = 0;
  friend bool operator==(const PointerMark&, const PointerMark&) = default;
};

/// Rows [begin, begin + length) of the layer's output and what is marked there.
struct PointerSequence {
  int64_t begin = 0, length = 0;
  std::vector<PointerMark> marks;
  float weight = 1;
};

/// Scores q·k / √size of one sequence, [labels, length, length], first token by last token; −infinity where the last
/// comes before the first, but for pair labels.
std::vector<float> pointer_scores(const Tensor& outputs, const PointerShape& shape, int64_t begin, int64_t length);

/// Σ weight · mean over labels of log(1 + Σ over unmarked pairs of e^s) + log(1 + Σ over marked pairs of e^−s) (Su,
/// "multilabel categorical cross entropy", 2020): a pair is marked when its score is above 0. With pair labels the
/// first token with itself, which stands for no pair in GPLinker's data, counts for nothing. One element in f32 (f64
/// for f64).
Tensor pointer_loss(Context& context,
                    const Tensor& outputs,
                    const PointerShape& shape,
                    std::span<const PointerSequence> sequences);

}  // namespace weft
