#include "parallel/conformance.h"
#include "parallel/fake_device.h"
#include "parallel/mpi_communicator.h"
#include "parallel/staged_communicator.h"

namespace weft {
namespace {

Backend with_options(const std::string& name, const MpiOptions& options) {
  return {.name = name,
          .run = [options](const auto& body) { body(*make_mpi_communicator(options)); },
          .compares_calls = options.use_shared_memory || options.check_calls};
}

}  // namespace

std::vector<Backend> backends() {
  return {
      with_options("shared_memory", {}),
      with_options("messages", {.use_shared_memory = false, .check_calls = false}),
      // No multiple of an element: pieces must not cut one.
      with_options("short_messages", {.max_message_bytes = 30011, .use_shared_memory = false, .check_calls = false}),
      with_options("checked", {.use_shared_memory = false, .check_calls = true}),
      {.name = "staged",
       .run =
           [](const auto& body) {
             body(*on_device(make_staged_communicator(make_mpi_communicator()), make_fake_device()));
           }},
      {.name = "staged_host_tensors",
       .run = [](const auto& body) { body(*make_staged_communicator(make_mpi_communicator())); }},
  };
}

}  // namespace weft
