#include "parallel/nccl_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"

namespace weft {
namespace {

// Older ones have other configurations and were never tried.
constexpr int kOldestVersion = 21800;

std::string library_path(const std::string& path) {
  if (!path.empty()) return path;
  const char* named = std::getenv("WEFT_NCCL_LIBRARY");
  return named != nullptr && *named != '\0' ? named : "libnccl.so.2";
}

std::string loader_error() {
  const char* text = dlerror();
  return printable(text == nullptr ? "unknown error" : text, 300);
}

template <typename Function>
void find(void* handle, const char* name, const std::string& path, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  if (function == nullptr) fail(ExitCode::communication, "NCCL: {} has no function {}", path, name);
}

}  // namespace

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u8:
      return ncclUint8;
  }
  fail(ExitCode::communication, "NCCL does not move {} tensors", dtype_name(dtype));
}

ncclRedOp_t nccl_op(ReduceOp op) {
  if (op == ReduceOp::max) return ncclMax;
  return op == ReduceOp::min ? ncclMin : ncclSum;
}

std::string nccl_error_text(const NcclLibrary& library, ncclResult_t result, ncclComm_t comm) {
  std::string text = library.get_error_string(result);
  const char* details = library.get_last_error(comm);
  if (details != nullptr && *details != '\0') text += fmt::format(": {}", details);
  std::replace_if(
      text.begin(), text.end(), [](char letter) { return letter == '\n' || letter == '\t'; }, ' ');
  text.erase(text.find_last_not_of(' ') + 1);
  return printable(text, 400);
}

std::string nccl_version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

NcclLibrary load_nccl(const std::string& path) {
  NcclLibrary library;
  library.path = library_path(path);
  void* handle = dlopen(library.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    fail(ExitCode::communication,
         "NCCL cannot be loaded: {}; install it, or name the file in WEFT_NCCL_LIBRARY",
         loader_error());
  }
  find(handle, "ncclGetVersion", library.path, library.get_version);
  if (library.get_version(&library.version) != ncclSuccess || library.version < kOldestVersion) {
    fail(ExitCode::communication,
         "NCCL {} in {} is too old: {} or newer is needed",
         nccl_version_text(library.version),
         library.path,
         nccl_version_text(kOldestVersion));
  }
  find(handle, "ncclGetUniqueId", library.path, library.get_unique_id);
  find(handle, "ncclCommInitRankConfig", library.path, library.comm_init_rank_config);
  find(handle, "ncclCommFinalize", library.path, library.comm_finalize);
  find(handle, "ncclCommDestroy", library.path, library.comm_destroy);
  find(handle, "ncclCommAbort", library.path, library.comm_abort);
  find(handle, "ncclCommGetAsyncError", library.path, library.comm_get_async_error);
  find(handle, "ncclGetErrorString", library.path, library.get_error_string);
  find(handle, "ncclGetLastError", library.path, library.get_last_error);
  find(handle, "ncclAllReduce", library.path, library.all_reduce);
  find(handle, "ncclAllGather", library.path, library.all_gather);
  find(handle, "ncclReduceScatter", library.path, library.reduce_scatter);
  find(handle, "ncclBroadcast", library.path, library.broadcast);
  find(handle, "ncclSend", library.path, library.send);
  find(handle, "ncclRecv", library.path, library.receive);
  return library;
}

}  // namespace weft
