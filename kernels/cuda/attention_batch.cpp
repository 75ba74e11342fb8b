#include "kernels/cuda/attention_batch.h"

#include <algorithm>
#include <initializer_list>

namespace weft::cuda {
namespace {

constexpr int64_t kBytes = 2;   // of a bf16 number
constexpr int64_t kPiece = 16;  // bytes that are read at once
constexpr int64_t kMostKeys = int64_t{1} << 30;

bool is_on_piece(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kPiece == 0;
}

bool are_pieces(std::initializer_list<int64_t> strides) {
  for (int64_t stride : strides) {
    if (stride <= 0 || stride * kBytes % kPiece != 0) return false;
  }
  return true;
}

template <typename Args>
const char* find_kind(const Args& args, AttentionBatchShape& shape) {
  if (args.dtype != DType::bf16) return "another dtype than bf16";
  if (args.bias.values != nullptr) return "biases";
  if (args.dropout.drops()) return "dropout of weights";
  if (args.num_kv_heads <= 0 || args.num_heads % args.num_kv_heads != 0) return "heads in no groups";
  if (args.head_dim <= 0 || args.head_dim > 256 || args.head_dim % 8 != 0) return "a head size of no pieces of 8";
  if (!(args.mask.scale > 0)) return "a scale that is not above zero";
  shape.num_heads = args.num_heads;
  shape.num_kv_heads = args.num_kv_heads;
  shape.head_dim = args.head_dim;
  shape.scale = args.mask.scale;
  shape.soft_cap = args.mask.soft_cap > 0 ? args.mask.soft_cap : 0;
  shape.causal = args.mask.causal;
  return nullptr;
}

const char* find_counts(std::span<const AttentionSequence> sequences,
                        const AttentionMask& mask,
                        AttentionBatch& batch) {
  if (sequences.empty()) return "no sequences";
  const AttentionSequence& first = sequences[0];
  AttentionBatchShape& shape = batch.shape;
  shape.batch = static_cast<int64_t>(sequences.size());
  shape.query_count = first.query_count;
  shape.key_count = first.key_count;
  shape.query_step = sequences.size() > 1 ? sequences[1].query_begin - first.query_begin : first.query_count;
  batch.query_begin = first.query_begin;
  if (first.query_count < 2 || first.key_count < 2) return "sequences of one token";
  if (first.query_count > kMostKeys || first.key_count > kMostKeys) return "too long sequences";
  if (shape.query_step < first.query_count) return "sequences that overlap";
  for (int64_t b = 0; b < shape.batch; ++b) {
    const AttentionSequence& sequence = sequences[static_cast<size_t>(b)];
    if (sequence.visible_keys != nullptr) return "limits on the visible keys";
    bool is_even = sequence.query_count == first.query_count && sequence.key_count == first.key_count &&
                   sequence.query_begin == first.query_begin + b * shape.query_step;
    if (!is_even) return "sequences of different lengths";
  }
  // A window of all keys is none.
  shape.window = mask.window > 0 && mask.window < first.key_count ? mask.window : 0;
  bool has_diagonal = mask.causal || shape.window > 0;
  if (has_diagonal && first.query_count > first.key_count) return "more queries than keys";
  return nullptr;
}

int64_t elements_between(const void* from, const void* to) {
  return (static_cast<const char*>(to) - static_cast<const char*>(from)) / kBytes;
}

/// Keys and values where the sequences say.
const char* find_keys(std::span<const AttentionSequence> sequences, AttentionBatch& batch) {
  const AttentionSequence& first = sequences[0];
  AttentionBatchShape& shape = batch.shape;
  batch.keys = first.keys;
  batch.values = first.values;
  shape.key_token_stride = first.key_token_stride;
  shape.key_head_stride = first.key_head_stride;
  shape.key_batch_stride = sequences.size() > 1 ? elements_between(first.keys, sequences[1].keys)
                                                : std::max(first.key_count * first.key_token_stride,
                                                           shape.num_kv_heads * first.key_head_stride);
  for (int64_t b = 0; b < shape.batch; ++b) {
    const AttentionSequence& sequence = sequences[static_cast<size_t>(b)];
    bool is_even = sequence.key_token_stride == first.key_token_stride &&
                   sequence.key_head_stride == first.key_head_stride &&
                   elements_between(first.keys, sequence.keys) == b * shape.key_batch_stride &&
                   elements_between(first.values, sequence.values) == b * shape.key_batch_stride;
    if (!is_even) return "keys that lie unevenly";
  }
  return nullptr;
}

const char* check_pieces(const AttentionBatch& batch, std::initializer_list<const void*> arrays) {
  const AttentionBatchShape& shape = batch.shape;
  bool are_aligned = are_pieces({shape.key_token_stride, shape.key_head_stride, shape.key_batch_stride}) &&
                     is_on_piece(batch.keys) && is_on_piece(batch.values);
  for (const void* array : arrays) are_aligned = are_aligned && is_on_piece(array);
  return are_aligned ? nullptr : "arrays that do not begin on 16 bytes";
}

}  // namespace

const char* find_batch(const AttentionForwardArgs& args, AttentionBatch& batch) {
  const char* obstacle = find_kind(args, batch.shape);
  if (obstacle == nullptr) obstacle = find_counts(args.sequences, args.mask, batch);
  if (obstacle == nullptr) obstacle = find_keys(args.sequences, batch);
  if (obstacle == nullptr) obstacle = check_pieces(batch, {args.q, args.out});
  return obstacle;
}

const char* find_batch(const AttentionBackwardArgs& args, AttentionBatch& batch) {
  const char* obstacle = find_kind(args, batch.shape);
  if (obstacle == nullptr) obstacle = find_counts(args.sequences, args.mask, batch);
  if (obstacle != nullptr) return obstacle;
  batch.keys = args.k;
  batch.values = args.v;
  batch.shape.key_head_stride = args.head_dim;
  batch.shape.key_token_stride = args.num_kv_heads * args.head_dim;
  batch.shape.key_batch_stride = batch.shape.key_count * batch.shape.key_token_stride;
  return check_pieces(batch, {args.q, args.out, args.dout, args.dq, args.dk, args.dv});
}

}  // namespace weft::cuda
