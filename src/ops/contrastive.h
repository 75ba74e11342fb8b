// The contrastive loss of vectors that come in pairs (SimBERT: Su, 2020; InfoNCE: van den Oord et al., 2018).
#pragma once

#include <span>

#include "autograd/context.h"

namespace weft {

/// Σ over rows of weight · −log softmax(scale · cosines to all other rows)[its partner]. vectors is [rows, width] with
/// partners next to each other (0 and 1, 2 and 3, …); `ranks` may hold more rows, which count among the others: each
/// rank's loss is that of its own rows, and its gradient that of all ranks' losses together. Rows of weight 0 are seen
/// by no other. Collective over `ranks`, forward only. One element in f32 (f64 for f64).
Tensor contrastive_loss(
    Context& context, const Tensor& vectors, std::span<const float> weights, double scale, Communicator& ranks);

/// CoSENT (Su, 2022): log(1 + Σ e^(scale · (cos_j − cos_i))) over all pairs of rows i and j with score_i > score_j,
/// where a pair of rows, partners as above, has one of `scores`. It is multiplied by the sum of the rows' weights; of
/// it each rank's loss is its own rows' part, and its gradient that of all ranks' losses together. Pairs of weight 0 do
/// not count. Collective over `ranks`, forward only.
Tensor cosent_loss(Context& context,
                   const Tensor& vectors,
                   std::span<const float> scores,
                   std::span<const float> weights,
                   double scale,
                   Communicator& ranks);

/// Vectors of sequences, [sequences, width]: means of rows [begin, begin + length) of x, recorded.
struct RowRange {
  int64_t begin = 0, length = 0;
};
Tensor mean_of_rows(Context& context, const Tensor& x, std::span<const RowRange> ranges);

}  // namespace weft
