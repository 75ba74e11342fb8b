#include "kernels/optimizer.h"

#include "kernels/cuda/adam_rule.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/optimizer_parts.h"
#include "kernels/cuda/optimizer_storage.cuh"

namespace weft::cuda {
namespace {

/// w −= rate·direction + decay·w, for the N masters that were loaded.
template <int N, typename Storage>
__device__ __forceinline__ void decayed_step(
    const Storage& storage, int64_t i, float (&w)[N], float rate, const float (&directions)[N], float decay) {
#pragma unroll
  for (int k = 0; k < N; ++k) w[k] = __fmaf_rn(-decay, w[k], __fmaf_rn(-rate, directions[k], w[k]));
  storage.store(i, w);
}

template <typename Storage, bool kUpdatesMoments>
struct AdamStep {
  Storage storage;
  AdamRule rule;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float w[N], directions[N];
    storage.load(i, w);  // before the stores, behind which it would wait
    rule.template directions<kUpdatesMoments>(i, directions);
    decayed_step(storage, i, w, rule.rate, directions, rule.decay);
  }
};

void adam(const AdamArgs& args, const Stream& stream) {
  check_weight(args.weight, "adam");
  AdamRule rule(args);
  with_storage(args.weight, [&](auto storage) {
    using Storage = decltype(storage);
    bool fits = storage.fits() && rule.fits(kOptimizerPack, args.update_moments);
    if (args.update_moments) {
      AdamStep<Storage, true> body{storage, rule};
      launch_packs<kOptimizerPack>(device_of(stream), args.count, fits, body, "adam");
    } else {
      AdamStep<Storage, false> body{storage, rule};
      launch_packs<kOptimizerPack>(device_of(stream), args.count, fits, body, "adam");
    }
  });
}

template <typename Storage>
struct LionStep {
  Storage storage;
  const float* grad;
  float* exp_avg;
  float scale, beta1_rest, beta2_rest, rate, decay;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float w[N], g[N], m[N];
    storage.load(i, w);
    load_floats(grad + i, g);
    load_floats(exp_avg + i, m);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float difference = __fmaf_rn(scale, g[k], -m[k]);
      float mixed = __fmaf_rn(beta1_rest, difference, m[k]);
      g[k] = mixed > 0.0f ? 1.0f : (mixed < 0.0f ? -1.0f : mixed);  // NaN stays
      m[k] = __fmaf_rn(beta2_rest, difference, m[k]);
    }
    store_floats(exp_avg + i, m);
    decayed_step(storage, i, w, rate, g, decay);
  }
};

void lion(const LionArgs& args, const Stream& stream) {
  check_weight(args.weight, "lion");
  with_storage(args.weight, [&](auto storage) {
    LionStep<decltype(storage)> body{.storage = storage,
                                     .grad = args.grad,
                                     .exp_avg = args.exp_avg,
                                     .scale = static_cast<float>(args.gradient_scale),
                                     .beta1_rest = static_cast<float>(1 - args.beta1),
                                     .beta2_rest = static_cast<float>(1 - args.beta2),
                                     .rate = static_cast<float>(args.rate),
                                     .decay = static_cast<float>(args.decay)};
    bool fits = storage.fits() && packs_fit(args.grad, kOptimizerPack) && packs_fit(args.exp_avg, kOptimizerPack);
    launch_packs<kOptimizerPack>(device_of(stream), args.count, fits, body, "lion");
  });
}

template <typename Storage>
struct UpdateStep {
  Storage storage;
  const float* update;
  float rate, decay;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float w[N], directions[N];
    storage.load(i, w);
    load_floats(update + i, directions);
    decayed_step(storage, i, w, rate, directions, decay);
  }
};

void apply_update(const ApplyUpdateArgs& args, const Stream& stream) {
  check_weight(args.weight, "apply_update");
  with_storage(args.weight, [&](auto storage) {
    UpdateStep<decltype(storage)> body{
        storage, args.update, static_cast<float>(args.rate), static_cast<float>(args.decay)};
    bool fits = storage.fits() && packs_fit(args.update, kOptimizerPack);
    launch_packs<kOptimizerPack>(device_of(stream), args.count, fits, body, "apply_update");
  });
}

template <typename Storage>
struct AverageStep {
  Storage storage;
  float* average;
  float rest;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float w[N], values[N];
    storage.load(i, w);
    load_floats(average + i, values);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = __fmaf_rn(rest, __fsub_rn(w[k], values[k]), values[k]);
    store_floats(average + i, values);
  }
};

void average(const AverageArgs& args, const Stream& stream) {
  check_weight(args.weight, "average");
  with_exact_storage(args.weight, [&](auto storage) {
    AverageStep<decltype(storage)> body{storage, args.average, static_cast<float>(1 - args.momentum)};
    bool fits = storage.fits() && packs_fit(args.average, kOptimizerPack);
    launch_packs<kOptimizerPack>(device_of(stream), args.count, fits, body, "average");
  });
}

template <typename Storage>
struct LoadStep {
  Storage storage;
  float* values;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float w[N];
    storage.load(i, w);
    store_floats(values + i, w);
  }
};

template <typename Storage>
struct StoreStep {
  Storage storage;
  const float* values;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float w[N];
    load_floats(values + i, w);
    storage.store(i, w);
  }
};

template <template <typename> typename Step>
void copy_master(const CopyMasterArgs& args, const Stream& stream) {
  check_weight(args.weight, "copy_master");
  with_exact_storage(args.weight, [&](auto storage) {
    Step<decltype(storage)> body{storage, args.values};
    bool fits = storage.fits() && packs_fit(args.values, kOptimizerPack);
    launch_packs<kOptimizerPack>(device_of(stream), args.count, fits, body, "copy_master");
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

OptimizerKernels cuda_optimizer_kernels() {
  return {.adam = cuda::adam,
          .adam_norms = cuda::adam_norms,
          .lion = cuda::lion,
          .apply_update = cuda::apply_update,
          .average = cuda::average,
          .load_master = cuda::copy_master<cuda::LoadStep>,
          .store_master = cuda::copy_master<cuda::StoreStep>,
          .sum_of_squares = cuda::sum_of_squares,
          .sum_of_all_squares = cuda::sum_of_all_squares,
          .factored_sums = cuda::factored_sums,
          .factored_update = cuda::factored_update,
          .rms_update = cuda::rms_update};
}

}  // namespace weft
