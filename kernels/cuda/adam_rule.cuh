// Adam's arithmetic, shared by the update and by LAMB's norms. Products are fused into sums where the CPU's loops fuse
// them, and nowhere else, so that both give the same bits.
#pragma once

#include "kernels/cuda/packs.cuh"
#include "kernels/optimizer.h"

namespace weft::cuda {

/// The constants of AdamArgs in f32.
struct AdamRule {
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  float scale, beta1_rest, beta2_rest, epsilon, root_scale, rate, decay;

  explicit AdamRule(const AdamArgs& args)
      : grad(args.grad),
        exp_avg(args.exp_avg),
        exp_avg_sq(args.exp_avg_sq),
        scale(static_cast<float>(args.gradient_scale)),
        beta1_rest(static_cast<float>(1 - args.beta1)),
        beta2_rest(static_cast<float>(1 - args.beta2)),
        epsilon(static_cast<float>(args.epsilon)),
        root_scale(static_cast<float>(args.root_scale)),
        rate(static_cast<float>(args.rate)),
        decay(static_cast<float>(args.decay)) {}

  /// Whether packs of `elements` fit all that is read.
  bool fits(int elements, bool reads_grad) const {
    return packs_fit(exp_avg, elements) && packs_fit(exp_avg_sq, elements) &&
           (!reads_grad || packs_fit(grad, elements));
  }

  /// m / (root_scale·√v + ε) of N neighbours, after an update of m and v if kUpdatesMoments.
  template <bool kUpdatesMoments, int N>
  __device__ __forceinline__ void directions(int64_t i, float (&result)[N]) const {
    float m[N], v[N];
    load_floats(exp_avg + i, m);
    load_floats(exp_avg_sq + i, v);
    if constexpr (kUpdatesMoments) {
      float g[N];
      load_floats(grad + i, g);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        g[k] = __fmul_rn(scale, g[k]);
        m[k] = __fmaf_rn(beta1_rest, __fsub_rn(g[k], m[k]), m[k]);
        v[k] = __fmaf_rn(beta2_rest, __fmaf_rn(g[k], g[k], -v[k]), v[k]);
      }
      store_floats(exp_avg + i, m);
      store_floats(exp_avg_sq + i, v);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) result[k] = m[k] / __fmaf_rn(sqrtf(v[k]), root_scale, epsilon);
  }
};

}  // namespace weft::cuda
