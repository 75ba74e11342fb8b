// Optimizers over pieces of parameters. A rank updates the pieces it was given; statistics of a whole parameter (norms,
// factored moments) are summed over the ranks that hold its other pieces, so that every split gives the same update up
// to rounding.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/context.h"
#include "nn/parameter.h"

namespace weft {

/// A run of elements of one parameter that this rank updates.
struct OptimizerPiece {
  const Parameter* parameter = nullptr;
  int64_t begin = 0, end = 0;  // elements of the parameter's local slice (parameter->local_shape, row-major)
  Tensor weight;  // [end − begin] f32 or bf16: a view of the model's weight, or of this rank's part of it
  Tensor grad;    // [end − begin] f32: filled before each step
};

/// Which ranks hold the other pieces of the same parameters.
struct PieceSharing {
  Communicator* data_parallel = nullptr;    // null: every data-parallel rank holds all pieces
  Communicator* tensor_parallel = nullptr;  // null: one rank
};

/// adam is AdamW without decay; muon updates what is no matrix of a block by AdamW.
enum class OptimizerKind : uint8_t { adamw, adam, lamb, lion, adafactor, muon, sgd };
/// "adamw", "adam", …
std::string_view optimizer_name(OptimizerKind kind);
/// Where Adam adds ε: to √v̂ after bias correction (torch), or to √v before it (Keras).
enum class EpsilonPlacement : uint8_t { torch, keras };
/// Where values of the master weights are kept.
enum class MasterWeights : uint8_t {
  none,        // the weights are their own master: f32, or bf16 rounded to nearest
  full,        // f32 beside bf16 weights
  stochastic,  // none: bf16 weights, each update rounded at random in proportion (Philox by seed, update, element)
  rounded      // f32 beside f32 weights that hold the master rounded to bf16
};

/// Patterns are ECMAScript regular expressions searched in the parameter's name.
struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::adamw;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, momentum = 0;
  EpsilonPlacement epsilon_placement = EpsilonPlacement::torch;
  bool bias_correction = true;
  double weight_decay = 0.01;                              // decoupled
  std::vector<std::string> weight_decay_exclude = {};      // no decay for these
  bool decay_vectors = true;                               // false: none for parameters of fewer than two dimensions
  std::vector<std::string> layer_adaptation_exclude = {};  // of LAMB
  bool layer_adaptation_includes_decay = true;             // bert4keras' LAMB; false: Keras'
  std::vector<std::pair<std::string, double>> learning_rate_factors = {};  // pattern, factor; the first match counts
  double ema_momentum = 0;      // 0: no average; Keras' rule (a copy after the first update)
  int64_t lookahead_steps = 0;  // 0: none
  double lookahead_alpha = 0.5;
  bool lazy_rows = false;  // rows of matrices whose gradient is all zero stay as they are
  MasterWeights master_weights = MasterWeights::full;
  uint64_t seed = 0;
};

struct OptimizerStep {
  double learning_rate = 0;
  double gradient_scale = 1;  // clipping: every gradient is multiplied by it
  int64_t update = 1;         // counts from 1
};

/// A vector that belongs to a whole parameter and that every rank holds (Adafactor's row and column means).
struct OptimizerVector {
  std::string name;       // "row_mean"
  std::string parameter;  // its parameter
  Tensor values;          // f32
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Collective over the ranks of PieceSharing.
  virtual void step(const OptimizerStep& step) = 0;

  /// States with a value for each element, as f32 for checkpoints whatever they are kept in: "master" (present unless
  /// the weights are their own master), "exp_avg", "exp_avg_sq", "ema", "lookahead_slow", …
  virtual std::vector<std::string> element_states() const = 0;
  /// Whether this piece has the state: Adafactor and Muon keep other states for matrices than for vectors.
  virtual bool has_state(std::string_view state, size_t piece) const = 0;
  /// Elements [begin, end) of the piece; zeros, or ignored, where it lacks the state. Writing "master" sets the weights
  /// too.
  virtual void read_state(std::string_view state, size_t piece, int64_t begin, int64_t end, float* out) const = 0;
  virtual void write_state(std::string_view state, size_t piece, int64_t begin, int64_t end, const float* in) = 0;
  virtual std::vector<OptimizerVector> vectors() = 0;

  /// Exchanges the weights with their averages and back; Error(failure) without ema_momentum.
  virtual void swap_ema() = 0;
  virtual const std::vector<OptimizerPiece>& pieces() const = 0;
};

/// States are allocated with MemoryTag::optimizer. Throws Error(bad_input) for patterns that are no regular
/// expressions and for lazy_rows with Adafactor. Collective over the ranks of PieceSharing.
std::unique_ptr<Optimizer> make_optimizer(const Context& context,
                                          const OptimizerOptions& options,
                                          std::vector<OptimizerPiece> pieces,
                                          TensorParallelPlace place,
                                          const PieceSharing& sharing);

/// Bytes of state an element in these options (for the planner), for a weight kept in `weight_dtype`: of this
/// parameter, and of a block's matrix. Adafactor's row and column means, 4·(rows + columns) bytes a matrix on every
/// rank, come on top.
double optimizer_bytes_per_element(const OptimizerOptions& options,
                                   DType weight_dtype,
                                   const Shape& full_shape,
                                   int64_t block);
double optimizer_bytes_per_element(const OptimizerOptions& options, DType weight_dtype);

}  // namespace weft
