// Holds a model against a golden file: what `weft verify` does.
#pragma once

#include <optional>

#include "models/registry.h"
#include "verify/comparison.h"
#include "verify/golden_file.h"

namespace weft {

struct VerifyOptions {
  DType dtype = DType::f32;
  Quantization quantization = Quantization::none;  // of a model that has no backward to run
  std::optional<double> tolerance;                 // in place of every tolerance of the file
  int num_threads = 1;
  bool show_progress = false;
};

/// The model options with what the golden file says about its model filled in where the user said nothing (family,
/// compat).
ModelOptions with_golden_options(ModelOptions options, const GoldenFile& golden);

/// Loads the model (twice when the file holds gradients: packed for inference, row-major for backward), runs it on the
/// file's inputs and compares. To be called by all ranks of context.tensor_parallel; the report, made of the largest
/// difference that any rank saw, is the same on all. Throws Error(bad_input) when the file and the model do not belong
/// together.
VerifyReport verify_model(const Context& context,
                          const OpenedModel& opened,
                          GoldenFile& golden,
                          const VerifyOptions& options);

}  // namespace weft
