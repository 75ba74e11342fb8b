// A small command with ranks, which launcher_test.cpp runs under mpirun and then maltreats: session_job MODE [RANK].
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "launcher/launch.h"
#include "launcher/mpi_session.h"

namespace weft {
namespace {

std::atomic<bool> stop_requested{false};

void say_ready(const MpiSession& session) {
  fmt::print(stderr, "ready {} {}\n", session.rank(), getpid());
}

/// Collectives without end, as a training run; says when each rank is under way, and leaves when asked to stop.
int work(MpiSession& session) {
  signal(SIGUSR1, [](int) { stop_requested = true; });
  Tensor tensor = Tensor::zeros(make_cpu_allocator(), {4608}, DType::f32);
  for (int64_t step = 1;; ++step) {
    session.set_activity("step", step);
    tensor.data<float>()[0] = stop_requested ? 1.0f : 0.0f;
    session.world()->all_reduce(tensor, ReduceOp::max);
    if (tensor.data<float>()[0] != 0) fail(ExitCode::interrupted, "interrupted at a step that all ranks share");
    if (step == 50) say_ready(session);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

/// Far more threads than cores, all of them busy for longer than the watchdog's deadline.
int compute_hard() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::vector<std::thread> threads(8);
  for (std::thread& thread : threads) {
    thread = std::thread([end] {
      while (std::chrono::steady_clock::now() < end) continue;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

int run_mode(MpiSession& session, const std::string& mode, int rank) {
  const bool is_chosen = session.rank() == rank;
  if (mode == "report") {
    fmt::print("rank {} of {}, local {} of {}, {}, OMP_NUM_THREADS {}\n",
               session.rank(),
               session.size(),
               session.local_rank(),
               session.local_size(),
               session.world()->backend(),
               std::getenv("OMP_NUM_THREADS") != nullptr ? std::getenv("OMP_NUM_THREADS") : "-");
    return 0;
  }
  if (mode == "work") return work(session);
  say_ready(session);
  if (mode == "busy") return compute_hard();
  if (mode == "throw_everywhere") fail_input("file model.safetensors: header is cut off");
  if (mode == "throw_differently") fail_input("file model-{}.safetensors: header is cut off", session.rank());
  if (mode == "throw_unexpected" && is_chosen) throw std::runtime_error("nobody expected this");
  if (mode == "throw" && is_chosen) fail_input("file shard-{}.safetensors: header is cut off", rank);
  if (mode == "return" && is_chosen) return static_cast<int>(ExitCode::verification_failed);
  if (mode == "return") return 0;
  if (mode == "exit" && is_chosen) std::exit(0);
  return work(session);
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "report";
  if (mode == "launch") return weft::run_launch({.num_ranks = 3, .hostfile = {}, .command = {argv + 2, argv + argc}});
  weft::MpiSession session(argc, argv);
  const int rank = argc > 2 ? std::atoi(argv[2]) : 0;
  const int code = session.run([&] { return weft::run_mode(session, mode, rank); });
  // An end that hangs: the other ranks must not wait for it without limit.
  if (mode == "report" && argc > 2 && session.rank() == rank) raise(SIGSTOP);
  return code;
}
