// Settings of the optimizer whose defaults depend on its kind.
#pragma once

namespace weft {

namespace config {
class OptimizerConfig;
}

/// β₂: as given; else 0.99 for LION (Chen et al., 2023; Keras), the schema's for the others.
double beta2_of(const config::OptimizerConfig& optimizer);

/// μ: as given; else 0.95 for MUON (Jordan et al., 2024), 0 for the others.
double momentum_of(const config::OptimizerConfig& optimizer);

}  // namespace weft
