#include "config/optimizer_defaults.h"

#include "config/run.pb.h"

namespace weft {

double beta2_of(const config::OptimizerConfig& optimizer) {
  bool is_lion = optimizer.kind() == config::OptimizerConfig::LION;
  return is_lion && !optimizer.has_beta2() ? 0.99 : optimizer.beta2();
}

double momentum_of(const config::OptimizerConfig& optimizer) {
  bool is_muon = optimizer.kind() == config::OptimizerConfig::MUON;
  return is_muon && !optimizer.has_momentum() ? 0.95 : optimizer.momentum();
}

}  // namespace weft
