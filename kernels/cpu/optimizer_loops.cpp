#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/optimizer_storage.h"

// Every product is added on its own, so that fused and separate rounding cannot be mixed differently in different
// copies of a loop: the same element gets the same bits however its weight is kept and wherever a range is cut.

namespace weft::WEFT_ISA {
namespace {

/// The constants of AdamArgs in f32.
struct AdamRule {
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  float scale, beta1_rest, beta2_rest, epsilon, root_scale, rate, decay;

  WEFT_INLINE explicit AdamRule(const AdamArgs& args)
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

  WEFT_INLINE float direction(float m, float v) const { return m / (square_root(v) * root_scale + epsilon); }
  WEFT_INLINE float updated_direction(int64_t i) const {
    float g = scale * grad[i];
    float m = exp_avg[i] + beta1_rest * (g - exp_avg[i]);
    float v = exp_avg_sq[i] + beta2_rest * (g * g - exp_avg_sq[i]);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    return direction(m, v);
  }
};

template <typename Storage>
WEFT_INLINE void decayed_step(const Storage& storage, int64_t i, float rate, float direction, float decay) {
  float w = storage.load(i);
  storage.store(i, (w - rate * direction) - decay * w);
}

}  // namespace

void adam(const AdamArgs& args, int64_t first, int64_t last) {
  AdamRule rule(args);
  with_storage(args.weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
    AdamRule local = rule;
    if (args.update_moments) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        decayed_step(storage, i, local.rate, local.updated_direction(i), local.decay);
      }
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        decayed_step(storage, i, local.rate, local.direction(local.exp_avg[i], local.exp_avg_sq[i]), local.decay);
      }
    }
  });
}

AdamNorms adam_norms(const AdamArgs& args, int64_t first, int64_t last) {
  AdamRule rule(args);
  double weight_sum = 0, update_sum = 0;
  with_exact_storage(args.weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
    AdamRule local = rule;
    double weights = 0, updates = 0;
#pragma omp simd reduction(+ : weights, updates)
    for (int64_t i = begin; i < end; ++i) {
      float w = storage.load(i);
      float update = local.updated_direction(i) + local.decay * w;
      weights += static_cast<double>(w) * w;
      updates += static_cast<double>(update) * update;
    }
    weight_sum += weights;
    update_sum += updates;
  });
  return {weight_sum, update_sum};
}

void lion(const LionArgs& args, int64_t first, int64_t last) {
  const float* grad = args.grad;
  float* exp_avg = args.exp_avg;
  float scale = static_cast<float>(args.gradient_scale);
  float beta1_rest = static_cast<float>(1 - args.beta1), beta2_rest = static_cast<float>(1 - args.beta2);
  float rate = static_cast<float>(args.rate), decay = static_cast<float>(args.decay);
  with_storage(args.weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      float difference = scale * grad[i] - exp_avg[i];
      float mixed = exp_avg[i] + beta1_rest * difference;
      float sign = mixed > 0.0f ? 1.0f : (mixed < 0.0f ? -1.0f : mixed);  // NaN stays
      exp_avg[i] = exp_avg[i] + beta2_rest * difference;
      decayed_step(storage, i, rate, sign, decay);
    }
  });
}

void apply_update(const ApplyUpdateArgs& args, int64_t first, int64_t last) {
  const float* update = args.update;
  float rate = static_cast<float>(args.rate), decay = static_cast<float>(args.decay);
  with_storage(args.weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) decayed_step(storage, i, rate, update[i], decay);
  });
}

void average_weights(const AverageArgs& args, int64_t first, int64_t last) {
  float* average = args.average;
  float rest = static_cast<float>(1 - args.momentum);
  with_exact_storage(args.weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) average[i] = average[i] + rest * (storage.load(i) - average[i]);
  });
}

void load_master(const CopyMasterArgs& args, int64_t first, int64_t last) {
  float* values = args.values;
  with_exact_storage(args.weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) values[i] = storage.load(i);
  });
}

void store_master(const CopyMasterArgs& args, int64_t first, int64_t last) {
  const float* values = args.values;
  with_exact_storage(args.weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) storage.store(i, values[i]);
  });
}

double master_sum_of_squares(const OptimizerWeight& weight, int64_t first, int64_t last) {
  double total = 0;
  with_exact_storage(weight, first, last, [&](auto storage, int64_t begin, int64_t end) WEFT_INLINE_LAMBDA {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(storage.load(i)) * storage.load(i);
    total += sum;
  });
  return total;
}

}  // namespace weft::WEFT_ISA
