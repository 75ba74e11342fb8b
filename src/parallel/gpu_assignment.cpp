#include "parallel/gpu_assignment.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

namespace weft {

bool ranks_have_own_gpus(Communicator& ranks, const std::string& pci_bus_id) {
  constexpr int64_t kNameBytes = 512;
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  const std::string name = std::string(host.data()) + " " + pci_bus_id;
  auto memory = make_cpu_allocator();
  Tensor own = Tensor::zeros(memory, {kNameBytes}, DType::u8);
  std::memcpy(own.raw(), name.data(), std::min(name.size(), static_cast<size_t>(kNameBytes)));
  Tensor all = Tensor::empty(memory, {ranks.size(), kNameBytes}, DType::u8);
  ranks.all_gather(own, all);
  std::set<std::string> names;
  for (int rank = 0; rank < ranks.size(); ++rank) {
    names.emplace(static_cast<const char*>(all.slice(rank, rank + 1).raw()), static_cast<size_t>(kNameBytes));
  }
  return static_cast<int>(names.size()) == ranks.size();
}

}  // namespace weft
