// Fields whose defaults depend on others.
#pragma once

namespace weft {

namespace config {
class OptimizerConfig;
class RunConfig;
enum DataConfig_Packing : int;  // NOLINT(readability-identifier-naming): Protobuf's
}  // namespace config

/// β₂: as given; else 0.99 for LION (Chen et al., 2023; Keras), the schema's for the others.
double beta2_of(const config::OptimizerConfig& optimizer);

/// μ: as given; else 0.95 for MUON (Jordan et al., 2024), 0 for the others.
double momentum_of(const config::OptimizerConfig& optimizer);

/// data.packing: as given; else NONE for SEQUENCE_TO_SEQUENCE, whose prompts and completions belong together, SPLIT for
/// the others.
config::DataConfig_Packing packing_of(const config::RunConfig& config);

}  // namespace weft
