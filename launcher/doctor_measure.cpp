#include "launcher/doctor_measure.h"

#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "core/error.h"
#include "kernels/cuda_devices.h"
#include "launcher/common.h"
#include "launcher/doctor_findings.h"
#include "launcher/mpi_session.h"
#include "parallel/agreement.h"
#include "parallel/nccl_communicator.h"

namespace weft {
namespace {

constexpr int64_t kSmallElements = 2;
constexpr int64_t kLargeElements = 16'000'000;  // f32: 64 MB
constexpr size_t kCopyBytes = 256'000'000;      // more than a GPU's cache holds

/// What goes wrong in `body`, as text; empty if nothing does.
std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

/// Seconds of one call, of `count`.
double seconds_of_call(int count, const std::function<void()>& call, const std::function<void()>& wait) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) call();
  wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / count;
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return printable(name.data());
}

/// The first part of what the library says of itself: "Open MPI v4.1.4".
std::string mpi_library() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "unknown MPI library";
  std::string version(text.data());
  return printable(version.substr(0, version.find_first_of(",\n")));
}

/// As MpiSession's, but of every rank, since hosts may differ.
std::string binding_warning_of(const CommonOptions& options, const MpiSession& session) {
  if (!started_by_mpi_launcher()) return {};
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return {};
  const auto online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const char* openmp_threads = std::getenv("OMP_NUM_THREADS");
  int wanted = options.threads > 0 ? options.threads : openmp_threads ? std::atoi(openmp_threads) : 0;
  if (wanted <= 0) wanted = std::max(1, online / session.local_size());
  return binding_warning(CPU_COUNT(&cores), online, wanted, session.size());
}

/// Sums the ranks' numbers; throws when the sum is wrong.
void check_sum(Communicator& ranks, Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()), static_cast<float>(ranks.rank() + 1));
  tensor.copy_from_host(values.data());
  ranks.all_reduce(tensor, ReduceOp::sum);
  tensor.copy_to_host(values.data());
  const double expected = 0.5 * ranks.size() * (ranks.size() + 1);
  for (float value : values) {
    if (std::abs(value - expected) <= 1e-5 * expected) continue;
    fail(ExitCode::communication, "an all_reduce gave {} instead of {}", value, expected);
  }
}

/// Collective. `allocator` says where the tensors lie.
AllReduceFacts measure_all_reduce(Communicator& ranks, const std::shared_ptr<Allocator>& allocator) {
  constexpr int kSmallCalls = 200, kLargeCalls = 5, kWarmUp = 10;
  Tensor small = Tensor::zeros(allocator, {kSmallElements}, DType::f32, MemoryTag::comm);
  Tensor large = Tensor::empty(allocator, {kLargeElements}, DType::f32, MemoryTag::comm);
  AllReduceFacts facts{.is_measured = true,
                       .backend = std::string(ranks.backend()),
                       .error = {},
                       .small_bytes = static_cast<int64_t>(small.bytes()),
                       .large_bytes = static_cast<int64_t>(large.bytes())};
  facts.error = error_of([&] { check_sum(ranks, large); });
  large.fill_zero();
  auto wait = [&] { allocator->synchronize(); };
  auto time = [&](Tensor& tensor, int calls, int warm_up) {
    auto call = [&] { ranks.all_reduce(tensor, ReduceOp::sum); };
    seconds_of_call(warm_up, call, wait);
    ranks.barrier();
    return seconds_of_call(calls, call, wait);
  };
  facts.small_seconds = time(small, kSmallCalls, kWarmUp);
  facts.large_seconds = time(large, kLargeCalls, 1);
  return facts;
}

GpuFacts describe_gpu(int index) {
  GpuFacts facts{.index = index};
  facts.error = error_of([&] {
    CudaDeviceInfo info = cuda_device_info(index);
    facts.name = printable(info.name);
    facts.architecture = info.architecture;
    facts.memory_bytes = info.memory_bytes;
    facts.free_bytes = info.free_bytes;
    facts.pci_bus_id = info.pci_bus_id;
  });
  return facts;
}

/// This rank's GPU and, from the first rank of a host, the others that it sees: to ask a GPU costs time and memory
/// there.
void describe_gpus(RankFacts& facts) {
  facts.gpus.push_back(describe_gpu(facts.gpu));
  if (facts.local_rank != 0) return;
  for (int from = 0; from < facts.num_gpus; ++from) {
    if (from != facts.gpu) facts.gpus.push_back(describe_gpu(from));
    for (int to = 0; to < facts.num_gpus; ++to) {
      if (to != from && !cuda_peer_access(from, to)) facts.pairs_without_peer_access.emplace_back(from, to);
    }
  }
}

