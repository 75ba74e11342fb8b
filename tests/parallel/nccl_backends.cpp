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
                auto gpu = make_fake_device();
                auto nccl = make_nccl_communicator(*bootstrap,
                                                   {.stream = &fake_stream(*gpu),
                                                    .library = NCCL_STAND_IN,
                                                    .check_calls = check_calls,
                                                    .streams = make_fake_streams()});
                body(*on_device(std::move(nccl), gpu));
              },
          .compares_calls = check_calls,
          .compares_messages = false};
}

}  // namespace

std::vector<Backend> backends() {
  return {with_checks("nccl", false), with_checks("nccl_checked", true)};
}

}  // namespace weft
