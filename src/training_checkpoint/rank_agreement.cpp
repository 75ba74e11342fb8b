#include "training_checkpoint/rank_agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace weft {

std::vector<std::string> gather_texts(const Context& context, Communicator& ranks, const std::string& text) {
  int64_t num_ranks = ranks.size();
  Tensor size = context.host_empty({1}, DType::i64, MemoryTag::comm);
  Tensor sizes = context.host_empty({num_ranks}, DType::i64, MemoryTag::comm);
  size.data<int64_t>()[0] = static_cast<int64_t>(text.size());
  ranks.all_gather(size, sizes);
  int64_t longest = *std::max_element(sizes.data<int64_t>(), sizes.data<int64_t>() + num_ranks);
  std::vector<std::string> texts(static_cast<size_t>(num_ranks));
  if (longest == 0) return texts;
  Tensor mine = context.host_zeros({longest}, DType::u8, MemoryTag::comm);
  Tensor all = context.host_empty({num_ranks * longest}, DType::u8, MemoryTag::comm);
  std::memcpy(mine.raw(), text.data(), text.size());
  ranks.all_gather(mine, all);
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    texts[static_cast<size_t>(rank)].assign(reinterpret_cast<const char*>(all.data<uint8_t>() + rank * longest),
                                            static_cast<size_t>(sizes.data<int64_t>()[rank]));
  }
  return texts;
}

std::string first_error(const Context& context, Communicator& ranks, const std::string& error) {
  std::vector<std::string> errors = gather_texts(context, ranks, error);
  for (size_t rank = 0; rank < errors.size(); ++rank) {
    if (!errors[rank].empty()) return errors.size() == 1 ? error : fmt::format("rank {}: {}", rank, errors[rank]);
  }
  return {};
}

bool all_ranks(const Context& context, Communicator& ranks, bool value) {
  Tensor flag = context.host_empty({1}, DType::i64, MemoryTag::comm);
  flag.data<int64_t>()[0] = value ? 1 : 0;
  ranks.all_reduce(flag, ReduceOp::min);
  return flag.data<int64_t>()[0] == 1;
}

}  // namespace weft
