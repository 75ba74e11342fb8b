#include "launcher/mpi_session.h"

#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "parallel/mpi_communicator.h"
#include "parallel/watchdog.h"

namespace weft {
namespace {

struct Failure {
  int code = 0;
  std::string message;
};

/// The body's exit code, and what to print if it threw.
Failure run_guarded(const std::function<int()>& body) {
  try {
    return {.code = body(), .message = {}};
  } catch (const Error& error) {
    return {.code = static_cast<int>(error.code()), .message = error.what()};
  } catch (const std::bad_alloc&) {
    return {.code = static_cast<int>(ExitCode::out_of_memory), .message = "out of memory"};
  } catch (const std::exception& error) {
    return {.code = static_cast<int>(ExitCode::failure), .message = fmt::format("internal error: {}", error.what())};
  }
}

/// Ends the process if it is not destroyed in time.
class Deadline {
 public:
  Deadline(std::chrono::seconds limit, int exit_code)
      : thread_([this, limit, exit_code] {
          std::unique_lock lock(mutex_);
          if (!done_changed_.wait_for(lock, limit, [this] { return done_; })) _exit(exit_code);
        }) {}
  ~Deadline() {
    {
      std::unique_lock lock(mutex_);
      done_ = true;
    }
    done_changed_.notify_all();
    thread_.join();
  }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable done_changed_;
  bool done_ = false;
  std::thread thread_;
};

int environment_number(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

/// srun without an MPI plugin starts ranks that know nothing of each other: each would do the whole work and write the
/// same files.
void check_srun_knows_mpi(int world_size) {
  const int num_tasks = environment_number("SLURM_STEP_NUM_TASKS");
  const bool under_mpirun = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  if (num_tasks <= 1 || world_size > 1 || under_mpirun) return;
  fail(ExitCode::communication,
       "srun started {} tasks, but MPI sees only one rank; use srun --mpi=pmix (srun --mpi=list shows what there is), "
       "or weft launch without --srun",
       num_tasks);
}

int allowed_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 0;
}

}  // namespace

bool started_by_mpi_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return environment_number("SLURM_STEP_NUM_TASKS") > 1;
}

std::string binding_warning(int allowed_cores, int online_cores, int num_threads, int num_ranks) {
  const int wanted = std::min(num_threads, online_cores);
  if (allowed_cores <= 0 || allowed_cores >= wanted) return {};
  return fmt::format(
      "ranks are bound to {} core{} but want {} threads each; start them with mpirun --bind-to none -n {} weft …, or "
      "with weft launch -n {} -- …",
      allowed_cores,
      allowed_cores == 1 ? "" : "s",
      wanted,
      num_ranks,
      num_ranks);
}

MpiSession::MpiSession(int argc, char** argv) : activity_(std::make_shared<Activity>()) {
  if (!started_by_mpi_launcher()) {
    world_ = make_single_communicator();
    return;
  }
  const Failure failure = run_guarded([&] {
    start_mpi(argc, argv);
    return 0;
  });
  if (failure.code == 0) return;
  log::error("{}", failure.message);
  // The others may wait in a collective of the start: no clean end is possible, the launcher ends them.
  _exit(failure.code);
}

void MpiSession::start_mpi(int argc, char** argv) {
  int provided = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    fail(ExitCode::communication, "MPI does not start");
  }
  owns_mpi_ = true;
  if (provided < MPI_THREAD_SERIALIZED) fail(ExitCode::communication, "this MPI library does not support threads");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  world_ = make_mpi_communicator({.activity = activity_});
  check_srun_knows_mpi(world_->size());
  find_local_ranks();
  if (world_->size() > 1) watchdog_ = std::make_unique<Watchdog>(*world_, activity_);
}

void MpiSession::find_local_ranks() {
  MPI_Comm node = MPI_COMM_NULL;
  if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node) != MPI_SUCCESS) {
    fail(ExitCode::communication, "MPI_Comm_split_type failed");
  }
  MPI_Comm_rank(node, &local_rank_);
  MPI_Comm_size(node, &local_size_);
  MPI_Comm_free(&node);
}

MpiSession::~MpiSession() {
  if (!owns_mpi_) return;
  constexpr auto kTeardownLimit = std::chrono::seconds(10);
  const Deadline deadline(kTeardownLimit, exit_code_);
  watchdog_.reset();
  world_.reset();
  MPI_Finalize();
}

void MpiSession::set_activity(const char* op, int64_t step) {
  activity_->set_op(op);
  activity_->set_step(step);
}

void MpiSession::set_saved_step(int64_t step) {
  activity_->set_saved_step(step);
}

std::string MpiSession::binding_warning(int num_threads) const {
  if (rank() != 0 || !owns_mpi_) return {};
  const auto online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return weft::binding_warning(allowed_cores(), online, num_threads, size());
}

int MpiSession::run(const std::function<int()>& body) {
  const Failure failure = run_guarded(body);
  if (watchdog_) {
    exit_code_ = watchdog_->agree(failure.code, failure.message);
    return exit_code_;
  }
  if (!failure.message.empty()) log::error("{}", failure.message);
  exit_code_ = failure.code;
  return exit_code_;
}

}  // namespace weft
