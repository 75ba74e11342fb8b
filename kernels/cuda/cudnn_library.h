// cuDNN as it is found at run time: a build needs its headers only.
#pragma once

#include <string>

namespace weft::cuda {

struct CudnnLibrary {
  void* handle = nullptr;  // null: there is none
  std::string reason;      // why
};

/// The file that the environment variable WEFT_CUDNN_LIBRARY names, else libcudnn.so.9, loaded at the first call and
/// kept. The libraries of CUDA that cuDNN and its frontend open by name are loaded along, from beside it if need be.
const CudnnLibrary& cudnn_library();

}  // namespace weft::cuda
