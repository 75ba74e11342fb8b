#include "kernels/wkv.h"

#include <algorithm>
#include <atomic>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

// From here on a chunk of padded tokens is faster than tokens one by one.
constexpr int64_t kMinChunkedTokens = 14;
// Multiplications below which a second thread costs more than it saves.
constexpr int64_t kMinProductsPerThread = 1 << 18;

int threads_for(const WkvForwardArgs& args, const Stream& stream) {
  int64_t tokens = 0;
  for (const WkvSequence& sequence : args.sequences) tokens += sequence.length;
  int64_t products = 3 * tokens * args.num_heads * args.head_size * args.head_size;
  int64_t tasks = static_cast<int64_t>(args.sequences.size()) * args.num_heads;
  return static_cast<int>(
      std::clamp<int64_t>(std::min(products / kMinProductsPerThread, tasks), 1, std::max(stream.num_threads, 1)));
}

/// Calls body(work) for each sequence and head, on the next free thread, with `scratch_bytes` of its own.
template <typename Body>
void for_each_head(const WkvForwardArgs& args, int64_t scratch_bytes, const Stream& stream, const Body& body) {
  int threads = threads_for(args, stream);
  auto bytes = static_cast<size_t>(scratch_bytes);
  Scratch scratch(stream, bytes * static_cast<size_t>(threads));
  int64_t tasks = static_cast<int64_t>(args.sequences.size()) * args.num_heads;
  std::atomic<int64_t> next = 0;
  parallel_for(threads, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) {
        int64_t index = task / args.num_heads;
        body(WkvWork{.sequence = &args.sequences[static_cast<size_t>(index)],
                     .index = index,
                     .head = task % args.num_heads,
                     .scratch = scratch.data() + static_cast<size_t>(thread) * bytes});
      }
    }
  });
}

void forward(const WkvForwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "wkv");
  for_each_head(args, cpu_loops().wkv_forward_scratch(args), stream, [&](const WkvWork& work) {
    bool is_short = work.sequence->length < kMinChunkedTokens && args.boundary_states == nullptr;
    (is_short ? cpu_loops().wkv_recurrent : cpu_loops().wkv_forward)(args, work);
  });
}

void recurrent(const WkvForwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "wkv recurrent");
  WEFT_ASSERT(args.boundary_states == nullptr, "boundary states are of chunks");
  for_each_head(args, cpu_loops().wkv_forward_scratch(args), stream, [&](const WkvWork& work) {
    cpu_loops().wkv_recurrent(args, work);
  });
}

/// Sums over the sequences in their order, whichever thread computed them.
template <typename R>
void add_rows(const void* rows, int64_t count, int64_t width, void* sum) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t n = 0; n < width; ++n) static_cast<R*>(sum)[n] += static_cast<const R*>(rows)[row * width + n];
  }
}

void backward(const WkvBackwardArgs& args, const Stream& stream) {
  const WkvForwardArgs& forward = args.forward;
  check_loop_dtype(forward.dtype, "wkv backward");
  WEFT_ASSERT(forward.boundary_states != nullptr, "wkv backward needs the states that forward kept");
  size_t element = forward.dtype == DType::f64 ? sizeof(double) : sizeof(float);
  auto sequences = static_cast<int64_t>(forward.sequences.size());
  int64_t width = forward.num_heads * forward.head_size;
  Scratch du(stream, static_cast<size_t>(sequences * width) * element + 1);
  for_each_head(forward, cpu_loops().wkv_backward_scratch(args), stream, [&](WkvWork work) {
    work.du = du.data() + static_cast<size_t>(work.index * width + work.head * forward.head_size) * element;
    cpu_loops().wkv_backward(args, work);
  });
  if (args.du == nullptr) return;
  if (forward.dtype == DType::f64) return add_rows<double>(du.data(), sequences, width, args.du);
  add_rows<float>(du.data(), sequences, width, args.du);
}

}  // namespace

WkvKernels cpu_wkv_kernels() {
  return {.forward = forward, .recurrent = recurrent, .backward = backward};
}

}  // namespace weft
