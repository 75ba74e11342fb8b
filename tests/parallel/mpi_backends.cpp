#include "parallel/conformance.h"
#include "parallel/mpi_communicator.h"

namespace weft {
namespace {

Backend with_options(const std::string& name, const MpiOptions& options) {
  return {name, [options](const auto& body) { body(*make_mpi_communicator(options)); }};
}

}  // namespace

std::vector<Backend> backends() {
  return {
      with_options("shared_memory", {}),
      with_options("messages", {.use_shared_memory = false}),
      // No multiple of an element: pieces must not cut one.
      with_options("short_messages", {.max_message_bytes = 30011, .use_shared_memory = false}),
      with_options("checked", {.use_shared_memory = false, .check_calls = true}),
  };
}

}  // namespace weft
