// Checkpoints of a run: weights that other programs open, and all that is needed to go on to the bit on the same mesh,
// or on another one. A checkpoint is a folder:
//
//   model.safetensors (or several and their index), config.json, tokenizer files     as Hugging Face writes them;
//   or adapter_model.safetensors, adapter_config.json                                as PEFT writes them, with an
//   adapter ema/                        the same with the averaged weights, f32 optimizer.safetensors exp_avg/NAME,
//   exp_avg_sq/NAME, master/NAME, …: full shapes, f32 train_state.json            step, position in the data, …
//   manifest.json               size and XXH3-128 of each file; last, so that what has one is whole
//
// It is written to step-00000120.partial and renamed when it is whole. Every rank writes its own elements into shared
// files; nothing is gathered and no copy of the state is made.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/safetensors_writer.h"
#include "models/adapter.h"
#include "models/registry.h"
#include "optimizer/optimizer.h"
#include "parallel/mesh.h"

namespace weft {

struct CheckpointOptions {
  std::string directory;        // the run's folder + "/checkpoints"; made if absent
  int64_t keep_last = 2;        // at least 1
  bool keep_best = true;        // also the one with the lowest held_out_loss
  bool background = true;       // write while training goes on
  bool optimizer_state = true;  // false: weights only
  int64_t max_file_bytes = SafetensorsLayout::kDefaultFileBytes;
};

/// Where a run stands.
struct TrainState {
  int64_t step = 0;      // steps done
  int64_t updates = 0;   // of them with an update (the others were skipped)
  int64_t next_row = 0;  // of the data
  int64_t tokens_seen = 0;
  double best_loss = std::numeric_limits<double>::infinity();       // lowest held-out loss so far
  double held_out_loss = std::numeric_limits<double>::quiet_NaN();  // of these weights, if it was measured
  uint64_t seed = 0;
  uint64_t data_fingerprint = 0;  // 0: not known
  uint64_t base_fingerprint = 0;  // of the model that an adapter is trained on; 0: not known, or none
  std::string optimizer = {};     // its name; empty: not known
  /// Of restore(), not in the file: false when the checkpoint held none, so that updates count from 0 again.
  bool has_optimizer_state = true;
  // For information: any mesh can go on.
  int data_parallel = 1, tensor_parallel = 1, zero_stage = 0;
};

/// What a checkpoint is of. All of it outlives the store.
struct CheckpointSubject {
  const OpenedModel& base;  // whose config and tokenizer go beside the weights
  std::string tokenizer;    // folder or file of the tokenizer where it is not the base's
  LanguageModel& model;
  Adapter* adapter = nullptr;  // if given, the adapter is saved instead of the model
  Optimizer& optimizer;        // its pieces are what is trained
};

class CheckpointStore {
 public:
  /// Collective over the mesh, as all methods are. Makes the directory and deletes *.partial in it.
  CheckpointStore(const Context& context,
                  const Mesh& mesh,
                  const CheckpointSubject& subject,
                  CheckpointOptions options);
  /// Waits for this rank's thread; a save that is not complete is lost.
  ~CheckpointStore();

  /// Starts a save; one that is still under way is completed first. From here until finish_save() was called once,
  /// weights and optimizer state must not change (not even for a while: swap_ema, adversarial steps). With
  /// background = false it is complete on return. False when it failed: one warning was logged, what was written
  /// is removed, and the older checkpoints are still there.
  bool begin_save(const TrainState& state);
  /// To be called before every update (cheap when nothing is under way): waits until the save no longer needs the live
  /// memory, and moves it forward; the result when it ended with this call.
  std::optional<bool> finish_save();
  /// Waits until nothing is under way. False when the save failed.
  bool complete_save();

  /// The latest whole checkpoint's folder: sizes and checksums agree with its manifest. Says which others are damaged
  /// and why. The same on every rank.
  std::optional<std::string> find_latest();
  /// Reads weights (of the model or the adapter, on every rank that holds them) and optimizer state. A checkpoint
  /// without optimizer state leaves that as it is, averages and masters begin as copies of the weights, and a warning
  /// says so (has_optimizer_state). Throws Error(bad_input) when the checkpoint is of
  /// another model, adapter or optimizer.
  TrainState restore(const std::string& folder);

 private:
  class State;
  std::unique_ptr<State> state_;
};

/// "step-00000120"
std::string checkpoint_name(int64_t step);

}  // namespace weft
