#include "parallel/agreement.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace weft {

void agree(Communicator& ranks, const std::string& error) {
  constexpr int64_t kTextBytes = 1024;
  auto host = make_cpu_allocator();
  Tensor first = Tensor::empty(host, {1}, DType::i32);
  first.data<int32_t>()[0] = error.empty() ? ranks.size() : ranks.rank();
  ranks.all_reduce(first, ReduceOp::min);
  const int speaker = first.data<int32_t>()[0];
  if (speaker == ranks.size()) return;
  Tensor text = Tensor::zeros(host, {kTextBytes}, DType::u8);
  if (ranks.rank() == speaker) {
    std::memcpy(text.raw(), error.data(), std::min(error.size(), static_cast<size_t>(kTextBytes) - 1));
  }
  ranks.broadcast(text, speaker);
  throw Error(ExitCode::communication, static_cast<const char*>(text.raw()));
}

}  // namespace weft
