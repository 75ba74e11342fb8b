// The table of all kernels of a device. A slot that a device lacks is empty; ops say so by name (require_kernel).
#pragma once

#include "core/error.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/relative_attention.h"
#include "kernels/rope.h"
#include "kernels/sampling.h"
#include "kernels/token_shift.h"
#include "kernels/wkv.h"

namespace weft {

struct KernelTable {
  LinearKernels linear;
  RmsNormKernels rms_norm;
  LayerNormKernels layer_norm;
  RopeKernels rope;
  AttentionKernels attention;
  RelativeAttentionKernels relative_attention;
  WkvKernels wkv;
  TokenShiftKernels token_shift;
  ActivationKernels activation;
  EmbeddingKernels embedding;
  ElementwiseKernels elementwise;
  CrossEntropyKernels cross_entropy;
  OptimizerKernels optimizer;
  SamplingKernels sampling;
};

/// Registration is explicit (kernels.cpp names every device): static initialisers in static libraries get dropped by
/// the linker.
const KernelTable& kernels(DeviceType device);

/// The kernel itself, or Error(failure): "rms_norm has no cuda kernel in this build".
template <typename Function>
Function require_kernel(Function function, const char* name, DeviceType device) {
  if (function == nullptr) fail(ExitCode::failure, "{} has no {} kernel in this build", name, device_name(device));
  return function;
}

}  // namespace weft
