#include "checkpoint/hdf5_file.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/convert_values.h"
#include "checkpoint/file.h"
#include "checkpoint/hdf5_listing.h"
#include "checkpoint/hdf5_scan.h"
#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WEFT_HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WEFT_HAS_SANITIZER 1
#endif
#endif

namespace weft {
namespace {

// A thousand datasets take some 20 ms. Only a damaged file keeps the library busy for longer; a slow disk waits
// without using the processor.
constexpr rlim_t kMaxCpuSeconds = 2;
constexpr std::chrono::seconds kMaxWallTime(60);
[[maybe_unused]] constexpr rlim_t kMaxExtraMemory = rlim_t{512} << 20;
constexpr std::string_view kMagic = "\x89HDF\r\n\x1a\n";
constexpr int64_t kStagingElements = 32 << 10;

// A process that finds this in its environment is a scan of the file named by its value (see ScanProcess).
constexpr const char* kScanVariable = "WEFT_HDF5_SCAN";

// Bytes of address space in use now.
[[maybe_unused]] rlim_t address_space_in_use() {
  unsigned long pages = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (!file) return 0;
  bool is_read = std::fscanf(file, "%lu", &pages) == 1;
  std::fclose(file);
  return is_read ? rlim_t{pages} * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

void limit(__rlimit_resource resource, rlim_t soft, rlim_t hard) {
  rlimit limits{soft, hard};
  ::setrlimit(resource, &limits);
}

// Runs in the child: nothing that goes wrong here may last, or leave a core.
void confine_child() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_DUMPABLE, 0);
  limit(RLIMIT_CORE, 0, 0);
  limit(RLIMIT_CPU, kMaxCpuSeconds, kMaxCpuSeconds + 1);
#ifndef WEFT_HAS_SANITIZER  // whose shadow memory takes terabytes of address space
  rlim_t address_space = address_space_in_use();
  if (address_space != 0) limit(RLIMIT_AS, address_space + kMaxExtraMemory, address_space + kMaxExtraMemory);
#endif
}

// Before main, so that every program that links this can be its own scanner.
[[gnu::constructor]] void scan_if_asked() {
  const char* path = std::getenv(kScanVariable);
  if (path == nullptr) return;
  confine_child();
  Hdf5ListingWriter writer(STDOUT_FILENO);
  scan_hdf5(path, writer);
  ::_exit(0);
}

class SpawnActions {
 public:
  SpawnActions() { ::posix_spawn_file_actions_init(&actions_); }
  ~SpawnActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;
  posix_spawn_file_actions_t* get() { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

// Starts this program again as the scanner of a file; its standard output goes to `output`. A fork alone would not do:
// other threads may hold locks (of an allocator, of MPI) that nobody would open in the child.
pid_t spawn_scan(const std::string& path, int output) {
  SpawnActions actions;
  ::posix_spawn_file_actions_adddup2(actions.get(), output, STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(actions.get(), STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::string variable = std::string(kScanVariable) + "=" + path;
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  environment.push_back(variable.data());
  environment.push_back(nullptr);
  std::string name = "weft-hdf5-scan";
  std::array<char*, 2> arguments = {name.data(), nullptr};
  pid_t child = -1;
  int error = ::posix_spawn(&child, "/proc/self/exe", actions.get(), nullptr, arguments.data(), environment.data());
  if (error != 0) fail(ExitCode::failure, "cannot start the process that reads HDF5: {}", std::strerror(error));
  return child;
}

// The process that scans the file; killed and reaped when this object dies.
class ScanProcess {
 public:
  explicit ScanProcess(const std::string& path) : path_(path) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail(ExitCode::failure, "cannot make a pipe: {}", std::strerror(errno));
    output_ = ends[0];
    try {
      child_ = spawn_scan(path, ends[1]);
    } catch (...) {
      ::close(ends[0]);
      ::close(ends[1]);
      throw;
    }
    ::close(ends[1]);
  }

  ~ScanProcess() {
    ::kill(child_, SIGKILL);
    while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
    ::close(output_);
  }
  ScanProcess(const ScanProcess&) = delete;
  ScanProcess& operator=(const ScanProcess&) = delete;

  /// Everything the child writes until it ends.
  std::string read_output() {
    auto deadline = std::chrono::steady_clock::now() + kMaxWallTime;
    std::string output;
    for (;;) {
      wait_readable(deadline);
      std::array<char, 64 << 10> part;
      ssize_t got = ::read(output_, part.data(), part.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(ExitCode::failure, "cannot read from a pipe: {}", std::strerror(errno));
      if (got == 0) return output;
      output.append(part.data(), static_cast<size_t>(got));
      if (output.size() > kMaxHdf5ListingBytes) {
        fail_input("{}: not readable as HDF5: its metadata exceeds {} bytes", printable(path_), kMaxHdf5ListingBytes);
      }
    }
  }

 private:
  void wait_readable(std::chrono::steady_clock::time_point deadline) const {
    for (;;) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      pollfd waited{.fd = output_, .events = POLLIN, .revents = 0};
      int ready = left.count() > 0 ? ::poll(&waited, 1, static_cast<int>(left.count())) : 0;
      if (ready > 0) return;
      if (ready == 0)
        fail_input("{}: not readable as HDF5: listing it took over {} s", printable(path_), kMaxWallTime.count());
      if (errno != EINTR) fail(ExitCode::failure, "cannot wait for a pipe: {}", std::strerror(errno));
    }
  }

  const std::string& path_;
  pid_t child_ = -1;
  int output_ = -1;
};

void check_magic(const File& file) {
  std::string magic(kMagic.size(), '\0');
  if (file.size() >= static_cast<int64_t>(kMagic.size()))
    file.read(0, magic.data(), static_cast<int64_t>(kMagic.size()));
  if (magic != kMagic) fail_input("{}: not an HDF5 file (no HDF5 signature at its start)", printable(file.path()));
}

int64_t dataset_bytes(const Hdf5Dataset& dataset) {
  return dataset.shape.num_elements() * static_cast<int64_t>(dtype_bytes(dataset.dtype));
}

class ScannedHdf5File final : public Hdf5File {
 public:
  explicit ScannedHdf5File(const std::string& path) : file_(path) {
    check_magic(file_);
    listing_ = parse_hdf5_listing(ScanProcess(path).read_output(), path);
    for (const Hdf5Dataset& dataset : listing_.datasets) check_place(dataset);
  }

  const std::string& path() const override { return file_.path(); }
  const std::vector<Hdf5Dataset>& datasets() const override { return listing_.datasets; }

  const Hdf5Dataset* find(std::string_view wanted) const override {
    auto found =
        std::lower_bound(listing_.datasets.begin(),
                         listing_.datasets.end(),
                         wanted,
                         [](const Hdf5Dataset& dataset, std::string_view name) { return dataset.path < name; });
    return found == listing_.datasets.end() || found->path != wanted ? nullptr : &*found;
  }

  const Hdf5Attributes& attributes(std::string_view wanted) const override {
    static const Hdf5Attributes none;
    if (const Hdf5Dataset* dataset = find(wanted)) return dataset->attributes;
    auto group = listing_.group_attributes.find(wanted);
    return group == listing_.group_attributes.end() ? none : group->second;
  }

  void read(const Hdf5Dataset& dataset, void* into, DType dtype) const override {
    auto held = listing_.inline_bytes.find(dataset.path);
    if (held != listing_.inline_bytes.end()) {
      convert(dataset, held->second.data(), into, dtype, dataset.shape.num_elements());
    } else if (dataset.file_offset >= 0) {
      read_from_file(dataset, into, dtype);
    } else if (dataset.shape.num_elements() > 0) {
      fail_input("{}: dataset {} was never written", printable(path()), printable(dataset.path));
    }
  }

 private:
  void check_place(const Hdf5Dataset& dataset) const {
    int64_t bytes = dataset_bytes(dataset);
    auto held = listing_.inline_bytes.find(dataset.path);
    bool is_inside =
        dataset.file_offset < 0 || (dataset.file_offset <= file_.size() && bytes <= file_.size() - dataset.file_offset);
    bool is_whole = held == listing_.inline_bytes.end() || static_cast<int64_t>(held->second.size()) == bytes;
    if (is_inside && is_whole) return;
    fail_input("{}: dataset {} {} lies at byte {} and takes {} bytes, the file has {}; damaged or truncated",
               printable(path()),
               printable(dataset.path),
               to_string(dataset.shape),
               dataset.file_offset,
               bytes,
               file_.size());
  }

  void read_from_file(const Hdf5Dataset& dataset, void* into, DType dtype) const {
    int64_t count = dataset.shape.num_elements();
    if (dataset.dtype == dtype) return file_.read(dataset.file_offset, into, dataset_bytes(dataset));
    int64_t element_bytes = static_cast<int64_t>(dtype_bytes(dataset.dtype));
    std::vector<uint8_t> staging(static_cast<size_t>(std::min(count, kStagingElements) * element_bytes));
    char* target = static_cast<char*>(into);
    for (int64_t first = 0; first < count; first += kStagingElements) {
      int64_t part = std::min(kStagingElements, count - first);
      file_.read(dataset.file_offset + first * element_bytes, staging.data(), part * element_bytes);
      convert(dataset, staging.data(), target + first * static_cast<int64_t>(dtype_bytes(dtype)), dtype, part);
    }
  }

  void convert(const Hdf5Dataset& dataset, const void* from, void* into, DType dtype, int64_t count) const {
    if (convert_values(from, dataset.dtype, into, dtype, count)) return;
    fail_input("{}: dataset {} holds a value that doesn't fit {}",
               printable(path()),
               printable(dataset.path),
               dtype_name(dtype));
  }

  File file_;
  Hdf5Listing listing_;
};

}  // namespace

std::shared_ptr<const Hdf5File> Hdf5File::open(const std::string& path) {
  return std::make_shared<const ScannedHdf5File>(path);
}

}  // namespace weft
