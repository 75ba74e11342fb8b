// What weft doctor finds out on each rank.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace weft {

struct GpuFacts {
  int index = 0;  // as the rank that reports it counts
  std::string name = {};
  int architecture = 0;  // compute capability, 90 for an H100
  int64_t memory_bytes = 0, free_bytes = 0;
  std::string pci_bus_id = {};
  std::string error = {};  // why nothing more is known; empty if it is
};

/// One kind of all_reduce, as one rank timed it.
struct AllReduceFacts {
  bool is_measured = false;
  std::string backend = {};  // Communicator::backend()
  std::string error = {};    // what went wrong; empty if nothing did
  int64_t small_bytes = 0, large_bytes = 0;
  double small_seconds = 0, large_seconds = 0;  // of one call
};

struct CopyFacts {
  bool is_measured = false;
  std::string error = {};
  /// Between pinned host memory and the GPU, and on the GPU, where what is read and what is written both count.
  double to_device_bytes_per_second = 0, to_host_bytes_per_second = 0, within_bytes_per_second = 0;
};

struct RankFacts {
  int rank = 0, local_rank = 0;
  std::string host;
  int threads = 0;
  std::string binding_warning;  // empty if there is none
  std::string mpi_library;
  AllReduceFacts host_all_reduce, device_all_reduce;

  int num_gpus = 0;            // that this rank sees
  std::string no_gpu_reason;   // if it sees none
  bool has_driver = false;     // whether the kernel has NVIDIA's driver
  int gpu = -1;                // this rank's; -1 if there is none
  std::string gpu_error;       // why it cannot be used; empty if it can
  std::vector<GpuFacts> gpus;  // this rank's, and from the first rank of a host all that it sees
  std::vector<std::pair<int, int>> pairs_without_peer_access;  // from the first rank of a host
  std::string product_error;                                   // of a matrix product on the GPU
  CopyFacts copies;
  std::string nccl_version, no_nccl_reason;

  bool has_working_gpu() const { return gpu >= 0 && gpu_error.empty() && product_error.empty(); }
};

}  // namespace weft
