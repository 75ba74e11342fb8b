# Every library that Weft uses, found in one place; folders link them by name.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(Protobuf REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
# Debian's dnnl-config.cmake asks for OpenCL, which the CPU library does not use.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(DNNL::dnnl UNKNOWN IMPORTED)
set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
if(WEFT_OPENMP)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()

# Debian's libsentencepiece exports an older protobuf-lite of its own. Two protobuf runtimes in one process crash
# unless ours is linked statically, first, and keeps its symbols to itself. Always link this target, never the two.
add_library(weft_protobuf INTERFACE)
find_library(WEFT_PROTOBUF_STATIC NAMES libprotobuf.a REQUIRED)
target_include_directories(weft_protobuf SYSTEM INTERFACE ${Protobuf_INCLUDE_DIRS})
target_link_libraries(weft_protobuf INTERFACE ${WEFT_PROTOBUF_STATIC} PkgConfig::SENTENCEPIECE Threads::Threads)
target_link_options(weft_protobuf INTERFACE -Wl,--exclude-libs,libprotobuf.a)

# The GPU backend: found and reported; the CPU backend needs neither.
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
  message(STATUS "CUDA Toolkit ${CUDAToolkit_VERSION} found; NCCL: ${NCCL_LIBRARY}. Weft has no CUDA kernels yet: CPU build.")
else()
  message(STATUS "CUDA Toolkit not found: CPU build.")
endif()
