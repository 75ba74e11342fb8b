#include "kernels/rope.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

// A sine and a cosine in double cost as much as about this many elements of a loop that streams.
constexpr int64_t kCostOfAngle = 64;

void table(const RopeTableArgs& args, const Stream& stream) {
  if (args.dtype != DType::f32 && args.dtype != DType::f64) {
    fail(ExitCode::failure, "rope_table has no cpu kernel for {}", dtype_name(args.dtype));
  }
  parallel_for(
      stream.num_threads, args.rows, row_grain(args.rotary_dim * kCostOfAngle), [&](int64_t begin, int64_t end) {
        cpu_loops().rope_table(args, begin, end);
      });
}

void rotate(const RopeArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "rope");
  parallel_for(
      stream.num_threads, args.rows, row_grain(args.num_heads * args.rotary_dim), [&](int64_t begin, int64_t end) {
        cpu_loops().rope_rotate(args, begin, end);
      });
}

}  // namespace

RopeKernels cpu_rope_kernels() {
  return {.table = table, .rotate = rotate};
}

}  // namespace weft
