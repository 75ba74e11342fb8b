// Repeats the optimizer steps of a golden file of training and compares loss, gradient norm and learning rate of each,
// and the weights at the end.
#pragma once

#include <string>

#include "parallel/mesh.h"
#include "verify/verifier.h"

namespace weft {

struct TrainingRunOptions {
  std::string
      run;  // "full", "full_nodecay1d", "accum2_tokens", "accum2_mean", "bf16_f32compute", "bf16_bf16compute", "lora"
  int zero_stage = 0;
  Recompute recompute = Recompute::none;
  std::optional<double> tolerance;  // in place of every tolerance
  int num_threads = 1;
};

/// Collective over the mesh; the report is the same on all ranks. The adapter of "lora" is the folder lora/before
/// beside the golden file. Throws Error(usage) for an unknown run, Error(bad_input) when file and model do not belong
/// together.
VerifyReport verify_training_run(const Context& context,
                                 const Mesh& mesh,
                                 const OpenedModel& opened,
                                 GoldenFile& golden,
                                 const TrainingRunOptions& options);

}  // namespace weft
