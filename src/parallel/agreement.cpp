#include "parallel/agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace weft {

std::vector<std::string> gather_texts(Communicator& ranks, const std::string& text) {
  if (ranks.size() == 1) return {text};
  auto host = make_cpu_allocator();
  int64_t num_ranks = ranks.size();
  Tensor size = Tensor::empty(host, {1}, DType::i64, MemoryTag::comm);
  Tensor sizes = Tensor::empty(host, {num_ranks}, DType::i64, MemoryTag::comm);
  size.data<int64_t>()[0] = static_cast<int64_t>(text.size());
  ranks.all_gather(size, sizes);
  int64_t longest = *std::max_element(sizes.data<int64_t>(), sizes.data<int64_t>() + num_ranks);
  std::vector<std::string> texts(static_cast<size_t>(num_ranks));
  if (longest == 0) return texts;
  Tensor mine = Tensor::zeros(host, {longest}, DType::u8, MemoryTag::comm);
  Tensor all = Tensor::empty(host, {num_ranks * longest}, DType::u8, MemoryTag::comm);
  std::memcpy(mine.raw(), text.data(), text.size());
  ranks.all_gather(mine, all);
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    const auto* begin = reinterpret_cast<const char*>(all.data<uint8_t>() + rank * longest);
    texts[static_cast<size_t>(rank)].assign(begin, static_cast<size_t>(sizes.data<int64_t>()[rank]));
  }
  return texts;
}

bool all_ranks(Communicator& ranks, bool value) {
  Tensor flag = Tensor::empty(make_cpu_allocator(), {1}, DType::i64, MemoryTag::comm);
  flag.data<int64_t>()[0] = value ? 1 : 0;
  ranks.all_reduce(flag, ReduceOp::min);
  return flag.data<int64_t>()[0] == 1;
}

std::string first_error(Communicator& ranks, const std::string& error) {
  std::vector<std::string> errors = gather_texts(ranks, error);
  for (size_t rank = 0; rank < errors.size(); ++rank) {
    if (!errors[rank].empty()) return errors.size() == 1 ? error : fmt::format("rank {}: {}", rank, errors[rank]);
  }
  return {};
}

void agree(Communicator& ranks, const std::string& error, ExitCode code) {
  for (const std::string& one : gather_texts(ranks, error)) {
    if (!one.empty()) throw Error(code, one);
  }
}

}  // namespace weft
