#include "nn/parameter.h"

#include <algorithm>

#include "core/error.h"

namespace weft {
namespace {

int sharded_dim(ShardKind kind) {
  return kind == ShardKind::columns || kind == ShardKind::head_columns ? 1 : 0;
}

/// Ranks per key/value head when ranks outnumber heads, else 1.
int64_t ranks_per_head(const Shard& shard, TensorParallelPlace place) {
  if (shard.kind != ShardKind::kv_heads) return 1;
  return std::max<int64_t>(1, place.size / shard.num_heads);
}

void check_shard(const std::string& name, const Shape& shape, const Shard& shard, TensorParallelPlace place) {
  int64_t size = place.size;
  switch (shard.kind) {
    case ShardKind::replicated:
      return;
    case ShardKind::rows:
    case ShardKind::columns: {
      int64_t total = shape[sharded_dim(shard.kind)];
      if (total % size == 0) return;
      fail_input("{} has {} {} which {} tensor-parallel ranks cannot share evenly; use a degree that divides it",
                 name,
                 total,
                 shard.kind == ShardKind::rows ? "rows" : "columns",
                 size);
    }
    case ShardKind::heads:
    case ShardKind::head_columns:
      if (shard.num_heads % size == 0) return;
      fail_input("{}: {} attention heads cannot be shared by {} tensor-parallel ranks; use a degree that divides them",
                 name,
                 shard.num_heads,
                 size);
    case ShardKind::kv_heads:
      if (shard.num_heads % size == 0 || size % shard.num_heads == 0) return;
      fail_input(
          "{}: {} key/value heads cannot be shared by {} tensor-parallel ranks; use a degree that divides them or a "
          "multiple of them",
          name,
          shard.num_heads,
          size);
    case ShardKind::vocabulary:
      if ((shape[0] + size - 1) / size * (size - 1) < shape[0]) return;
      fail_input("{}: a vocabulary of {} is too small for {} tensor-parallel ranks", name, shape[0], size);
  }
}

}  // namespace

ShardRange shard_range(const Shard& shard, const Shape& full_shape, TensorParallelPlace place) {
  int dim = sharded_dim(shard.kind);
  int64_t total = full_shape[dim];
  switch (shard.kind) {
    case ShardKind::replicated:
      return {0, 0, full_shape[0]};
    case ShardKind::vocabulary: {
      int64_t part = (total + place.size - 1) / place.size;
      return {0, std::min(total, part * place.rank), std::min(total, part * (place.rank + 1))};
    }
    default: {
      int64_t sharing = ranks_per_head(shard, place);
      int64_t part = total * sharing / place.size;
      int64_t index = place.rank / sharing;
      return {dim, part * index, part * (index + 1)};
    }
  }
}

int shard_replicas(const Shard& shard, TensorParallelPlace place) {
  return static_cast<int>(ranks_per_head(shard, place));
}

Parameter& ParameterStore::add(std::string name, const Shape& full_shape, Shard shard, bool is_matrix) {
  check_shard(name, full_shape, shard, place_);
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.full_shape = full_shape;
  parameter.shard = shard;
  parameter.is_matrix = is_matrix;
  parameter.range = shard_range(shard, full_shape, place_);
  parameter.local_shape = full_shape;
  parameter.local_shape.set(parameter.range.dim, parameter.range.end - parameter.range.begin);
  return parameters_.emplace_back(std::move(parameter));
}

Parameter* ParameterStore::find(std::string_view name) {
  auto found = std::find_if(
      parameters_.begin(), parameters_.end(), [&](const Parameter& parameter) { return parameter.name == name; });
  return found == parameters_.end() ? nullptr : &*found;
}

}  // namespace weft
