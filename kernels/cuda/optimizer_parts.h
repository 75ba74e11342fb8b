// The slots of cuda_optimizer_kernels() that other files than kernels/cuda/optimizer.cu define.
#pragma once

#include "kernels/optimizer.h"

namespace weft::cuda {

// kernels/cuda/optimizer_sums.cu
AdamNorms adam_norms(const AdamArgs& args, const Stream& stream);
double sum_of_all_squares(std::span<const SquaredArray> arrays, const Stream& stream);
double sum_of_squares(const OptimizerWeight& values, int64_t count, const Stream& stream);

// kernels/cuda/optimizer_factored.cu
void factored_sums(const FactoredSumsArgs& args, const Stream& stream);
void factored_update(const FactoredUpdateArgs& args, const Stream& stream);
void rms_update(const RmsUpdateArgs& args, const Stream& stream);

}  // namespace weft::cuda
