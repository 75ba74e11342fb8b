// Numbers of all data-parallel ranks together.
#pragma once

#include <vector>

#include "autograd/context.h"
#include "tasks/objective.h"

namespace weft {

/// Replaces each value by its sum over the ranks. Collective.
void sum_over_ranks(Context& context, Communicator& ranks, std::vector<double>& values);

/// The sums of labels' counts. Collective.
std::vector<LabelCounts> sum_over_ranks(Context& context, Communicator& ranks, const std::vector<LabelCounts>& counts);

/// All ranks' values, of which each may have another number, in the order of the ranks. Collective.
std::vector<double> gather_from_ranks(Context& context, Communicator& ranks, const std::vector<double>& values);

/// 2·p·r / (p + r) and its parts, of counts.
struct F1 {
  double precision = 0, recall = 0, f1 = 0;
};
F1 f1_of(double right, double predicted, double expected);
/// Of all labels together.
F1 f1_of(const std::vector<LabelCounts>& labels);

}  // namespace weft
