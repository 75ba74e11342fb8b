// Which instruction set the CPU's kernels run with.
#pragma once

namespace weft {

enum class CpuIsa { portable, avx2, avx512, avx512_bf16 };

/// The best that this processor offers, lowered by the environment variable
/// WEFT_CPU_ISA=portable|avx2|avx512|avx512_bf16 (read once; a name that does not exist throws Error(usage)) or by
/// set_cpu_isa.
CpuIsa cpu_isa();

/// For tests: use `isa` from now on, or what the processor offers if that is less. Not while kernels run.
void set_cpu_isa(CpuIsa isa);

}  // namespace weft
