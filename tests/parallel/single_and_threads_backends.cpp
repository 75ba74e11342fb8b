#include "parallel/conformance.h"
#include "parallel/fake_device.h"
#include "parallel/staged_communicator.h"
#include "parallel/thread_communicator.h"

namespace weft {

std::vector<Backend> backends() {
  std::vector<Backend> all;
  all.push_back({.name = "single", .run = [](const auto& body) { body(*make_single_communicator()); }});
  all.push_back({.name = "single_device_tensors",
                 .run = [](const auto& body) { body(*on_device(make_single_communicator(), make_fake_device())); }});
  for (int size = 1; size <= 4; ++size) {
    all.push_back({.name = "threads_" + std::to_string(size), .run = [size](const auto& body) {
                     run_thread_ranks(size, [&body](const std::shared_ptr<Communicator>& world) { body(*world); });
                   }});
  }
  all.push_back({.name = "staged_threads_3", .run = [](const auto& body) {
                   run_thread_ranks(3, [&body](const std::shared_ptr<Communicator>& world) {
                     body(*on_device(make_staged_communicator(world->split(0, 0)), make_fake_device()));
                   });
                 }});
  return all;
}

}  // namespace weft
