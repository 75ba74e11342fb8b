#include "parallel/conformance.h"
#include "parallel/thread_communicator.h"

namespace weft {

std::vector<Backend> backends() {
  std::vector<Backend> all;
  all.push_back({"single", [](const auto& body) { body(*make_single_communicator()); }});
  for (int size = 1; size <= 4; ++size) {
    all.push_back({"threads_" + std::to_string(size), [size](const auto& body) {
                     run_thread_ranks(size, [&body](const std::shared_ptr<Communicator>& world) { body(*world); });
                   }});
  }
  return all;
}

}  // namespace weft
