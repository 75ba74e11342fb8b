#include "kernels/cpu/isa.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

CpuIsa processor_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512 && __builtin_cpu_supports("avx512bf16")) return CpuIsa::avx512_bf16;
  if (has_avx512) return CpuIsa::avx512;
  if (has_avx2) return CpuIsa::avx2;
#endif
  return CpuIsa::portable;
}

CpuIsa requested_isa() {
  const char* value = std::getenv("WEFT_CPU_ISA");
  if (value == nullptr || *value == '\0') return CpuIsa::avx512_bf16;
  constexpr std::array<std::pair<std::string_view, CpuIsa>, 4> kNames = {{{"portable", CpuIsa::portable},
                                                                          {"avx2", CpuIsa::avx2},
                                                                          {"avx512", CpuIsa::avx512},
                                                                          {"avx512_bf16", CpuIsa::avx512_bf16}}};
  for (const auto& [name, isa] : kNames) {
    if (name == value) return isa;
  }
  fail(ExitCode::usage, "WEFT_CPU_ISA={}: expected portable, avx2, avx512 or avx512_bf16", printable(value));
}

std::atomic<CpuIsa>& current_isa() {
  static std::atomic<CpuIsa> isa{std::min(requested_isa(), processor_isa())};
  return isa;
}

}  // namespace

CpuIsa cpu_isa() {
  return current_isa().load(std::memory_order_relaxed);
}

void set_cpu_isa(CpuIsa isa) {
  current_isa().store(std::min(isa, processor_isa()), std::memory_order_relaxed);
}

}  // namespace weft
