#include "optimizer/optimizer.h"
#include "optimizer/update_rule.h"

namespace weft {
namespace {

double master_bytes(const OptimizerOptions& options, DType weight_dtype) {
  bool is_bf16 = weight_dtype == DType::bf16;
  switch (options.master_weights) {
    case MasterWeights::full:
      return is_bf16 ? 2 : 0;
    case MasterWeights::rounded:
      return is_bf16 ? 2 : 4;
    default:
      return 0;
  }
}

double moment_bytes(const OptimizerOptions& options, const Shape& full_shape, int64_t block) {
  switch (options.kind) {
    case OptimizerKind::adamw:
    case OptimizerKind::adam:
    case OptimizerKind::lamb:
      return 8;
    case OptimizerKind::lion:
      return 4;
    case OptimizerKind::sgd:
      return options.momentum == 0 ? 0 : 4;
    case OptimizerKind::muon:
      return is_muon_matrix(full_shape, block) ? 4 : 8;
    case OptimizerKind::adafactor:
      return full_shape.rank() >= 2 ? 0 : 4;
  }
  return 0;
}

}  // namespace

double optimizer_bytes_per_element(const OptimizerOptions& options,
                                   DType weight_dtype,
                                   const Shape& full_shape,
                                   int64_t block) {
  double copies = (options.ema_momentum != 0 ? 4 : 0) + (options.lookahead_steps > 0 ? 4 : 0);
  return master_bytes(options, weight_dtype) + moment_bytes(options, full_shape, block) + copies;
}

double optimizer_bytes_per_element(const OptimizerOptions& options, DType weight_dtype) {
  return optimizer_bytes_per_element(options, weight_dtype, {1, 1}, 0);
}

}  // namespace weft
