#include "training_checkpoint/save_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "models/adapter_file.h"
#include "parallel/agreement.h"

namespace weft {
namespace {

constexpr std::string_view kEmaPrefix = "ema/";

/// A vector of the optimizer as a tensor of a file.
std::string vector_name(const OptimizerVector& vector) {
  return vector.name + "/" + vector.parameter;
}

std::string state_name(const std::string& state, const OptimizerPiece& piece) {
  return state + "/" + piece.parameter->name;
}

/// What a rank holds, in lines of tab-separated words that the others can read.
class Inventory {
 public:
  std::set<std::string> trained;
  std::set<std::string> states;            // STATE/PARAMETER
  std::map<std::string, int64_t> vectors;  // name → elements
  std::string pieces;                      // all lines about pieces: equal on ranks that hold the same ones

  static std::string describe(Optimizer& optimizer) {
    std::string text;
    std::vector<std::string> states = optimizer.element_states();
    for (size_t i = 0; i < optimizer.pieces().size(); ++i) {
      const OptimizerPiece& piece = optimizer.pieces()[i];
      text += fmt::format("piece\t{}\t{}\t{}\n", piece.parameter->name, piece.begin, piece.end);
      for (const std::string& state : states) {
        if (optimizer.has_state(state, i)) text += fmt::format("state\t{}\t0\t0\n", state_name(state, piece));
      }
    }
    for (const OptimizerVector& vector : optimizer.vectors()) {
      text += fmt::format("vector\t{}\t{}\t0\n", vector_name(vector), vector.values.num_elements());
    }
    return text;
  }

  explicit Inventory(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) read_line(line);
  }

 private:
  void read_line(const std::string& line) {
    std::istringstream words(line);
    std::string kind;
    std::string name;
    int64_t number = 0;
    std::getline(words, kind, '\t');
    std::getline(words, name, '\t');
    words >> number;
    if (kind == "state") states.insert(name);
    if (kind == "vector") vectors.emplace(name, number);
    if (kind != "piece") return;
    trained.insert(name);
    pieces += line + "\n";
  }
};

class Planner {
 public:
  Planner(const Mesh& mesh, const CheckpointSubject& subject, const CheckpointOptions& options)
      : mesh_(mesh), subject_(subject), options_(options), place_(subject.model.parameters().place()) {
    for (const std::string& text : gather_texts(mesh.world(), Inventory::describe(subject.optimizer))) {
      inventories_.emplace_back(text);
      const Inventory& last = inventories_.back();
      trained_.insert(last.trained.begin(), last.trained.end());
      states_.insert(last.states.begin(), last.states.end());
      vectors_.insert(last.vectors.begin(), last.vectors.end());
    }
    shares_pieces_ = same_on_data_parallel_ranks();
    const ModelDefinition& definition = subject.base.definition;
    if (subject.adapter != nullptr || !definition.constants) return;
    const Context host = make_cpu_context(1);
    for (const ConstantTensor& constant : definition.constants(ModelFormat::huggingface)) {
      Tensor values = host.host_zeros(constant.shape, DType::f32);
      values.set_values(constant.values.data(), DType::f32);
      constants_.emplace_back(constant.name, values);
    }
  }

  SavePlan plan() {
    SavePlan plan;
    plan.has_ema = std::erase_if(states_, [](const std::string& name) { return name.starts_with(kEmaPrefix); }) > 0;
    plan.file_sets.push_back(weights("", "", plan));
    if (plan.has_ema) plan.file_sets.push_back(weights("ema", kEmaState, plan));
    if (options_.optimizer_state) plan.file_sets.push_back(optimizer_states());
    for (const Parameter* parameter : saved_parameters()) plan.saved.push_back(parameter->name);
    return plan;
  }

 private:
  /// Ranks of this rank's data-parallel group are those with the same rest by the tensor-parallel degree.
  bool same_on_data_parallel_ranks() const {
    auto degree = static_cast<size_t>(mesh_.tensor_parallel().size());
    auto rank = static_cast<size_t>(mesh_.world().rank());
    if (mesh_.data_parallel().size() == 1) return false;
    for (size_t peer = rank % degree; peer < inventories_.size(); peer += degree) {
      if (inventories_[peer].pieces != inventories_[rank].pieces) return false;
    }
    return true;
  }

