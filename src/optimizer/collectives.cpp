#include "optimizer/collectives.h"

#include <algorithm>
#include <cstring>

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

std::vector<std::string> gather_texts(const Context& context, Communicator* group, const std::string& text) {
  if (group == nullptr) return {text};
  auto bytes = static_cast<int64_t>(text.size());
  Tensor sizes = context.host_empty({group->size()}, DType::i64, MemoryTag::comm);
  Tensor own_size = context.host_empty({1}, DType::i64, MemoryTag::comm);
  *own_size.data<int64_t>() = bytes;
  group->all_gather(own_size, sizes);
  int64_t longest = *std::max_element(sizes.data<int64_t>(), sizes.data<int64_t>() + group->size());
  std::vector<std::string> texts(static_cast<size_t>(group->size()));
  if (longest == 0) return texts;
  Tensor own = context.host_zeros({longest}, DType::u8, MemoryTag::comm);
  std::memcpy(own.raw(), text.data(), text.size());
  Tensor all = context.host_empty({longest * group->size()}, DType::u8, MemoryTag::comm);
  group->all_gather(own, all);
  for (int rank = 0; rank < group->size(); ++rank) {
    const auto* begin = reinterpret_cast<const char*>(all.data<uint8_t>()) + rank * longest;
    texts[static_cast<size_t>(rank)].assign(begin, static_cast<size_t>(sizes.data<int64_t>()[rank]));
  }
  return texts;
}

}  // namespace weft
