// The CUDA slots of the kernel table, one function a file in this folder. Float arrays in a kernel's arguments lie on
// the device; everything else (token ids, positions, targets, sequences, sizes, frequencies) lies on the host and is
// uploaded by the kernel that reads it. Elements are f32 or bf16; sums are f32.
#pragma once

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

LinearKernels cuda_linear_kernels();
RmsNormKernels cuda_rms_norm_kernels();
LayerNormKernels cuda_layer_norm_kernels();
RopeKernels cuda_rope_kernels();
AttentionKernels cuda_attention_kernels();
RelativeAttentionKernels cuda_relative_attention_kernels();
WkvKernels cuda_wkv_kernels();
TokenShiftKernels cuda_token_shift_kernels();
ActivationKernels cuda_activation_kernels();
EmbeddingKernels cuda_embedding_kernels();
ElementwiseKernels cuda_elementwise_kernels();
CrossEntropyKernels cuda_cross_entropy_kernels();
OptimizerKernels cuda_optimizer_kernels();
/// Without a kernel where the environment has WEFT_SAMPLE_ON_HOST: tokens are chosen on the host then.
SamplingKernels cuda_sampling_kernels();

}  // namespace weft
