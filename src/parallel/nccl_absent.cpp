// Stands for nccl_communicator.cpp in a build without CUDA or NCCL's header.
#include "core/error.h"
#include "parallel/nccl_communicator.h"

namespace weft {

std::string no_nccl_reason(const std::string& /*library*/) {
  return "this build has no NCCL";
}

std::string nccl_version(const std::string& /*library*/) {
  return {};
}

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& /*bootstrap*/, const NcclOptions& /*options*/) {
  throw Error(ExitCode::communication, no_nccl_reason());
}

}  // namespace weft