  /// In the model's order, then the adapter's.
  std::vector<const Parameter*> all_parameters() const {
    std::vector<const Parameter*> all;
    for (const Parameter& parameter : subject_.model.parameters().all()) all.push_back(&parameter);
    if (subject_.adapter == nullptr) return all;
    for (const Parameter& parameter : subject_.adapter->parameters().all()) all.push_back(&parameter);
    return all;
  }

  std::vector<const Parameter*> trained_parameters() const {
    std::vector<const Parameter*> trained = all_parameters();
    std::erase_if(trained, [&](const Parameter* parameter) { return trained_.count(parameter->name) == 0; });
    return trained;
  }

  /// The whole of the model, or what goes into an adapter file.
  std::vector<const Parameter*> saved_parameters() const {
    std::vector<const Parameter*> saved = all_parameters();
    if (subject_.adapter == nullptr) return saved;
    std::erase_if(saved, [&](const Parameter* parameter) {
      return trained_.count(parameter->name) == 0 && replaced_value(*parameter) == nullptr;
    });
    return saved;
  }

  /// The adapter's own value of a parameter of the model; null: it has none.
  const Tensor* replaced_value(const Parameter& parameter) const {
    if (subject_.adapter == nullptr) return nullptr;
    const std::vector<ReplacedParameter>& replaced = subject_.adapter->replaced();
    auto found = std::find_if(
        replaced.begin(), replaced.end(), [&](const ReplacedParameter& one) { return one.parameter == &parameter; });
    return found == replaced.end() ? nullptr : &found->value;
  }

  /// Weights as they are, or a state in their place.
  FileSet weights(const std::string& folder, const std::string& state, SavePlan& plan) const {
    FileSet set;
    set.folder = folder;
    std::vector<OutputTensor> tensors;
    for (const Parameter* parameter : saved_parameters()) {
      bool is_state = !state.empty() && trained_.count(parameter->name) > 0;
      DType dtype = is_state ? DType::f32 : parameter->value.dtype();
      if (state.empty()) plan.weight_dtype = dtype;
      tensors.push_back({weight_name(subject_, parameter->name), parameter->full_shape, dtype});
      if (trained_.count(parameter->name) == 0) add_frozen(*parameter, set);
    }
    const std::vector<OptimizerPiece>& pieces = subject_.optimizer.pieces();
    for (size_t i = 0; i < pieces.size(); ++i) {
      add_piece(weight_name(subject_, pieces[i].parameter->name), i, state, set);
    }
    for (const auto& [name, values] : constants_) {
      tensors.push_back({name, values.shape(), DType::f32});
      int64_t size = values.num_elements();
      if (mesh_.world().rank() != 0) continue;
      set.tasks.push_back(
          {.tensor = name, .slice = {0, 0, values.size(0)}, .begin = 0, .end = size, .memory = values.detach()});
    }
    // PEFT knows no adapters of several files.
    bool is_adapter = subject_.adapter != nullptr;
    set.layout =
        std::make_shared<SafetensorsLayout>(is_adapter ? "adapter_model" : "model",
                                            std::move(tensors),
                                            is_adapter ? std::numeric_limits<int64_t>::max() : options_.max_file_bytes);
    return set;
  }

  FileSet optimizer_states() const {
    FileSet set;
    std::vector<OutputTensor> tensors;
    std::map<std::string, Shape> shapes;
    for (const Parameter* parameter : trained_parameters()) shapes[parameter->name] = parameter->full_shape;
    for (const std::string& name : states_) {
      tensors.push_back({name, shapes.at(name.substr(name.find('/') + 1)), DType::f32});
    }
    for (size_t i = 0; i < subject_.optimizer.pieces().size(); ++i) {
      for (const std::string& state : subject_.optimizer.element_states()) {
        std::string name = state_name(state, subject_.optimizer.pieces()[i]);
        if (states_.count(name) > 0) add_piece(name, i, state, set);
      }
    }
    for (const auto& [name, size] : vectors_) tensors.push_back({name, {size}, DType::f32});
    for (const OptimizerVector& vector : subject_.optimizer.vectors()) add_vector(vector, set);
    set.layout = std::make_shared<SafetensorsLayout>("optimizer", std::move(tensors), options_.max_file_bytes);
    return set;
  }

