#include "kernels/cuda/cudnn_library.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <vector>

#include "core/error.h"

/// Through which the frontend's headers find cuDNN's functions (NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING).
namespace cudnn_frontend {
extern void* cudnn_dlhandle;
void* cudnn_dlhandle = nullptr;
}  // namespace cudnn_frontend

namespace weft::cuda {
namespace {

std::string loader_error() {
  const char* text = dlerror();
  return printable(text == nullptr ? "unknown error" : text, 300);
}

/// The folder of a loaded library, with a slash; empty if it is not known.
std::string folder_of(void* handle) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr || map->l_name == nullptr) return "";
  std::string path = map->l_name;
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

/// Where pip's packages, a toolkit and the loader have CUDA's libraries. One that is loaded is found by its bare name
/// from then on.
bool load_of_cuda(const std::string& name, const std::string& beside) {
  std::vector<std::string> folders = {""};
  if (!beside.empty()) {
    for (const char* place : {"", "../../cu13/lib/", "../../cuda_runtime/lib/", "../../cuda_nvrtc/lib/"})
      folders.push_back(beside + place);
  }
  folders.insert(folders.end(), {"/usr/local/cuda/lib64/", "/usr/local/cuda/lib/"});
  for (const std::string& folder : folders) {
    if (dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return true;
  }
  dlerror();
  return false;
}

CudnnLibrary load_library() {
  const char* named = std::getenv("WEFT_CUDNN_LIBRARY");
  std::string path = named != nullptr && *named != '\0' ? named : "libcudnn.so.9";
  CudnnLibrary library;
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.reason = fmt::format(
        "cuDNN cannot be loaded: {}; install cuDNN 9, or name its libcudnn.so.9 in WEFT_CUDNN_LIBRARY", loader_error());
    return library;
  }
  std::string beside = folder_of(handle);
  for (const char* stem : {"libcudart.so.", "libnvrtc.so."}) {
    std::string name = stem + std::to_string(CUDART_VERSION / 1000);
    if (load_of_cuda(name, beside)) continue;
    library.reason = fmt::format("cuDNN needs {}, which was not found; put its folder into LD_LIBRARY_PATH", name);
    return library;
  }
  library.handle = cudnn_frontend::cudnn_dlhandle = handle;
  return library;
}

}  // namespace

const CudnnLibrary& cudnn_library() {
  static const CudnnLibrary library = load_library();
  return library;
}

}  // namespace weft::cuda
