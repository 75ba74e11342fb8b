#include "optimizer/collectives.h"

#include <algorithm>

#include "parallel/communicator.h"

namespace weft {

void sum_over_pieces(const Context& context, const PieceSharing& sharing, std::vector<double>& values) {
  if (values.empty() || (sharing.data_parallel == nullptr && sharing.tensor_parallel == nullptr)) return;
  Tensor tensor = context.host_empty({static_cast<int64_t>(values.size())}, DType::f64, MemoryTag::comm);
  std::copy(values.begin(), values.end(), tensor.data<double>());
  for (Communicator* group : {sharing.data_parallel, sharing.tensor_parallel}) {
    if (group != nullptr) group->all_reduce(tensor, ReduceOp::sum);
  }
  std::copy_n(tensor.data<double>(), values.size(), values.begin());
}

}  // namespace weft
