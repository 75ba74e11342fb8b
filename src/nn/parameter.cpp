#include "nn/parameter.h"

#include <algorithm>

#include "core/error.h"

namespace weft {
namespace {

int sharded_dim(ShardKind kind) {
  return kind == ShardKind::columns || kind == ShardKind::head_columns ? 1 : 0;
}

/// Ranks that hold the same key/value head.
int64_t ranks_per_kv_head(int64_t num_kv_heads, TensorParallelPlace place) {
  return std::max<int64_t>(1, place.size / num_kv_heads);
}

void check_heads(const std::string& name, const Shard& shard, TensorParallelPlace place) {
  int64_t size = place.size;
  int64_t query_heads_per_kv_head = shard.kind == ShardKind::kv_heads ? size : shard.num_heads / shard.num_kv_heads;
  bool fits = size <= shard.num_kv_heads ||
              (size % shard.num_kv_heads == 0 && size / shard.num_kv_heads <= query_heads_per_kv_head);
  if (fits) return;
  fail_input(
      "{}: {} {} heads over {} key/value heads cannot be shared by {} tensor-parallel ranks; use at most {} ranks, or "
      "a "
      "multiple of that with a query head for each",
      name,
      shard.num_heads,
      shard.kind == ShardKind::kv_heads ? "key/value" : "query",
      shard.num_kv_heads,
      size,
      shard.num_kv_heads);
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
    case ShardKind::kv_heads:
      return check_heads(name, shard, place);
    case ShardKind::vocabulary:
      if ((shape[0] + size - 1) / size * (size - 1) < shape[0]) return;
      fail_input("{}: a vocabulary of {} is too small for {} tensor-parallel ranks", name, shape[0], size);
  }
}

}  // namespace

HeadRange kv_head_range(int64_t num_kv_heads, TensorParallelPlace place) {
  if (place.size > num_kv_heads) {
    int64_t head = place.rank / ranks_per_kv_head(num_kv_heads, place);
    return {head, head + 1};
  }
  return {place.rank * num_kv_heads / place.size, (place.rank + 1) * num_kv_heads / place.size};
}

HeadRange query_head_range(int64_t num_heads, int64_t num_kv_heads, TensorParallelPlace place) {
  int64_t per_kv_head = num_heads / num_kv_heads;
  HeadRange kv = kv_head_range(num_kv_heads, place);
  int64_t sharing = ranks_per_kv_head(num_kv_heads, place);
  if (sharing == 1) return {kv.begin * per_kv_head, kv.end * per_kv_head};
  int64_t index = place.rank % sharing;
  return {kv.begin * per_kv_head + index * per_kv_head / sharing,
          kv.begin * per_kv_head + (index + 1) * per_kv_head / sharing};
}

ShardRange shard_range(const Shard& shard, const Shape& full_shape, TensorParallelPlace place) {
  int dim = sharded_dim(shard.kind);
  int64_t total = full_shape[dim];
  switch (shard.kind) {
    case ShardKind::replicated:
      return {0, 0, full_shape[0]};
    case ShardKind::rows:
    case ShardKind::columns:
      return {dim, total / place.size * place.rank, total / place.size * (place.rank + 1)};
    case ShardKind::vocabulary: {
      int64_t part = (total + place.size - 1) / place.size;
      return {0, std::min(total, part * place.rank), std::min(total, part * (place.rank + 1))};
    }
    default: {
      HeadRange heads = shard.kind == ShardKind::kv_heads
                            ? kv_head_range(shard.num_kv_heads, place)
                            : query_head_range(shard.num_heads, shard.num_kv_heads, place);
      int64_t head_size = total / shard.num_heads;
      return {dim, heads.begin * head_size, heads.end * head_size};
    }
  }
}

int shard_replicas(const Shard& shard, TensorParallelPlace place) {
  return shard.kind == ShardKind::kv_heads ? static_cast<int>(ranks_per_kv_head(shard.num_kv_heads, place)) : 1;
}

bool is_first_holder(const Shard& shard, TensorParallelPlace place) {
  return shard.kind == ShardKind::replicated ? place.rank == 0 : place.rank % shard_replicas(shard, place) == 0;
}

bool has_partial_gradient(const Context& context, const Parameter& parameter) {
  bool is_replicated = parameter.shard.kind == ShardKind::replicated;
  return parameter.partial_gradient || (is_replicated && context.sequence_parallel);
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
  parameter.block = block_;
  return parameters_.emplace_back(std::move(parameter));
}

Parameter* ParameterStore::find(std::string_view name) {
  auto found = std::find_if(
      parameters_.begin(), parameters_.end(), [&](const Parameter& parameter) { return parameter.name == name; });
  return found == parameters_.end() ? nullptr : &*found;
}

}  // namespace weft
