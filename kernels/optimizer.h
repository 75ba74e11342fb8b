// The arithmetic of optimizers over runs of a parameter's elements: one pass over memory for each update. Gradients and
// moments are f32; an update is computed in f32 from the master weight and rounded once to what the weight is kept in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "core/random.h"
#include "kernels/stream.h"

namespace weft {

/// Where the elements of a run lie in the whole parameter: element i is local element first + i of a rank's slice, and
/// local element e is element (e / local_width)·full_width + offset + e % local_width of the parameter.
struct ElementMap {
  int64_t first = 0;
  int64_t local_width = 1, full_width = 1;
  int64_t offset = 0;

  constexpr int64_t full_index(int64_t i) const {
    int64_t local = first + i;
    return local / local_width * full_width + offset + local % local_width;
  }
  /// How many elements from i on are neighbours in the parameter.
  constexpr int64_t run_length(int64_t i) const { return local_width - (first + i) % local_width; }
};

/// How weights are kept, and what of their f32 master they cannot hold.
enum class WeightStorage : uint8_t {
  own,       // f32, or bf16 rounded to nearest even: the weight is its own master
  low_bits,  // bf16, the master rounded to nearest (ties away from zero); extra, int16, is the difference of the bits:
             // master = (bf16 bits << 16) + extra
  rounded,   // f32 that holds the master rounded to bf16, to nearest even; extra, f32, is the master
  stochastic,  // bf16, its own master, rounded up or down at random in proportion
};

struct OptimizerWeight {
  void* weight = nullptr;  // bf16 or f32
  void* extra = nullptr;
  DType dtype = DType::f32;
  WeightStorage storage = WeightStorage::own;
  // For stochastic: element e = map.full_index(i) is rounded by the (e % 2)-th half, low first, of key.bits(e / 2).
  ElementMap map = {};
  RandomKey key = {};

  /// The elements from `begin` on.
  OptimizerWeight from(int64_t begin) const {
    OptimizerWeight result = *this;
    int64_t extra_bytes = storage == WeightStorage::low_bits ? 2 : 4;
    result.weight = static_cast<std::byte*>(weight) + begin * static_cast<int64_t>(dtype_bytes(dtype));
    result.extra = extra == nullptr ? nullptr : static_cast<std::byte*>(extra) + begin * extra_bytes;
    result.map.first += begin;
    return result;
  }
};

/// g = gradient_scale·grad; m += (1 − β₁)(g − m); v += (1 − β₂)(g² − v); w −= rate·m / (root_scale·√v + ε) + decay·w.
/// Bias correction and both placements of ε are a matter of rate and root_scale.
struct AdamArgs {
  OptimizerWeight weight = {};
  const float* grad = nullptr;  // [count]
  float* exp_avg = nullptr;     // m
  float* exp_avg_sq = nullptr;  // v
  int64_t count = 0;
  double gradient_scale = 1;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double root_scale = 1;
  double rate = 0, decay = 0;
  bool update_moments = true;  // false: grad is not read, m and v stay
};

/// g = gradient_scale·grad; w −= rate·sign(β₁m + (1 − β₁)g) + decay·w; m = β₂m + (1 − β₂)g.
struct LionArgs {
  OptimizerWeight weight = {};
  const float* grad = nullptr;
  float* exp_avg = nullptr;
  int64_t count = 0;
  double gradient_scale = 1;
  double beta1 = 0.9, beta2 = 0.99;
  double rate = 0, decay = 0;
};

/// w −= rate·update + decay·w.
struct ApplyUpdateArgs {
  OptimizerWeight weight = {};
  const float* update = nullptr;
  int64_t count = 0;
  double rate = 0, decay = 0;
};

/// average = momentum·average + (1 − momentum)·master.
struct AverageArgs {
  OptimizerWeight weight = {};
  float* average = nullptr;
  int64_t count = 0;
  double momentum = 0;
};

/// Copies between masters and f32. Storing sets the weight too, rounded to nearest also when it is stochastic.
struct CopyMasterArgs {
  OptimizerWeight weight = {};
  float* values = nullptr;
  int64_t count = 0;
};

/// The matrix that a run belongs to: the last two dims of its parameter, [rows, columns], with leading dims counted on.
/// Element f of the parameter is in row f / columns and in column f / (rows·columns)·columns + f % columns.
struct FactoredSumsArgs {
  const float* grad = nullptr;
  ElementMap map = {};
  int64_t count = 0;
  int64_t rows = 0, columns = 0;
  double gradient_scale = 1, epsilon = 1e-30;
  double* row_sums = nullptr;               // += Σ (g² + ε) over the run's elements of each row
  double* column_sums = nullptr;            // likewise
  int64_t first_row = 0, first_column = 0;  // which row_sums[0] and column_sums[0] are
};

/// update = gradient_scale·grad·row_factors[row]·column_factors[column].
struct FactoredUpdateArgs {
  const float* grad = nullptr;
  float* update = nullptr;
  ElementMap map = {};
  int64_t count = 0;
  int64_t rows = 0, columns = 0;
  double gradient_scale = 1;
  const float* row_factors = nullptr;
  const float* column_factors = nullptr;
};

/// g = gradient_scale·grad; v = β₂v + (1 − β₂)(g² + ε); update = g/√v.
struct RmsUpdateArgs {
  const float* grad = nullptr;
  float* exp_avg_sq = nullptr;
  float* update = nullptr;
  int64_t count = 0;
  double gradient_scale = 1, beta2 = 0, epsilon = 1e-30;
  bool update_moments = true;
};

/// Σ w² and Σ (m / (root_scale·√v + ε) + decay·w)².
struct AdamNorms {
  double weight = 0, update = 0;
};

struct SquaredArray {
  const float* values = nullptr;
  int64_t count = 0;
};

/// Sums are in double and in an order that does not depend on the number of threads, but for factored_sums.
struct OptimizerKernels {
  void (*adam)(const AdamArgs&, const Stream&) = nullptr;
  /// Updates the moments, leaves the weights and returns the norms of weights and updates (LAMB).
  AdamNorms (*adam_norms)(const AdamArgs&, const Stream&) = nullptr;
  void (*lion)(const LionArgs&, const Stream&) = nullptr;
  void (*apply_update)(const ApplyUpdateArgs&, const Stream&) = nullptr;
  void (*average)(const AverageArgs&, const Stream&) = nullptr;
  void (*load_master)(const CopyMasterArgs&, const Stream&) = nullptr;
  void (*store_master)(const CopyMasterArgs&, const Stream&) = nullptr;
  /// Of the masters.
  double (*sum_of_squares)(const OptimizerWeight& values, int64_t count, const Stream&) = nullptr;
  /// Of all elements of many arrays together.
  double (*sum_of_all_squares)(std::span<const SquaredArray>, const Stream&) = nullptr;
  void (*factored_sums)(const FactoredSumsArgs&, const Stream&) = nullptr;
  void (*factored_update)(const FactoredUpdateArgs&, const Stream&) = nullptr;
  void (*rms_update)(const RmsUpdateArgs&, const Stream&) = nullptr;
};

}  // namespace weft
