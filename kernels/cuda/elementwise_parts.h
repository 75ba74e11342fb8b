// The slots of cuda_elementwise_kernels() that other files than kernels/cuda/elementwise.cu define.
#pragma once

#include "kernels/elementwise.h"

namespace weft::cuda {

// kernels/cuda/softmax.cu
void softmax(const SoftmaxArgs& args, const Stream& stream);
void softmax_backward(const SoftmaxBackwardArgs& args, const Stream& stream);

// kernels/cuda/transpose.cu
void transpose(const TransposeArgs& args, const Stream& stream);
void column_scale(const ColumnScaleArgs& args, const Stream& stream);
void column_scale_backward(const ColumnScaleBackwardArgs& args, const Stream& stream);

// kernels/cuda/argmax.cu
void argmax(const ArgmaxArgs& args, const Stream& stream);

// kernels/cuda/random_normal.cu
void random_normal(const RandomNormalArgs& args, const Stream& stream);

}  // namespace weft::cuda
