#include "training_checkpoint/training_checkpoint.h"

#include <fmt/format.h>

#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "models/model_folder.h"
#include "parallel/agreement.h"
#include "training_checkpoint/manifest.h"
#include "training_checkpoint/restore.h"
#include "training_checkpoint/retention.h"
#include "training_checkpoint/save.h"
#include "training_checkpoint/train_state.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

void prepare_directory(const std::string& directory) {
  try {
    fs::create_directories(directory);
    delete_partial(directory);
  } catch (const fs::filesystem_error& error) {
    fail_input("{}: cannot be used for checkpoints: {}", printable(directory), error.code().message());
  }
}

}  // namespace

class CheckpointStore::State {
 public:
  State(const Mesh& mesh, const CheckpointSubject& subject, CheckpointOptions options)
      : mesh_(mesh), subject_(subject), options_(std::move(options)) {
    // What the base cannot be saved as is said before hours of training.
    if (subject_.adapter == nullptr) model_config_json(subject_.base, DType::f32);
    if (is_rank_zero()) prepare_directory(options_.directory);
    mesh_.world().barrier();
  }

  bool begin(const TrainState& state) {
    complete();
    SavePlan plan = make_save_plan(mesh_, subject_, options_);
    step_ = state.step;
    save_ = std::make_unique<Save>(mesh_, subject_, options_, state, std::move(plan));
    if (!save_->error().empty() || !options_.background) return complete();
    return true;
  }

  std::optional<bool> advance(bool must_wait) {
    if (save_ == nullptr || !save_->advance(must_wait)) return std::nullopt;
    std::string error = save_->error();
    save_.reset();
    if (!error.empty()) {
      if (is_rank_zero()) log::warning("checkpoint of step {} was not saved: {}", step_, error);
      return false;
    }
    if (is_rank_zero()) {
      damaged_.erase(options_.directory + "/" + checkpoint_name(step_));
      delete_old(options_.directory, {options_.keep_last, options_.keep_best, options_.best_metric}, step_, damaged_);
    }
    return true;
  }

  bool complete() {
    std::optional<bool> result;
    while (save_ != nullptr) result = advance(true);
    return result.value_or(true);
  }

  std::optional<std::string> find_latest() {
    std::vector<StoredSave> saves;
    if (is_rank_zero()) saves = list_checkpoints(options_.directory);
    for (size_t i = 0;; ++i) {
      std::string path = gather_texts(mesh_.world(), i < saves.size() ? saves[i].path : "")[0];
      if (path.empty()) return std::nullopt;
      std::string error = first_error(mesh_.world(), damage_of(path));
      if (error.empty()) return path;
      damaged_.insert(path);
      if (is_rank_zero()) log::warning("checkpoint skipped: {}", error);
    }
  }

  TrainState restore(const std::string& folder) {
    TrainState state = read_train_state(folder);
    state.has_optimizer_state = restore_from(folder, subject_);
    return state;
  }

 private:
  bool is_rank_zero() const { return mesh_.world().rank() == 0; }

  /// What this rank finds wrong in its share of the files.
  std::string damage_of(const std::string& path) const {
    try {
      verify_manifest(path, static_cast<size_t>(mesh_.world().rank()), static_cast<size_t>(mesh_.world().size()));
      read_train_state(path);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }

  const Mesh& mesh_;
  CheckpointSubject subject_;
  CheckpointOptions options_;
  int64_t step_ = 0;               // of the save under way
  std::set<std::string> damaged_;  // folders
  std::unique_ptr<Save> save_;
};

CheckpointStore::CheckpointStore(const Mesh& mesh, const CheckpointSubject& subject, CheckpointOptions options)
    : state_(std::make_unique<State>(mesh, subject, std::move(options))) {}

CheckpointStore::~CheckpointStore() = default;

bool CheckpointStore::begin_save(const TrainState& state) {
  return state_->begin(state);
}

std::optional<bool> CheckpointStore::finish_save() {
  return state_->advance(false);
}

bool CheckpointStore::complete_save() {
  return state_->complete();
}

std::optional<std::string> CheckpointStore::find_latest() {
  return state_->find_latest();
}

TrainState CheckpointStore::restore(const std::string& folder) {
  return state_->restore(folder);
}

std::string checkpoint_name(int64_t step) {
  return fmt::format("step-{:08}", step);
}

}  // namespace weft
