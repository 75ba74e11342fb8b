// Attention over sequences that make one dense batch, as libraries beside our own kernels take it.
#pragma once

#include <compare>
#include <cstdint>

#include "kernels/attention.h"

namespace weft::cuda {

/// The shape of a batch: all sequences have as many queries and as many keys, and lie evenly spaced. Element d of query
/// i of head h in sequence b lies at (query_begin + b·query_step + i)·num_heads·head_dim + h·head_dim + d of q, that of
/// key j at b·key_batch_stride + h·key_head_stride + j·key_token_stride + d of the first sequence's keys; values
/// likewise.
struct AttentionBatchShape {
  int64_t batch = 0, query_count = 0, key_count = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t query_step = 0;  // rows from one sequence to the next; query_count where there is one sequence
  int64_t key_token_stride = 0, key_head_stride = 0, key_batch_stride = 0;  // in elements
  float scale = 1, soft_cap = 0;
  int64_t window = 0;  // 0: none, or one that leaves nothing out
  bool causal = true;

  auto operator<=>(const AttentionBatchShape&) const = default;
};

struct AttentionBatch {
  AttentionBatchShape shape;
  int64_t query_begin = 0;
  const void* keys = nullptr;
  const void* values = nullptr;
};

/// Fills in `batch`, or says in a few words why the call is none that goes as one dense batch of bf16 without biases,
/// dropout, limits on the visible keys or rows that see no key. Null: it is one.
const char* find_batch(const AttentionForwardArgs& args, AttentionBatch& batch);
const char* find_batch(const AttentionBackwardArgs& args, AttentionBatch& batch);

}  // namespace weft::cuda
