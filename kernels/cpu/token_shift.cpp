#include "kernels/token_shift.h"

#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"

namespace weft {
namespace {

/// Copies `count` rows of `bytes` each.
void copy_rows(const std::byte* from, std::byte* to, int64_t count, size_t bytes, const Stream& stream) {
  parallel_for(stream.num_threads, count, row_grain(static_cast<int64_t>(bytes / 4)), [&](int64_t begin, int64_t end) {
    size_t at = static_cast<size_t>(begin) * bytes;
    std::memcpy(to + at, from + at, static_cast<size_t>(end - begin) * bytes);
  });
}

void forward(const TokenShiftForwardArgs& args, const Stream& stream) {
  size_t bytes = static_cast<size_t>(args.width) * dtype_bytes(args.dtype);
  for (const TokenShiftSequence& sequence : args.sequences) {
    if (sequence.length == 0) continue;
    const std::byte* x = static_cast<const std::byte*>(args.x) + static_cast<size_t>(sequence.begin) * bytes;
    std::byte* y = static_cast<std::byte*>(args.y) + static_cast<size_t>(sequence.begin) * bytes;
    if (sequence.before != nullptr) {
      std::memcpy(y, sequence.before, bytes);
    } else {
      std::memset(y, 0, bytes);
    }
    copy_rows(x, y + bytes, sequence.length - 1, bytes, stream);
    if (sequence.last == nullptr) continue;
    std::memcpy(sequence.last, x + static_cast<size_t>(sequence.length - 1) * bytes, bytes);
  }
}

void backward(const TokenShiftBackwardArgs& args, const Stream& stream) {
  size_t bytes = static_cast<size_t>(args.width) * dtype_bytes(args.dtype);
  std::byte* dbefore = static_cast<std::byte*>(args.dbefore);
  for (const TokenShiftSequence& sequence : args.sequences) {
    const std::byte* dy = static_cast<const std::byte*>(args.dy) + static_cast<size_t>(sequence.begin) * bytes;
    std::byte* dx = static_cast<std::byte*>(args.dx) + static_cast<size_t>(sequence.begin) * bytes;
    if (sequence.length > 0) {
      copy_rows(dy + bytes, dx, sequence.length - 1, bytes, stream);
      std::memset(dx + static_cast<size_t>(sequence.length - 1) * bytes, 0, bytes);
    }
    if (dbefore == nullptr) continue;
    if (sequence.length > 0) {
      std::memcpy(dbefore, dy, bytes);
    } else {
      std::memset(dbefore, 0, bytes);
    }
    dbefore += bytes;
  }
}

}  // namespace

TokenShiftKernels cpu_token_shift_kernels() {
  return {.forward = forward, .backward = backward};
}

}  // namespace weft
