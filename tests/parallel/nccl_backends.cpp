#include "parallel/conformance.h"
#include "parallel/fake_device.h"
#include "parallel/nccl_communicator.h"

namespace weft {
namespace {

Backend with_checks(const std::string& name, bool check_calls) {
  return {.name = name,
          .run =
              [check_calls](const auto& body) {
                auto bootstrap = make_mpi_communicator();
                int stream = 0;
                auto nccl = make_nccl_communicator(
                    *bootstrap,
                    {.stream = &stream, .library = NCCL_STAND_IN, .check_calls = check_calls, .stream_is_idle = [] {
                       return true;
                     }});
                body(*on_device(std::move(nccl), make_fake_device()));
              },
          .compares_calls = check_calls,
          .compares_messages = false};
}

}  // namespace

std::vector<Backend> backends() {
  return {with_checks("nccl", false), with_checks("nccl_checked", true)};
}

}  // namespace weft
