#include "launcher/doctor_findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace weft {
namespace {

// Below these a job would mostly wait.
constexpr double kSlowLatency = 1e-3;      // seconds of a small all_reduce
constexpr double kSlowAllReduce = 0.2e9;   // bytes per second; Ethernet of 1 Gbit/s moves 0.125e9
constexpr double kSlowDeviceReduce = 1e9;  // a network of 10 Gbit/s
constexpr double kSlowBus = 3e9;           // bytes per second; PCIe 3.0 with 16 lanes moves about 12e9
constexpr double kUsualFreeMemory = 0.8;   // part of a GPU's memory that a job of its own finds free
constexpr const char* kNoGpu = "no GPU";

using Ranks = std::vector<RankFacts>;

bool any_gpu(const Ranks& ranks) {
  return std::any_of(ranks.begin(), ranks.end(), [](const RankFacts& rank) { return rank.num_gpus > 0; });
}

/// "1 rank", "2 ranks".
std::string counted(size_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string rank_name(const RankFacts& rank) {
  return fmt::format("rank {} on {}", rank.rank, rank.host);
}

/// What `text` says on the first rank where it says anything, with that rank's name.
template <typename Text>
std::string first_said(const Ranks& ranks, Text text) {
  for (const RankFacts& rank : ranks) {
    if (const std::string& said = text(rank); !said.empty()) return rank_name(rank) + ": " + said;
  }
  return {};
}

Finding skipped(const char* check, std::string reason) {
  return {.check = check, .status = FindingStatus::skipped, .text = std::move(reason)};
}

Finding judge_ranks(const Ranks& ranks) {
  std::map<std::string, size_t> hosts;
  std::set<int> threads;
  for (const RankFacts& rank : ranks) {
    ++hosts[rank.host];
    threads.insert(rank.threads);
  }
  std::string threads_text = counted(static_cast<size_t>(*threads.begin()), "thread");
  if (threads.size() > 1) threads_text = fmt::format("{} to {} threads", *threads.begin(), *threads.rbegin());
  Finding finding{.check = "ranks",
                  .text = fmt::format(
                      "{} on {}, {} each", counted(ranks.size(), "rank"), counted(hosts.size(), "host"), threads_text)};
  for (const auto& [host, count] : hosts)
    finding.details.push_back(fmt::format("{}: {}", host, counted(count, "rank")));
  return finding;
}

Finding judge_binding(const Ranks& ranks) {
  std::string warning = first_said(ranks, [](const RankFacts& rank) { return rank.binding_warning; });
  if (warning.empty()) return {.check = "binding", .text = "every rank may use as many cores as it has threads"};
  return {.check = "binding", .status = FindingStatus::warning, .text = warning};
}

Finding judge_mpi(const Ranks& ranks) {
  Finding finding{.check = "MPI", .text = fmt::format("{}, {}", ranks[0].mpi_library, counted(ranks.size(), "rank"))};
  for (const RankFacts& rank : ranks) {
    if (rank.mpi_library == ranks[0].mpi_library) continue;
    finding.status = FindingStatus::warning;
    finding.details.push_back(fmt::format("{}: {}", rank_name(rank), rank.mpi_library));
    finding.advice = "use the same MPI library on all hosts";
    break;
  }
  return finding;
}

/// The slowest rank's times; the first error.
AllReduceFacts joined(const Ranks& ranks, AllReduceFacts RankFacts::*member) {
  AllReduceFacts all = ranks[0].*member;
  for (const RankFacts& rank : ranks) {
    const AllReduceFacts& mine = rank.*member;
    if (all.error.empty() && !mine.error.empty()) all.error = rank_name(rank) + ": " + mine.error;
    all.small_seconds = std::max(all.small_seconds, mine.small_seconds);
    all.large_seconds = std::max(all.large_seconds, mine.large_seconds);
  }
  return all;
}

std::string all_reduce_text(const AllReduceFacts& facts) {
  return fmt::format("{}: {} bytes in {:.1f} us, {:.0f} MB in {:.2f} ms ({:.2f} GB/s)",
                     facts.backend,
                     facts.small_bytes,
                     facts.small_seconds * 1e6,
                     static_cast<double>(facts.large_bytes) / 1e6,
                     facts.large_seconds * 1e3,
                     static_cast<double>(facts.large_bytes) / facts.large_seconds / 1e9);
}

Finding judge_host_all_reduce(const Ranks& ranks) {
  constexpr const char* kCheck = "all_reduce, host";
  if (ranks.size() == 1) return skipped(kCheck, "one rank has nobody to exchange with");
  const AllReduceFacts facts = joined(ranks, &RankFacts::host_all_reduce);
  if (!facts.error.empty()) {
    return {.check = kCheck,
            .status = FindingStatus::failed,
            .text = facts.error,
            .advice = "check MPI and the network with the MPI library's own tests; training here would go wrong"};
  }
  Finding finding{.check = kCheck, .text = all_reduce_text(facts)};
  if (static_cast<double>(facts.large_bytes) / facts.large_seconds < kSlowAllReduce) {
    finding.status = FindingStatus::warning;
    finding.advice = "name the fast network to MPI (Open MPI: --mca btl_tcp_if_include NAME)";
  } else if (facts.small_seconds > kSlowLatency) {
    finding.status = FindingStatus::warning;
    finding.advice = "start no more ranks x threads than the host has free processors";
  }
  return finding;
}

/// Each GPU once, by host and address.
std::map<std::pair<std::string, std::string>, GpuFacts> distinct_gpus(const Ranks& ranks) {
  std::map<std::pair<std::string, std::string>, GpuFacts> gpus;
  for (const RankFacts& rank : ranks) {
    for (const GpuFacts& gpu : rank.gpus) {
      const std::string address = gpu.pci_bus_id.empty() ? fmt::format("GPU {}", gpu.index) : gpu.pci_bus_id;
      gpus.try_emplace({rank.host, address}, gpu);
    }
  }
  return gpus;
}

Finding judge_no_gpus(const RankFacts& first) {
  if (!first.has_driver) return skipped("GPUs", first.no_gpu_reason);
  return {.check = "GPUs",
          .status = FindingStatus::warning,
          .text = "skipped: " + first.no_gpu_reason + ", though the machine has NVIDIA's driver",
          .advice =
              "look at nvidia-smi, at CUDA_VISIBLE_DEVICES, at the job's request for GPUs, and whether the driver is "
              "as new as the CUDA Toolkit of this build"};
}

Finding judge_gpus(const Ranks& ranks) {
  if (!any_gpu(ranks)) return judge_no_gpus(ranks[0]);
  auto gpus = distinct_gpus(ranks);
  Finding finding{.check = "GPUs", .text = counted(gpus.size(), "GPU")};
  for (const auto& [place, gpu] : gpus) {
    if (!gpu.error.empty()) {
      finding.status = FindingStatus::failed;
      finding.details.push_back(fmt::format("{} {}: {}", place.first, place.second, gpu.error));
      finding.advice = "look at nvidia-smi on that host; hide a broken GPU with CUDA_VISIBLE_DEVICES";
      continue;
    }
    finding.details.push_back(fmt::format("{} {}: {}, architecture {}, {:.1f} GB, {:.1f} GB free",
                                          place.first,
                                          place.second,
                                          gpu.name,
                                          gpu.architecture,
                                          static_cast<double>(gpu.memory_bytes) / 1e9,
                                          static_cast<double>(gpu.free_bytes) / 1e9));
    bool is_busy = static_cast<double>(gpu.free_bytes) < kUsualFreeMemory * static_cast<double>(gpu.memory_bytes);
    if (!is_busy || finding.status == FindingStatus::failed) continue;
    finding.status = FindingStatus::warning;
    finding.advice = "end the other programs that use the GPUs (nvidia-smi lists them), or plan with the memory left";
  }
  return finding;
}

/// Which rank works where, and whether several work on the same GPU.
Finding judge_assignment(const Ranks& ranks) {
  constexpr const char* kCheck = "ranks and GPUs";
  if (!any_gpu(ranks)) return skipped(kCheck, kNoGpu);
  Finding finding{.check = kCheck};
  std::set<std::pair<std::string, std::string>> used;
  for (const RankFacts& rank : ranks) {
    if (rank.gpu < 0) {
      return {.check = kCheck,
              .status = FindingStatus::failed,
              .text = fmt::format("{} sees no GPU ({}), other ranks do", rank_name(rank), rank.no_gpu_reason),
              .advice = "ask for GPUs on every host, or use --device cpu everywhere"};
    }
    const std::string address = rank.gpus.empty() ? "" : rank.gpus[0].pci_bus_id;
    used.emplace(rank.host, address.empty() ? fmt::format("GPU {}", rank.gpu) : address);
    finding.details.push_back(fmt::format("{}: cuda:{} {}", rank_name(rank), rank.gpu, address));
  }
  finding.text = fmt::format("{} on {}", counted(ranks.size(), "rank"), counted(used.size(), "GPU"));
  if (used.size() < ranks.size()) {
    finding.status = FindingStatus::warning;
    finding.text += ": ranks share a GPU, and tensors go between them by way of the host";
    finding.advice = "start one rank a GPU on each host";
  }
  return finding;
}

Finding judge_products(const Ranks& ranks) {
  constexpr const char* kCheck = "kernels, cuBLASLt";
  if (!any_gpu(ranks)) return skipped(kCheck, kNoGpu);
  std::string error = first_said(ranks, [](const RankFacts& rank) { return rank.gpu_error; });
  if (error.empty()) error = first_said(ranks, [](const RankFacts& rank) { return rank.product_error; });
  if (error.empty()) return {.check = kCheck, .text = "matrix products are right on every rank's GPU"};
  return {.check = kCheck,
          .status = FindingStatus::failed,
          .text = error,
          .advice =
              "put the folder of libcublasLt.so into LD_LIBRARY_PATH on all ranks; build for this GPU's architecture "
              "(CMAKE_CUDA_ARCHITECTURES); see docs/gpu.md"};
}

/// "12.3 GB/s", or "10.1 to 12.3 GB/s" of several ranks.
std::string speeds(const Ranks& ranks, double CopyFacts::*member) {
  double least = ranks[0].copies.*member, most = least;
  for (const RankFacts& rank : ranks) {
    least = std::min(least, rank.copies.*member);
    most = std::max(most, rank.copies.*member);
  }
  if (ranks.size() == 1) return fmt::format("{:.1f} GB/s", least / 1e9);
  return fmt::format("{:.1f} to {:.1f} GB/s", least / 1e9, most / 1e9);
}

/// Those of the checks that need a GPU that works on every rank; why there is none, else empty.
std::string no_working_gpu(const Ranks& ranks) {
  if (!any_gpu(ranks)) return kNoGpu;
  for (const RankFacts& rank : ranks) {
    if (!rank.has_working_gpu()) return fmt::format("{} has no GPU that works", rank_name(rank));
  }
  return {};
}

Finding judge_copies(const Ranks& ranks) {
  constexpr const char* kCheck = "copies";
  if (std::string reason = no_working_gpu(ranks); !reason.empty()) return skipped(kCheck, reason);
  if (std::string error = first_said(ranks, [](const RankFacts& rank) { return rank.copies.error; }); !error.empty()) {
    return {.check = kCheck,
            .status = FindingStatus::failed,
            .text = error,
            .advice = "look at dmesg and nvidia-smi -q for errors of the GPU or its bus"};
  }
  Finding finding{.check = kCheck,
                  .text = fmt::format("host to device {}, device to host {}, on the device {} (read and written)",
                                      speeds(ranks, &CopyFacts::to_device_bytes_per_second),
                                      speeds(ranks, &CopyFacts::to_host_bytes_per_second),
                                      speeds(ranks, &CopyFacts::within_bytes_per_second))};
  for (const RankFacts& rank : ranks) {
    if (std::min(rank.copies.to_device_bytes_per_second, rank.copies.to_host_bytes_per_second) >= kSlowBus) continue;
    finding.status = FindingStatus::warning;
    finding.advice = "check the lanes of the GPU's slot (nvidia-smi -q, under PCI) and what else uses the bus";
  }
  return finding;
}

Finding judge_peer_access(const Ranks& ranks) {
  constexpr const char* kCheck = "peer access";
  if (!any_gpu(ranks)) return skipped(kCheck, kNoGpu);
  Finding finding{.check = kCheck, .text = "the GPUs of a host reach each other's memory"};
  int most_gpus = 0;
  for (const RankFacts& rank : ranks) {
    if (rank.local_rank != 0) continue;
    most_gpus = std::max(most_gpus, rank.num_gpus);
    for (auto [from, to] : rank.pairs_without_peer_access) {
      finding.details.push_back(fmt::format("{}: cuda:{} cannot reach cuda:{}", rank.host, from, to));
    }
  }
  if (most_gpus < 2) return skipped(kCheck, "a rank sees one GPU only");
  if (finding.details.empty()) return finding;
  finding.status = FindingStatus::warning;
  finding.text = "some GPUs exchange by way of the host, which is slower";
  finding.advice = "put tensor-parallel ranks on GPUs that reach each other (nvidia-smi topo -m shows them)";
  return finding;
}

Finding judge_nccl(const Ranks& ranks) {
  constexpr const char* kCheck = "NCCL";
  if (!any_gpu(ranks)) return skipped(kCheck, kNoGpu);
  std::string reason = first_said(ranks, [](const RankFacts& rank) { return rank.no_nccl_reason; });
  if (!reason.empty()) {
    if (ranks.size() == 1 && ranks[0].num_gpus == 1) return skipped(kCheck, "one GPU needs none (" + reason + ")");
    return {.check = kCheck,
            .status = FindingStatus::warning,
            .text = reason + "; tensors go between the GPUs by way of the host",
            .advice =
                "install NCCL 2.18 or newer on all hosts (libnccl2), or name its file in WEFT_NCCL_LIBRARY; a build "
                "needs its header, nccl.h"};
  }
  Finding finding{.check = kCheck, .text = ranks[0].nccl_version};
  for (const RankFacts& rank : ranks) {
    if (rank.nccl_version == ranks[0].nccl_version) continue;
    finding.status = FindingStatus::warning;
    finding.details.push_back(fmt::format("{}: {}", rank_name(rank), rank.nccl_version));
    finding.advice = "use the same NCCL on all hosts";
  }
  return finding;
}

Finding judge_device_all_reduce(const Ranks& ranks) {
  constexpr const char* kCheck = "all_reduce, GPUs";
  if (!any_gpu(ranks)) return skipped(kCheck, kNoGpu);
  if (ranks.size() == 1) return skipped(kCheck, "one rank has nobody to exchange with");
  if (std::string reason = no_working_gpu(ranks); !reason.empty()) return skipped(kCheck, reason);
  const AllReduceFacts facts = joined(ranks, &RankFacts::device_all_reduce);
  if (!facts.error.empty()) {
    return {.check = kCheck,
            .status = FindingStatus::failed,
            .text = facts.error,
            .advice =
                "run again with NCCL_DEBUG=INFO; NCCL_SOCKET_IFNAME names the network; with WEFT_NCCL_LIBRARY=none "
                "tensors go by way of the host"};
  }
  Finding finding{.check = kCheck, .text = all_reduce_text(facts)};
  if (static_cast<double>(facts.large_bytes) / facts.large_seconds < kSlowDeviceReduce) {
    finding.status = FindingStatus::warning;
    finding.advice =
        "see NCCL and peer access above; between hosts NCCL_SOCKET_IFNAME and NCCL_IB_HCA name the network";
  }
  return finding;
}

}  // namespace

std::vector<Finding> judge(const std::vector<RankFacts>& ranks) {
  return {judge_ranks(ranks),
          judge_binding(ranks),
          judge_mpi(ranks),
          judge_host_all_reduce(ranks),
          judge_gpus(ranks),
          judge_assignment(ranks),
          judge_products(ranks),
          judge_copies(ranks),
          judge_peer_access(ranks),
          judge_nccl(ranks),
          judge_device_all_reduce(ranks)};
}

bool has_passed(const std::vector<Finding>& findings) {
  return std::none_of(
      findings.begin(), findings.end(), [](const Finding& finding) { return finding.status == FindingStatus::failed; });
}

}  // namespace weft
