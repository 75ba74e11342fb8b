// What this rank writes of a checkpoint: runs of elements that no other rank writes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "training_checkpoint/training_checkpoint.h"

namespace weft {

/// Elements [begin, end) of a slice of one tensor, out of live memory.
struct WriteTask {
  std::string tensor;  // its name in the file
  TensorSlice slice;   // what this rank holds of it
  int64_t begin = 0, end = 0;
  Tensor memory = {};      // where they lie; undefined: they are a state of the optimizer
  int64_t origin = 0;      // element of the slice that is the first one of the memory or the piece
  std::string state = {};  // of the optimizer
  size_t piece = 0;
};

/// The tensors of a set of files, and this rank's part of them.
struct FileSet {
  std::string folder;  // relative to the checkpoint's: "" or "ema"
  std::shared_ptr<const SafetensorsLayout> layout;
  std::vector<WriteTask> tasks;
};

struct SavePlan {
  std::vector<FileSet> file_sets;
  DType weight_dtype = DType::f32;
  std::vector<std::string> saved;  // names of all parameters whose weights are saved, whichever rank updates them
  bool has_ema = false;
};

/// Collective: ranks tell each other what they hold.
SavePlan make_save_plan(const Mesh& mesh, const CheckpointSubject& subject, const CheckpointOptions& options);

/// Name of a parameter in the file that holds the weights.
std::string weight_name(const CheckpointSubject& subject, const std::string& parameter);

/// The state that is saved as weights of their own, in ema/.
inline constexpr const char* kEmaState = "ema";

}  // namespace weft
