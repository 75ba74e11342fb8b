// Linear-chain conditional random fields (Lafferty, McCallum and Pereira, 2001): a score a label and a score for each
// pair of neighbouring labels; no scores of start or end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/context.h"

namespace weft {

/// Rows of the emissions that follow each other, with the weight of their loss.
struct CrfSequence {
  std::vector<int32_t> rows;
  std::vector<int32_t> labels;  // one a row
  float weight = 1;
};

/// Σ weight · −log p(labels) over the sequences. emissions is [rows, labels], transitions [labels, labels] from row to
/// column, used times `scale`. One element in f32 (f64 for f64).
Tensor crf_loss(Context& context,
                const Tensor& emissions,
                const Tensor& transitions,
                double scale,
                std::span<const CrfSequence> sequences);

/// The most likely labels (Viterbi, 1967) of emissions [steps, labels], row-major, under transitions [labels, labels].
std::vector<int32_t> viterbi(std::span<const double> emissions, std::span<const double> transitions, size_t num_labels);

}  // namespace weft
