#include "kernels/kernels.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cuda_devices.h"
#include "kernels/guarded.h"
#include "kernels/host_packing.h"
#include "kernels/planned.h"

namespace weft {

namespace {

/// CUDA's kernels, whose weights are rounded on the host.
KernelTable cuda_with_packing() {
  KernelTable table = cuda_kernels();
  if (table.linear.packed_bytes != nullptr) table.linear.pack = pack_on_host;
  return table;
}

}  // namespace

const KernelTable& kernels(DeviceType device) {
  static const KernelTable cpu = {.linear = cpu_linear_kernels(),
                                  .rms_norm = cpu_rms_norm_kernels(),
                                  .layer_norm = cpu_layer_norm_kernels(),
                                  .rope = cpu_rope_kernels(),
                                  .attention = cpu_attention_kernels(),
                                  .relative_attention = cpu_relative_attention_kernels(),
                                  .wkv = cpu_wkv_kernels(),
                                  .token_shift = cpu_token_shift_kernels(),
                                  .activation = cpu_activation_kernels(),
                                  .embedding = cpu_embedding_kernels(),
                                  .elementwise = cpu_elementwise_kernels(),
                                  .cross_entropy = cpu_cross_entropy_kernels(),
                                  .optimizer = cpu_optimizer_kernels(),
                                  .sampling = {}};
  if (device == kPlannedDevice) return planned_kernels();
  switch (device) {
    case DeviceType::cpu:
      break;
    case DeviceType::cuda: {
      static const KernelTable cuda = cuda_with_packing();
      return cuda;
    }
    case DeviceType::guarded:
      return guarded_kernels();
  }
  return cpu;
}

MachinePeaks measure_machine_peaks(DType dtype, const Stream& stream) {
  auto measure = require_kernel(kernels(stream.device.type).linear.machine_peaks, "bench", stream.device.type);
  return measure(dtype, stream);
}

}  // namespace weft
