// A model's weights as data: name, full shape, and the rule by which ranks share it. The rule is the single source for
// loading, saving, gathering and planning.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/block.h"
#include "core/tensor.h"

namespace weft {

/// This rank's place among those that share the weights.
struct TensorParallelPlace {
  int rank = 0;
  int size = 1;
};

/// How a parameter is split over the tensor-parallel ranks.
enum class ShardKind : uint8_t {
  replicated,
  rows,          // dim 0 in equal contiguous parts
  columns,       // dim 1 in equal contiguous parts
  heads,         // dim 0 is num_heads query heads, split by whole heads next to the key/value heads they read
  head_columns,  // dim 1 likewise
  kv_heads,      // dim 0 is num_kv_heads; when ranks outnumber them, size / num_kv_heads ranks hold the same one
  vocabulary,    // dim 0 in parts of ceil(rows / size); the last may be shorter
};

struct Shard {
  ShardKind kind = ShardKind::replicated;
  int64_t num_heads = 0;     // of this parameter, for heads, head_columns, kv_heads
  int64_t num_kv_heads = 0;  // of the attention that it belongs to
};

/// A range of one dimension: what a rank holds of a parameter.
struct ShardRange {
  int dim = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

/// The range that a rank holds; the whole of dim 0 when replicated. Assumes that check_shard passed.
ShardRange shard_range(const Shard& shard, const Shape& full_shape, TensorParallelPlace place);

/// Heads [begin, end) of a rank. Ranks share the key/value heads as evenly as whole ones allow, each with the query
/// heads that read it; when ranks outnumber them (by a whole factor), those that hold the same one share its query
/// heads.
struct HeadRange {
  int64_t begin = 0;
  int64_t end = 0;
};
HeadRange kv_head_range(int64_t num_kv_heads, TensorParallelPlace place);
HeadRange query_head_range(int64_t num_heads, int64_t num_kv_heads, TensorParallelPlace place);

/// How many ranks hold the same slice of this parameter (1 but for kv_heads; not for replicated).
int shard_replicas(const Shard& shard, TensorParallelPlace place);

/// Whether this rank is the first of those that hold the same elements: sums over a whole parameter count each once.
bool is_first_holder(const Shard& shard, TensorParallelPlace place);

/// What training from nothing begins with: normal numbers of a standard deviation around a centre.
struct InitialValue {
  float deviation = 0.02f;
  std::function<float(int64_t element)> centre =
      nullptr;  // of a row-major element; null: 1 in weights of norms, else 0
};

struct Parameter {
  std::string name;  // the Hugging Face name of the weight, e.g. "model.layers.0.mlp.up_proj.weight"
  Shape full_shape;
  Shard shard;
  bool is_matrix = false;  // the weight of a matrix product (or tied to one): may be packed for inference
  Shape local_shape;       // of this rank's slice
  ShardRange range;
  bool is_norm = false;           // the weight of a norm
  int64_t block = kOuterBlock;    // the block of the model that reads it
  bool is_task_head = false;      // of a layer on top for a task: new where the checkpoint lacks it, and always trained
  bool partial_gradient = false;  // replicated, but each rank's backward sees a part of its gradient only
  InitialValue initial = {};
  Tensor value;  // undefined until loaded or initialised
};

/// Whether a replicated parameter's gradient is the sum of what the tensor-parallel ranks found: they see a part of the
/// layer, or, under sequence parallelism, of the tokens.
bool has_partial_gradient(const Context& context, const Parameter& parameter);

/// Owns a model's parameters; addresses stay valid.
class ParameterStore {
 public:
  explicit ParameterStore(TensorParallelPlace place) : place_(place) {}
  /// Throws Error(bad_input) when the shard rule does not fit the number of ranks, naming the parameter.
  Parameter& add(std::string name, const Shape& full_shape, Shard shard = {}, bool is_matrix = false);
  /// Parameters added from here on belong to this block.
  void set_block(int64_t block) { block_ = block; }
  std::deque<Parameter>& all() { return parameters_; }
  const std::deque<Parameter>& all() const { return parameters_; }
  Parameter* find(std::string_view name);
  TensorParallelPlace place() const { return place_; }

 private:
  TensorParallelPlace place_;
  int64_t block_ = kOuterBlock;
  std::deque<Parameter> parameters_;
};

}  // namespace weft
