// One save under way, from its folder to its manifest.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "training_checkpoint/background_task.h"
#include "training_checkpoint/save_plan.h"

namespace weft {

/// Collective over the mesh, but for the destructor. Stages: `write` reads the live memory; `sync` and `checksum` only
/// the files. A later one begins when all ranks are through with the one before, since they share the files.
class Save {
 public:
  /// `partial` is the folder to write, `whole` its name when it is complete.
  Save(const Mesh& mesh,
       const CheckpointSubject& subject,
       const CheckpointOptions& options,
       const TrainState& state,
       SavePlan plan);
  /// Waits for this rank's thread.
  ~Save();

  /// Waits for the stage that runs, or returns at once when it may run on. True when the save has ended.
  bool advance(bool must_wait);
  /// Why it failed, the same on every rank; empty: it did not.
  const std::string& error() const { return error_; }

 private:
  enum class Stage : uint8_t { write, sync, checksum, ended };

  std::string folder_of(const FileSet& set) const;
  void create();
  void start(Stage stage);
  void write();
  void describe_weights(const std::string& folder, DType dtype) const;
  void write_set(size_t index);
  void write_state(const WriteTask& task, SafetensorsWriter& writer);
  void sync();
  void compute_checksums();
  void publish();
  void fail_save(const std::string& error);

  const Mesh& mesh_;
  const CheckpointSubject& subject_;
  const CheckpointOptions& options_;
  TrainState state_;
  SavePlan plan_;
  std::string partial_, whole_;
  Stage stage_ = Stage::write;
  std::string error_;
  std::vector<std::unique_ptr<SafetensorsWriter>> writers_;  // one a file set
  std::string checksums_;                                    // of this rank's share of the files, in lines
  std::atomic<bool> is_abandoned_ = false;
  BackgroundTask task_;  // last: ends before what it uses
};

}  // namespace weft
