// Runs an optimizer on ranks that are threads, with every parameter cut into pieces at odd places, and brings the
// results back together.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "optimizer/optimizer.h"

namespace weft::testing {

struct TestParameter {
  std::string name;
  Shape shape;
  Shard shard = {};
  int64_t block = 0;
};

/// Value of an element of the whole parameter before training, and of its gradient in an update (from 1).
using StartFunction = std::function<float(const std::string& name, int64_t element)>;
using GradientFunction = std::function<float(const std::string& name, int64_t element, int64_t update)>;

struct RunOptions {
  OptimizerOptions optimizer;
  std::vector<TestParameter> parameters = {};
  DType dtype = DType::f32;
  double learning_rate = 0.01;
  double gradient_scale = 1;
  int64_t num_updates = 4;
  StartFunction start = {};
  GradientFunction gradient = {};
};

using Values = std::map<std::string, std::vector<float>>;

struct RunResult {
  Values weights;                        // as the model sees them
  std::map<std::string, Values> states;  // by state
  double last_grad_norm = 0;
};

/// One rank's optimizer with its parameters; what the tests that need no ranks work with too.
class RankRun {
 public:
  /// Data rank `data_rank` of `num_data_ranks` takes its part of all elements.
  RankRun(const RunOptions& options,
          const Context& context,
          TensorParallelPlace place,
          int data_rank,
          int num_data_ranks,
          const PieceSharing& sharing);
  void step(int64_t update);
  double grad_norm(int64_t update);
  Optimizer& optimizer() { return *optimizer_; }
  const Tensor& weight(const std::string& name) const;
  /// Writes this rank's elements into the whole parameters.
  void collect(RunResult& result) const;

 private:
  void fill_gradients(int64_t update);

  RunOptions options_;
  Context context_;
  TensorParallelPlace place_;
  PieceSharing sharing_;
  ParameterStore store_;
  std::unique_ptr<Optimizer> optimizer_;
};

/// `num_data_ranks` × `num_tensor_ranks` threads. Elements that several ranks hold must agree to the bit.
RunResult run_on_ranks(const RunOptions& options, int num_data_ranks, int num_tensor_ranks);

/// Deterministic numbers of about size 1.
float random_start(const std::string& name, int64_t element);
float random_gradient(const std::string& name, int64_t element, int64_t update);

/// Matrices and vectors with every shard rule.
std::vector<TestParameter> all_shard_kinds();

}  // namespace weft::testing
