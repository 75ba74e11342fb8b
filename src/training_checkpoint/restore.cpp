#include "training_checkpoint/restore.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>

#include "checkpoint/reader.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "models/adapter_file.h"
#include "models/model_config.h"
#include "training_checkpoint/save_plan.h"

namespace weft {
namespace {

/// Elements of optimizer state that are in memory twice.
constexpr int64_t kChunkElements = 256 << 10;

/// States that begin as the weights: what a checkpoint lacks of them is taken from its weights.
constexpr std::array kCopiesOfWeights = {"master", "ema", "lookahead_slow"};

/// STEM.safetensors or its index; null when there is neither.
std::unique_ptr<CheckpointReader> open_files(const std::string& folder, const std::string& stem) {
  std::string single = folder + "/" + stem + ".safetensors";
  std::string index = single + ".index.json";
  if (path_exists(index)) return open_sharded_safetensors(folder, index);
  if (path_exists(single)) return open_safetensors(single);
  return nullptr;
}

/// Reads elements [begin, end) of a parameter's slice: the rest of a row, whole rows, the begin of a row.
class SliceReader {
 public:
  SliceReader(const CheckpointReader& reader, std::string name, const Parameter& parameter)
      : reader_(reader), name_(std::move(name)), parameter_(parameter) {
    const TensorInfo& info = reader.info(name_);
    if (info.shape != parameter.full_shape) {
      fail_input("{}: {} is {}, this run has {}; was the model or the adapter changed?",
                 info.file,
                 name_,
                 to_string(info.shape),
                 to_string(parameter.full_shape));
    }
    width_ = parameter.local_shape.rank() == 2 ? parameter.local_shape[1] : 1;
  }

  void read(int64_t begin, int64_t end, void* into, DType dtype) const {
    auto* target = static_cast<std::byte*>(into);
    while (begin < end) {
      int64_t row = begin / width_;
      int64_t column = begin % width_;
      bool is_whole_rows = column == 0 && end - begin >= width_;
      int64_t num_rows = is_whole_rows ? (end - begin) / width_ : 1;
      int64_t num_columns = is_whole_rows ? width_ : std::min(width_ - column, end - begin);
      read_box(row, num_rows, column, num_columns, target, dtype);
      begin += num_rows * num_columns;
      target += static_cast<size_t>(num_rows * num_columns) * dtype_bytes(dtype);
    }
  }

 private:
  void read_box(
      int64_t row, int64_t num_rows, int64_t column, int64_t num_columns, std::byte* into, DType dtype) const {
    std::array<int64_t, 2> begin = {row, column};
    begin[static_cast<size_t>(parameter_.range.dim)] += parameter_.range.begin;
    std::array<int64_t, 2> end = {begin[0] + num_rows, begin[1] + num_columns};
    auto rank = static_cast<size_t>(parameter_.full_shape.rank());
    reader_.read_slice(name_, {begin.data(), rank}, {end.data(), rank}, into, dtype);
  }

  const CheckpointReader& reader_;
  std::string name_;
  const Parameter& parameter_;
  int64_t width_;
};

class Restorer {
 public:
  Restorer(const std::string& folder, const CheckpointSubject& subject)
      : folder_(folder), subject_(subject), weights_(open_weights(folder)), states_(open_files(folder, "optimizer")) {
    check_labels();
    std::string ema_folder = folder + "/" + kEmaState;
    // An optimizer that starts anew takes its first average from the weights.
    if (states_ != nullptr && path_exists(ema_folder)) ema_ = open_weights(ema_folder);
  }

  bool run() {
    restore_weights();
    if (states_ == nullptr) {
      log::warning("{}: holds no optimizer state; the optimizer starts anew from its weights", folder_);
    }
    for (const std::string& state : subject_.optimizer.element_states()) restore_state(state);
    if (states_ != nullptr) restore_vectors();
    return states_ != nullptr;
  }

 private:
  std::unique_ptr<CheckpointReader> open_weights(const std::string& folder) const {
    bool is_adapter = subject_.adapter != nullptr;
    auto reader = open_files(folder, is_adapter ? "adapter_model" : "model");
    if (reader == nullptr) {
      fail_input("{}: holds no {}; {}",
                 folder,
                 is_adapter ? "adapter_model.safetensors" : "model.safetensors",
                 is_adapter ? "it is of a run without lora" : "it is of a run with lora");
    }
    return reader;
  }

  /// Each label's number is that of its row in the task's layer.
  void check_labels() const {
    const TaskHead& head = subject_.model.info().task_head;
    if (head.kind == TaskHead::Kind::none) return;
    TaskHead saved = subject_.adapter != nullptr
                         ? adapter_task_head(folder_)
                         : read_task_head(*ModelConfig::from_json_file(folder_ + "/config.json"));
    if (saved.labels == head.labels) return;
    fail_input("{}: its labels are {}, this run's {}; go on with data of the same labels, or start another run",
               folder_,
               printable(fmt::format("{}", fmt::join(saved.labels, ", "))),
               printable(fmt::format("{}", fmt::join(head.labels, ", "))));
  }

