// The pieces that an optimizer updates, with their masters, their states and what their names decide.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/optimizer.h"
#include "optimizer/optimizer.h"
#include "optimizer/parameter_directory.h"

namespace weft {

/// A range of a piece's elements.
struct ElementRun {
  int64_t begin = 0, end = 0;
};

/// What the options say of one piece.
struct PieceSettings {
  double weight_decay = 0;
  double learning_rate_factor = 1;
  bool layer_adaptation = true;
  bool counts = true;          // in sums over a whole parameter: this rank is the first holder
  uint32_t random_site = 0;    // of stochastic rounding
  size_t parameter_index = 0;  // in the directory, when there is one
};

class PieceSet {
 public:
  PieceSet(const Context& context,
           const OptimizerOptions& options,
           std::vector<OptimizerPiece> pieces,
           TensorParallelPlace place,
           const PieceSharing& sharing);

  size_t size() const { return pieces_.size(); }
  const std::vector<OptimizerPiece>& pieces() const { return pieces_; }
  const OptimizerPiece& piece(size_t index) const { return pieces_[index]; }
  const PieceSettings& settings(size_t index) const { return settings_[index]; }
  int64_t count(size_t index) const { return pieces_[index].end - pieces_[index].begin; }
  const float* grad(size_t index) const { return pieces_[index].grad.pointer<float>(); }

  const Context& context() const { return context_; }
  Stream stream() const { return context_.stream(); }
  const OptimizerKernels& kernels() const { return context_.kernels().optimizer; }
  const OptimizerOptions& options() const { return options_; }
  TensorParallelPlace place() const { return place_; }
  const PieceSharing& sharing() const { return sharing_; }

  /// The weight and its master, as kernels take them; `update` keys stochastic rounding.
  OptimizerWeight weight(size_t index, int64_t update) const;
  bool has_separate_master() const;

  /// A state of zeros for each piece that `wanted` (all if null) accepts; undefined for the others. By name; the
  /// address stays valid.
  std::vector<Tensor>& add_state(const std::string& name, const std::function<bool(size_t index)>& wanted = {});
  const std::map<std::string, std::vector<Tensor>>& states() const { return states_; }
  std::map<std::string, std::vector<Tensor>>& states() { return states_; }

  /// Agrees with the other ranks on the parameters of all of them. Collective; at most once.
  const ParameterDirectory& make_directory();
  const ParameterDirectory& directory() const { return *directory_; }

  /// The runs of a piece that this step updates: all of it, unless lazy rows leave some out.
  const std::vector<ElementRun>& active_runs(size_t index) const { return active_runs_[index]; }
  std::vector<ElementRun>& active_runs(size_t index) { return active_runs_[index]; }

 private:
  WeightStorage storage(DType dtype) const;

  Context context_;
  OptimizerOptions options_;
  std::vector<OptimizerPiece> pieces_;
  TensorParallelPlace place_;
  PieceSharing sharing_;
  std::vector<PieceSettings> settings_;
  std::vector<Tensor> extras_;  // low bits or f32 masters
  std::map<std::string, std::vector<Tensor>> states_;
  std::unique_ptr<ParameterDirectory> directory_;
  std::vector<std::vector<ElementRun>> active_runs_;
};

}  // namespace weft
