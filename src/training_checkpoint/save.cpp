#include "training_checkpoint/save.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "core/error.h"
#include "models/adapter_file.h"
#include "models/model_folder.h"
#include "parallel/agreement.h"
#include "training_checkpoint/manifest.h"
#include "training_checkpoint/train_state.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

/// Elements of optimizer state that are in memory twice.
constexpr int64_t kChunkElements = 256 << 10;

/// The text of what `work` throws; empty if nothing.
template <typename Work>
std::string error_of(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

}  // namespace

Save::Save(const Mesh& mesh,
           const CheckpointSubject& subject,
           const CheckpointOptions& options,
           const TrainState& state,
           SavePlan plan)
    : mesh_(mesh),
      subject_(subject),
      options_(options),
      state_(state),
      plan_(std::move(plan)),
      partial_(options.directory + "/" + checkpoint_name(state.step) + ".partial"),
      whole_(options.directory + "/" + checkpoint_name(state.step)) {
  bool is_rank_zero = mesh_.world().rank() == 0;
  std::string error = first_error(mesh_.world(), is_rank_zero ? error_of([&] { create(); }) : "");
  if (error.empty()) {
    start(Stage::write);
  } else {
    fail_save(error);
  }
}

Save::~Save() {
  is_abandoned_ = true;
}

std::string Save::folder_of(const FileSet& set) const {
  return set.folder.empty() ? partial_ : partial_ + "/" + set.folder;
}

/// Takes the room for everything, so that a full disk is noticed before anything is written.
void Save::create() {
  fs::remove_all(partial_);
  for (const FileSet& set : plan_.file_sets) {
    std::string folder = folder_of(set);
    fs::create_directories(folder);
    create_safetensors(folder, *set.layout);
  }
}

void Save::start(Stage stage) {
  stage_ = stage;
  task_.start(options_.background, [this, stage] {
    switch (stage) {
      case Stage::write:
        return write();
      case Stage::sync:
        return sync();
      case Stage::checksum:
        return compute_checksums();
      case Stage::ended:
        return;
    }
  });
}

bool Save::advance(bool must_wait) {
  if (stage_ == Stage::ended) return true;
  bool may_run_on = stage_ != Stage::write && !must_wait;
  if (may_run_on && !all_ranks(mesh_.world(), task_.is_done())) return false;
  std::string error = first_error(mesh_.world(), task_.wait());
  if (!error.empty()) {
    fail_save(error);
  } else if (stage_ == Stage::write) {
    start(Stage::sync);
  } else if (stage_ == Stage::sync) {
    start(Stage::checksum);
  } else {
    publish();
  }
  return stage_ == Stage::ended;
}

void Save::write() {
  for (size_t i = 0; i < plan_.file_sets.size(); ++i) {
    const FileSet& set = plan_.file_sets[i];
    std::string folder = folder_of(set);
    writers_.push_back(std::make_unique<SafetensorsWriter>(folder, set.layout));
    write_set(i);
  }
  if (mesh_.world().rank() != 0) return;
  describe_weights(partial_, plan_.weight_dtype);
  if (plan_.has_ema) describe_weights(partial_ + "/" + kEmaState, DType::f32);
  write_whole_file(partial_ + "/train_state.json", train_state_json(state_));
}

/// What makes a folder with weights one that other programs open.
void Save::describe_weights(const std::string& folder, DType dtype) const {
  if (subject_.adapter == nullptr)
    return write_model_files(subject_.base, ModelFormat::huggingface, dtype, subject_.tokenizer, folder);
  write_whole_file(folder + "/adapter_config.json",
                   adapter_config_json(subject_.adapter->options(),
                                       subject_.adapter->parameters(),
                                       plan_.saved,
                                       subject_.base.path,
                                       subject_.model.info()));
}

void Save::write_set(size_t index) {
  SafetensorsWriter& writer = *writers_[index];
  for (const WriteTask& task : plan_.file_sets[index].tasks) {
    if (is_abandoned_) return;
    if (!task.memory) {
      write_state(task, writer);
      continue;
    }
    DType dtype = task.memory.dtype();
    Tensor values = on_host(task.memory);
    const auto* memory = static_cast<const std::byte*>(values.raw());
    writer.write_slice(task.tensor,
                       task.slice,
                       task.begin,
                       task.end,
                       memory + static_cast<size_t>(task.begin - task.origin) * dtype_bytes(dtype),
                       dtype);
  }
}

void Save::write_state(const WriteTask& task, SafetensorsWriter& writer) {
  std::vector<float> values(static_cast<size_t>(std::min(kChunkElements, task.end - task.begin)));
  for (int64_t begin = task.begin; begin < task.end && !is_abandoned_; begin += kChunkElements) {
    int64_t end = std::min(task.end, begin + kChunkElements);
    subject_.optimizer.read_state(task.state, task.piece, begin - task.origin, end - task.origin, values.data());
    writer.write_slice(task.tensor, task.slice, begin, end, values.data(), DType::f32);
  }
}

void Save::sync() {
  for (const auto& writer : writers_) writer->sync();
  if (mesh_.world().rank() != 0) return;
  for (const std::string& name : list_checkpoint_files(partial_)) sync_file(partial_ + "/" + name);
  for (const FileSet& set : plan_.file_sets) sync_directory(folder_of(set));
}

void Save::compute_checksums() {
  writers_.clear();
  std::vector<std::string> names = list_checkpoint_files(partial_);
  auto num_ranks = static_cast<size_t>(mesh_.world().size());
  for (size_t i = static_cast<size_t>(mesh_.world().rank()); i < names.size() && !is_abandoned_; i += num_ranks) {
    std::string path = partial_ + "/" + names[i];
    checksums_ += fmt::format("{}\t{}\t{}\n", file_checksum(path), File(path).size(), names[i]);
  }
}

void Save::publish() {
  std::vector<std::string> texts = gather_texts(mesh_.world(), checksums_);
  std::string error;
  if (mesh_.world().rank() == 0) {
    std::vector<ManifestFile> files;
    for (const std::string& text : texts) {
      std::istringstream words(text);
      for (ManifestFile file; words >> file.checksum >> file.bytes && std::getline(words >> std::ws, file.name);) {
        files.push_back(file);
      }
    }
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    error = error_of([&] {
      write_manifest(partial_, files);
      // What is there under this name is damaged, or of a run that did not go on from it.
      if (fs::exists(whole_)) fs::remove_all(whole_);
      rename_durably(partial_, whole_);
    });
  }
  error = first_error(mesh_.world(), error);
  if (!error.empty()) return fail_save(error);
  stage_ = Stage::ended;
}

void Save::fail_save(const std::string& error) {
  error_ = error;
  stage_ = Stage::ended;
  writers_.clear();
  std::error_code ignored;
  if (mesh_.world().rank() == 0) fs::remove_all(partial_, ignored);
}

}  // namespace weft
