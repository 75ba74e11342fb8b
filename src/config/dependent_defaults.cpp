#include "config/dependent_defaults.h"

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

config::DataConfig_Packing packing_of(const config::RunConfig& config) {
  bool has_prompts = config.task().kind() == config::TaskConfig::SEQUENCE_TO_SEQUENCE;
  return has_prompts && !config.data().has_packing() ? config::DataConfig::NONE : config.data().packing();
}

}  // namespace weft
