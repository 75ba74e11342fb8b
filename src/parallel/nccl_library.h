// NCCL as it is found at run time: a build needs its header only, and a machine without the library still runs Weft.
// For .cpp files of a build with CUDA: nccl.h brings the CUDA runtime's headers along.
#pragma once

#include <nccl.h>

#include <string>

#include "core/dtype.h"
#include "parallel/communicator.h"

namespace weft {

struct NcclLibrary {
  std::string path;
  int version = 0;  // 22809 is 2.28.9

  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&ncclCommFinalize) comm_finalize = nullptr;
  decltype(&ncclCommDestroy) comm_destroy = nullptr;
  decltype(&ncclCommAbort) comm_abort = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  decltype(&ncclGetLastError) get_last_error = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&ncclBroadcast) broadcast = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
};

/// Loads `path`; if that is empty, the file that the environment variable WEFT_NCCL_LIBRARY names, else libnccl.so.2.
/// It stays loaded until the process ends, since NCCL has threads of its own. Throws Error(communication) when there is
/// none, it lacks a function, or it is older than 2.18.
NcclLibrary load_nccl(const std::string& path);

ncclDataType_t nccl_type(DType dtype);
ncclRedOp_t nccl_op(ReduceOp op);

/// "remote process exited or there was a network error: socket closed", in one line. `comm` may be null.
std::string nccl_error_text(const NcclLibrary& library, ncclResult_t result, ncclComm_t comm);

/// "2.28.9"
std::string nccl_version_text(int version);

}  // namespace weft