  /// Part of [begin, end) that falls to this rank where all data-parallel ranks hold the same.
  std::array<int64_t, 2> share(int64_t begin, int64_t end) const {
    int64_t size = mesh_.data_parallel().size();
    int64_t rank = mesh_.data_parallel().rank();
    return {begin + (end - begin) * rank / size, begin + (end - begin) * (rank + 1) / size};
  }

  static TensorSlice slice_of(const Parameter& parameter) {
    return {parameter.range.dim, parameter.range.begin, parameter.range.end};
  }

  void add_piece(const std::string& tensor, size_t index, const std::string& state, FileSet& set) const {
    const OptimizerPiece& piece = subject_.optimizer.pieces()[index];
    if (!is_first_holder(piece.parameter->shard, place_)) return;
    auto [begin, end] = shares_pieces_ ? share(piece.begin, piece.end) : std::array{piece.begin, piece.end};
    if (begin == end) return;
    set.tasks.push_back({.tensor = tensor,
                         .slice = slice_of(*piece.parameter),
                         .begin = begin,
                         .end = end,
                         .memory = state.empty() ? piece.weight.detach() : Tensor(),
                         .origin = piece.begin,
                         .state = state,
                         .piece = index});
  }

  void add_frozen(const Parameter& parameter, FileSet& set) const {
    if (!is_first_holder(parameter.shard, place_)) return;
    const Tensor* replaced = replaced_value(parameter);
    const Tensor& value = replaced == nullptr ? parameter.value : *replaced;
    if (!value.has_memory()) return add_frozen_pieces(parameter, set);
    auto [begin, end] = share(0, parameter.local_shape.num_elements());
    set.tasks.push_back({.tensor = weight_name(subject_, parameter.name),
                         .slice = slice_of(parameter),
                         .begin = begin,
                         .end = end,
                         .memory = value.detach()});
  }

  /// Under ZeRO 3 a rank has its part alone.
  void add_frozen_pieces(const Parameter& parameter, FileSet& set) const {
    for (const OptimizerPiece& piece : subject_.frozen) {
      if (piece.parameter != &parameter) continue;
      set.tasks.push_back({.tensor = weight_name(subject_, parameter.name),
                           .slice = slice_of(parameter),
                           .begin = piece.begin,
                           .end = piece.end,
                           .memory = piece.weight.detach(),
                           .origin = piece.begin});
    }
  }

  /// Every rank that updates a part of the parameter holds the whole vector; the first one writes it.
  void add_vector(const OptimizerVector& vector, FileSet& set) const {
    std::string name = vector_name(vector);
    auto rank = static_cast<size_t>(mesh_.world().rank());
    for (size_t other = 0; other < rank; ++other) {
      if (inventories_[other].vectors.count(name) > 0) return;
    }
    int64_t size = vector.values.num_elements();
    set.tasks.push_back({.tensor = name, .slice = {0, 0, size}, .begin = 0, .end = size, .memory = vector.values});
  }

  const Mesh& mesh_;
  const CheckpointSubject& subject_;
  const CheckpointOptions& options_;
  TensorParallelPlace place_;
  std::vector<Inventory> inventories_;  // by rank
  std::set<std::string> trained_;
  std::set<std::string> states_;
  std::map<std::string, int64_t> vectors_;
  std::vector<std::pair<std::string, Tensor>> constants_;  // what transformers' files hold besides the parameters
  bool shares_pieces_ = false;                             // the data-parallel ranks hold the same pieces
};

}  // namespace

std::string weight_name(const CheckpointSubject& subject, const std::string& parameter) {
  return subject.adapter == nullptr ? parameter : adapter_tensor_name(parameter);
}

SavePlan make_save_plan(const Mesh& mesh, const CheckpointSubject& subject, const CheckpointOptions& options) {
  return Planner(mesh, subject, options).plan();
}

}  // namespace weft