/// Products of ones: for one row by a kernel of ours, backward by cuBLASLt. Throws when one is wrong.
void try_products(const Context& context) {
  constexpr int64_t kSize = 256;
  const std::vector<float> ones(static_cast<size_t>(kSize * kSize), 1.0F);
  Tensor left = context.empty({kSize, kSize}, DType::bf16);
  Tensor right = context.empty({kSize, kSize}, DType::bf16);
  Tensor result = context.zeros({kSize, kSize}, DType::bf16);
  left.set_values(ones.data(), DType::f32);
  right.set_values(ones.data(), DType::f32);
  const LinearKernels& kernels = context.kernels().linear;
  const LinearWeight weight{.weight = right.raw(), .y = result.raw(), .out_features = kSize};
  require_kernel(kernels.forward, "doctor", context.device.type)({.x = left.raw(),
                                                                  .weights = {&weight, 1},
                                                                  .rows = 1,
                                                                  .in_features = kSize,
                                                                  .dtype = DType::bf16,
                                                                  .y_dtype = DType::bf16},
                                                                 context.stream());
  const float of_one_row = to_floats(result)[kSize - 1];
  require_kernel(kernels.backward_input, "doctor", context.device.type)({.dy = left.raw(),
                                                                         .weight = right.raw(),
                                                                         .dx = result.raw(),
                                                                         .rows = kSize,
                                                                         .out_features = kSize,
                                                                         .in_features = kSize,
                                                                         .dtype = DType::bf16},
                                                                        context.stream());
  const float of_many_rows = to_floats(result).back();
  if (of_one_row == kSize && of_many_rows == kSize) return;
  fail(ExitCode::failure, "matrix products gave {} and {} instead of {}", of_one_row, of_many_rows, kSize);
}

/// Throws when what comes back is not what went there.
CopyFacts measure_copies(const Context& context) {
  constexpr int kCalls = 5;
  const auto size = static_cast<int64_t>(kCopyBytes);
  Allocator& device = *context.allocator;
  Tensor host = context.host_empty({size}, DType::u8, MemoryTag::workspace);
  Tensor first = context.empty({size}, DType::u8, MemoryTag::workspace);
  Tensor second = context.empty({size}, DType::u8, MemoryTag::workspace);
  for (size_t i = 0; i < kCopyBytes; ++i) host.data<uint8_t>()[i] = static_cast<uint8_t>(i * 2654435761U >> 24);
  auto to_device = [&] { device.copy_from_host(first.raw(), host.raw(), kCopyBytes); };
  auto within = [&] { device.copy_within(second.raw(), first.raw(), kCopyBytes); };
  auto to_host = [&] { device.copy_to_host(host.raw(), second.raw(), kCopyBytes); };
  auto wait = [&] { device.synchronize(); };
  auto speed = [&](const std::function<void()>& copy) {
    copy();
    wait();
    return static_cast<double>(kCopyBytes) / seconds_of_call(kCalls, copy, wait);
  };
  CopyFacts facts{.is_measured = true};
  facts.to_device_bytes_per_second = speed(to_device);
  facts.within_bytes_per_second = 2 * speed(within);
  std::memset(host.raw(), 0, kCopyBytes);
  facts.to_host_bytes_per_second = speed(to_host);
  for (size_t i = 0; i < kCopyBytes; ++i) {
    if (host.data<uint8_t>()[i] == static_cast<uint8_t>(i * 2654435761U >> 24)) continue;
    fail(ExitCode::failure, "byte {} came back from the GPU with another value", i);
  }
  return facts;
}

/// This rank's GPU, ready to compute on; an undefined context where there is none.
Context open_gpu(RankFacts& facts) {
  Context context;
  facts.num_gpus = cuda_device_count();
  facts.has_driver = std::filesystem::exists("/proc/driver/nvidia/version");
  if (facts.num_gpus == 0) {
    facts.no_gpu_reason = no_cuda_reason();
    return context;
  }
  facts.gpu = facts.local_rank % facts.num_gpus;
  facts.gpu_error = error_of([&] { context = make_device_context("cuda", facts.threads, facts.local_rank); });
  describe_gpus(facts);
  facts.no_nccl_reason = no_nccl_reason();
  if (facts.no_nccl_reason.empty()) facts.nccl_version = nccl_version();
  if (facts.gpu_error.empty()) facts.product_error = error_of([&] { try_products(context); });
  return context;
}

/// Collective: what needs a working GPU on every rank.
void try_gpus_together(const Context& context, const std::shared_ptr<Communicator>& world, RankFacts& facts) {
  if (!all_ranks(*world, facts.has_working_gpu())) return;
  facts.copies.error = error_of([&] { facts.copies = measure_copies(context); });
  if (world->size() == 1) return;
  const std::string error = error_of([&] {
    std::shared_ptr<Communicator> ranks = communicator_for(context, world);
    facts.device_all_reduce = measure_all_reduce(*ranks, context.allocator);
  });
  if (!error.empty()) facts.device_all_reduce.error = error;
}

}  // namespace

std::vector<RankFacts> find_facts(const CommonOptions& options, MpiSession& session) {
  const std::shared_ptr<Communicator> world = session.world();
  RankFacts facts;
  facts.rank = session.rank();
  facts.local_rank = session.local_rank();
  facts.host = host_name();
  facts.threads = resolve_threads(options, session);
  facts.binding_warning = binding_warning_of(options, session);
  facts.mpi_library = mpi_library();
  if (world->size() > 1) facts.host_all_reduce = measure_all_reduce(*world, make_cpu_allocator());
  const Context context = open_gpu(facts);
  try_gpus_together(context, world, facts);
  std::vector<RankFacts> ranks;
  for (const std::string& text : gather_texts(*world, write_facts(facts))) ranks.push_back(read_facts(text));
  return ranks;
}

}  // namespace weft
