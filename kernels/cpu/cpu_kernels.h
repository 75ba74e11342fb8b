// The CPU's kernels, one function a contract; kernels.cpp puts them into the table.
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
#include "kernels/token_shift.h"
#include "kernels/wkv.h"

namespace weft {

LinearKernels cpu_linear_kernels();
RmsNormKernels cpu_rms_norm_kernels();
LayerNormKernels cpu_layer_norm_kernels();
RopeKernels cpu_rope_kernels();
AttentionKernels cpu_attention_kernels();
RelativeAttentionKernels cpu_relative_attention_kernels();
WkvKernels cpu_wkv_kernels();
TokenShiftKernels cpu_token_shift_kernels();
ActivationKernels cpu_activation_kernels();
EmbeddingKernels cpu_embedding_kernels();
ElementwiseKernels cpu_elementwise_kernels();
void cpu_column_scale(const ColumnScaleArgs& args, const Stream& stream);
void cpu_column_scale_backward(const ColumnScaleBackwardArgs& args, const Stream& stream);
CrossEntropyKernels cpu_cross_entropy_kernels();
OptimizerKernels cpu_optimizer_kernels();

}  // namespace weft
