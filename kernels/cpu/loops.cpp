#include "kernels/cpu/loops.h"

#include "kernels/cpu/isa.h"

namespace weft {

namespace portable {
extern const CpuLoops kCpuLoops;
}
#if defined(WEFT_X86_LOOPS)
namespace avx2 {
extern const CpuLoops kCpuLoops;
}
namespace avx512 {
extern const CpuLoops kCpuLoops;
}
namespace avx512_bf16 {
extern const CpuLoops kCpuLoops;
}
#endif

const CpuLoops& cpu_loops() {
#if defined(WEFT_X86_LOOPS)
  switch (cpu_isa()) {
    case CpuIsa::avx512_bf16:
      return avx512_bf16::kCpuLoops;
    case CpuIsa::avx512:
      return avx512::kCpuLoops;
    case CpuIsa::avx2:
      return avx2::kCpuLoops;
    case CpuIsa::portable:
      break;
  }
#endif
  return portable::kCpuLoops;
}

}  // namespace weft
