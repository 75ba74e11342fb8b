// What the fuzzers of the checkpoint readers share: the input as a file in memory, and the reading of all its tensors.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "core/error.h"

namespace weft {

/// A file in memory. It has a path in a folder, which HDF5 insists on: memfd_create has none.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size, const std::string& ending = {}) {
    path_ += ending;
    int descriptor = ::mkstemps(path_.data(), static_cast<int>(ending.size()));
    if (descriptor < 0 || ::write(descriptor, data, size) != static_cast<ssize_t>(size)) std::abort();
    ::close(descriptor);
  }
  ~MemoryFile() { ::unlink(path_.c_str()); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/dev/shm/weft_fuzz_XXXXXX";
};

/// Reads every tensor, and of each the box without the first and last element of its last dimension.
inline void read_all_tensors(const CheckpointReader& reader) {
  for (const std::string& name : reader.names()) {
    const Shape& shape = reader.info(name).shape;
    std::vector<float> values(static_cast<size_t>(shape.num_elements()));
    try {
      reader.read(name, values.data(), DType::f32);
    } catch (const Error&) {  // a dtype that can't be read: the next tensor may be good
      continue;
    }
    if (shape.rank() == 0 || shape[-1] < 3) continue;
    std::vector<int64_t> begin(static_cast<size_t>(shape.rank()), 0);
    std::vector<int64_t> end(shape.begin(), shape.end());
    ++begin.back();
    --end.back();
    reader.read_slice(name, begin, end, values.data(), DType::bf16);
  }
}

/// Anything but an Error for bad input is a finding.
template <typename Action>
int expect_only_input_errors(Action action) {
  try {
    action();
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_input) throw;
  }
  return 0;
}

}  // namespace weft