  std::vector<Parameter*> saved_parameters() const {
    std::vector<Parameter*> all;
    for (Parameter& parameter : subject_.model.parameters().all()) {
      // With an adapter, those of the model that were trained as well.
      bool is_saved = subject_.adapter == nullptr || weights_->find(weight_name(subject_, parameter.name)) != nullptr;
      if (is_saved) all.push_back(&parameter);
    }
    if (subject_.adapter == nullptr) return all;
    for (Parameter& parameter : subject_.adapter->parameters().all()) all.push_back(&parameter);
    return all;
  }

  /// All of what this rank holds, since others may update parts of it; under ZeRO 3 only the pieces are in memory.
  void restore_weights() {
    for (Parameter* parameter : saved_parameters()) {
      SliceReader reader(*weights_, weight_name(subject_, parameter->name), *parameter);
      if (!parameter->value.defined() || !parameter->value.has_memory()) continue;
      read_into(reader, 0, parameter->local_shape.num_elements(), parameter->value);
    }
    for (const OptimizerPiece& piece : subject_.optimizer.pieces()) restore_piece(piece);
    // What an adapter's run freezes is the base model's.
    if (subject_.adapter != nullptr) return;
    for (const OptimizerPiece& piece : subject_.frozen) restore_piece(piece);
  }

  void restore_piece(const OptimizerPiece& piece) {
    SliceReader reader(*weights_, weight_name(subject_, piece.parameter->name), *piece.parameter);
    Tensor weight = piece.weight;
    read_into(reader, piece.begin, piece.end, weight);
  }

  /// Elements [begin, end) of a slice, which are all of `tensor`'s.
  static void read_into(const SliceReader& reader, int64_t begin, int64_t end, Tensor& tensor) {
    if (tensor.is_on_host()) return reader.read(begin, end, tensor.raw(), tensor.dtype());
    std::vector<std::byte> values(tensor.bytes());
    reader.read(begin, end, values.data(), tensor.dtype());
    tensor.copy_from_host(values.data());
  }

  void restore_state(const std::string& state) {
    bool is_copy = std::find(kCopiesOfWeights.begin(), kCopiesOfWeights.end(), state) != kCopiesOfWeights.end();
    const std::vector<OptimizerPiece>& pieces = subject_.optimizer.pieces();
    const std::string prefix = state + "/";
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (!subject_.optimizer.has_state(state, i)) continue;
      const std::string& parameter = pieces[i].parameter->name;
      std::string name = prefix + parameter;
      if (state == kEmaState && ema_ != nullptr) {
        read_into_state(*ema_, weight_name(subject_, parameter), state, i);
      } else if (states_ != nullptr && states_->find(name) != nullptr) {
        read_into_state(*states_, name, state, i);
      } else if (is_copy) {
        read_into_state(*weights_, weight_name(subject_, parameter), state, i);
      } else if (states_ != nullptr) {
        fail_input(
            "{}: holds no {}, which this run's optimizer keeps; go on with the optimizer that wrote it, or start a run "
            "from its weights",
            folder_,
            name);
      }
    }
  }

  void read_into_state(const CheckpointReader& from, const std::string& name, const std::string& state, size_t index) {
    const OptimizerPiece& piece = subject_.optimizer.pieces()[index];
    SliceReader reader(from, name, *piece.parameter);
    std::vector<float> values(static_cast<size_t>(std::min(kChunkElements, piece.end - piece.begin)));
    for (int64_t begin = piece.begin; begin < piece.end; begin += kChunkElements) {
      int64_t end = std::min(piece.end, begin + kChunkElements);
      reader.read(begin, end, values.data(), DType::f32);
      subject_.optimizer.write_state(state, index, begin - piece.begin, end - piece.begin, values.data());
    }
  }

  void restore_vectors() {
    for (OptimizerVector& vector : subject_.optimizer.vectors()) {
      std::string name = vector.name + "/" + vector.parameter;
      const TensorInfo& info = states_->info(name);
      if (info.shape.num_elements() != vector.values.num_elements()) {
        fail_input("{}: {} has {} elements, this run's optimizer keeps {}",
                   info.file,
                   name,
                   info.shape.num_elements(),
                   vector.values.num_elements());
      }
      states_->read(name, vector.values.raw(), DType::f32);
    }
  }

  std::string folder_;
  const CheckpointSubject& subject_;
  std::unique_ptr<CheckpointReader> weights_, states_, ema_;
};

}  // namespace

bool restore_from(const std::string& folder, const CheckpointSubject& subject) {
  return Restorer(folder, subject).run();
}

}  // namespace weft
