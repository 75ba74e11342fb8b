#include "tasks/rank_values.h"

#include <algorithm>

#include "parallel/communicator.h"

namespace weft {

void sum_over_ranks(Context& context, Communicator& ranks, std::vector<double>& values) {
  if (ranks.size() == 1 || values.empty()) return;
  Tensor tensor = context.host_empty({static_cast<int64_t>(values.size())}, DType::f64, MemoryTag::comm);
  std::copy(values.begin(), values.end(), tensor.data<double>());
  ranks.all_reduce(tensor, ReduceOp::sum);
  std::copy_n(tensor.data<double>(), values.size(), values.begin());
}

std::vector<LabelCounts> sum_over_ranks(Context& context, Communicator& ranks, const std::vector<LabelCounts>& counts) {
  std::vector<double> sums;
  for (const LabelCounts& label : counts) sums.insert(sums.end(), {label.right, label.predicted, label.expected});
  sum_over_ranks(context, ranks, sums);
  std::vector<LabelCounts> result;
  for (size_t i = 0; i + 2 < sums.size(); i += 3) {
    result.push_back({.right = sums[i], .predicted = sums[i + 1], .expected = sums[i + 2]});
  }
  return result;
}

std::vector<double> gather_from_ranks(Context& context, Communicator& ranks, const std::vector<double>& values) {
  if (ranks.size() == 1) return values;
  std::vector<double> counts(static_cast<size_t>(ranks.size()));
  counts[static_cast<size_t>(ranks.rank())] = static_cast<double>(values.size());
  sum_over_ranks(context, ranks, counts);
  auto most = static_cast<int64_t>(*std::max_element(counts.begin(), counts.end()));
  std::vector<double> all;
  if (most == 0) return all;
  Tensor mine = context.host_zeros({most}, DType::f64, MemoryTag::comm);
  std::copy(values.begin(), values.end(), mine.data<double>());
  Tensor gathered = context.host_empty({most * ranks.size()}, DType::f64, MemoryTag::comm);
  ranks.all_gather(mine, gathered);
  for (size_t rank = 0; rank < counts.size(); ++rank) {
    const double* from = gathered.data<double>() + static_cast<int64_t>(rank) * most;
    all.insert(all.end(), from, from + static_cast<int64_t>(counts[rank]));
  }
  return all;
}

F1 f1_of(double right, double predicted, double expected) {
  F1 result;
  if (predicted > 0) result.precision = right / predicted;
  if (expected > 0) result.recall = right / expected;
  if (right > 0) result.f1 = 2 * right / (predicted + expected);
  return result;
}

F1 f1_of(const std::vector<LabelCounts>& labels) {
  LabelCounts all;
  for (const LabelCounts& label : labels) {
    all.right += label.right;
    all.predicted += label.predicted;
    all.expected += label.expected;
  }
  return f1_of(all.right, all.predicted, all.expected);
}

}  // namespace weft
