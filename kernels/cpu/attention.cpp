#include "kernels/attention.h"

#include <algorithm>
#include <cstring>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/small_matrix.h"
#include "kernels/kernel_scratch.h"

namespace weft {
namespace {

constexpr int64_t kMaxHeadDim = 512;
// Multiplications below which a second thread costs more than it saves.
constexpr int64_t kMinProductsPerThread = 1 << 17;

/// Calls body(item, thread) for items in order, each on the next free thread.
template <typename Body>
void parallel_dynamic(int num_threads, int64_t count, const Body& body) {
  if (num_threads <= 1 || count <= 1) {
    for (int64_t item = 0; item < count; ++item) body(item, 0);
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1)
  for (int64_t item = 0; item < count; ++item) body(item, omp_get_thread_num());
#else
  for (int64_t item = 0; item < count; ++item) body(item, 0);
#endif
}

int threads_for(int64_t products, int64_t items, const Stream& stream) {
  return static_cast<int>(
      std::clamp<int64_t>(std::min(products / kMinProductsPerThread, items), 1, std::max(stream.num_threads, 1)));
}

void check_args(DType dtype, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, const char* kernel) {
  check_loop_dtype(dtype, kernel);
  WEFT_ASSERT(num_kv_heads > 0 && num_heads % num_kv_heads == 0, "{} heads, {} kv heads", num_heads, num_kv_heads);
  if (head_dim < 1 || head_dim > kMaxHeadDim) {
    fail(ExitCode::failure, "{}: head_dim is {}, the cpu kernel takes 1 to {}", kernel, head_dim, kMaxHeadDim);
  }
}

int64_t visible_begin(const AttentionSequence& sequence, const AttentionMask& mask, int64_t query) {
  if (sequence.visible_keys != nullptr) return 0;
  int64_t position = sequence.key_count - sequence.query_count + query;
  return mask.window > 0 ? std::max<int64_t>(0, position - mask.window + 1) : 0;
}

int64_t visible_end(const AttentionSequence& sequence, const AttentionMask& mask, int64_t query) {
  if (sequence.visible_keys != nullptr) return sequence.visible_keys[query];
  return mask.causal ? std::min(sequence.key_count, sequence.key_count - sequence.query_count + query + 1)
                     : sequence.key_count;
}

/// Keys seen times rows.
int64_t cost_of(const AttentionForwardArgs& args, const AttentionWork& work) {
  int64_t begin = visible_begin(*work.sequence, args.mask, work.query_begin);
  int64_t end = visible_end(*work.sequence, args.mask, work.query_begin + work.query_count - 1);
  return (end - begin) * work.query_count * (args.num_heads / args.num_kv_heads);
}

/// Sequences with one query are cut by their keys, unless weights are dropped: that is left to prefill.
bool is_decode(const AttentionForwardArgs& args, const AttentionSequence& sequence) {
  return sequence.query_count == 1 && !args.dropout.drops();
}

/// Pieces of all sequences with several queries, the dearest first, so that threads end together.
std::vector<AttentionWork> prefill_pieces(const AttentionForwardArgs& args, int num_threads) {
  int64_t group = args.num_heads / args.num_kv_heads;
  int64_t rows = 0;
  for (const AttentionSequence& sequence : args.sequences)
    rows += is_decode(args, sequence) ? 0 : sequence.query_count * args.num_heads;
  int64_t piece = queries_per_piece(rows, group, num_threads);
  std::vector<AttentionWork> pieces;
  for (const AttentionSequence& sequence : args.sequences) {
    if (is_decode(args, sequence)) continue;
    for (int64_t query = 0; query < sequence.query_count; query += piece) {
      for (int64_t head = 0; head < args.num_kv_heads; ++head) {
        pieces.push_back({.sequence = &sequence,
                          .kv_head = head,
                          .query_begin = query,
                          .query_count = std::min(piece, sequence.query_count - query)});
        pieces.back().cost = cost_of(args, pieces.back());
      }
    }
  }
  auto is_dearer = [](const AttentionWork& a, const AttentionWork& b) { return a.cost > b.cost; };
  // Sequences of one length are in order already.
  if (!std::is_sorted(pieces.begin(), pieces.end(), is_dearer)) {
    std::stable_sort(pieces.begin(), pieces.end(), is_dearer);
  }
  return pieces;
}

void prefill(const AttentionForwardArgs& args, const Stream& stream) {
  std::vector<AttentionWork> pieces = prefill_pieces(args, stream.num_threads);
  if (pieces.empty()) return;
  int64_t cost = 0;
  int64_t queries = 0;
  for (const AttentionWork& piece : pieces) {
    cost += piece.cost * args.head_dim;
    queries = std::max(queries, piece.query_count);
  }
  int threads = threads_for(cost, static_cast<int64_t>(pieces.size()), stream);
  auto bytes = static_cast<size_t>(cpu_loops().attention_forward_scratch(args, queries));
  Scratch scratch(stream, bytes * static_cast<size_t>(threads));
  parallel_dynamic(threads, static_cast<int64_t>(pieces.size()), [&](int64_t item, int thread) {
    AttentionWork piece = pieces[static_cast<size_t>(item)];
    piece.scratch = scratch.data() + bytes * static_cast<size_t>(thread);
    cpu_loops().attention_forward(args, piece);
  });
}

/// Pieces of all sequences with one query, and how to join them.
struct DecodePlan {
  std::vector<AttentionDecodeWork> pieces;
  std::vector<AttentionMergeWork> merges;
  int64_t keys = 0;
};

DecodePlan plan_decode(const AttentionForwardArgs& args) {
  DecodePlan plan;
  for (const AttentionSequence& sequence : args.sequences) {
    if (!is_decode(args, sequence)) continue;
    int64_t begin = visible_begin(sequence, args.mask, 0);
    int64_t end = visible_end(sequence, args.mask, 0);
    for (int64_t head = 0; head < args.num_kv_heads; ++head) {
      plan.merges.push_back({.sequence = &sequence, .kv_head = head});
      for (int64_t key = begin; key < end; key += kDecodeKeys) {
        plan.pieces.push_back(
            {.sequence = &sequence, .kv_head = head, .key_begin = key, .key_end = std::min(key + kDecodeKeys, end)});
        ++plan.merges.back().count;
      }
      plan.keys += end - begin;
    }
  }
  return plan;
}

void decode(const AttentionForwardArgs& args, const Stream& stream) {
  DecodePlan plan = plan_decode(args);
  if (plan.pieces.empty()) return;
  int64_t group = args.num_heads / args.num_kv_heads;
  size_t piece_bytes =
      static_cast<size_t>(group * (args.head_dim + 2)) * (args.dtype == DType::f64 ? sizeof(double) : sizeof(float));
  Scratch scratch(stream, piece_bytes * plan.pieces.size());
  for (size_t i = 0; i < plan.pieces.size(); ++i) plan.pieces[i].partial = scratch.data() + i * piece_bytes;
  size_t done = 0;
  for (AttentionMergeWork& merge : plan.merges) {
    merge.partials = scratch.data() + done * piece_bytes;
    done += static_cast<size_t>(merge.count);
  }
  auto count = static_cast<int64_t>(plan.pieces.size());
  int threads = threads_for(plan.keys * group * args.head_dim, count, stream);
  parallel_for(threads, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) cpu_loops().attention_decode(args, plan.pieces[static_cast<size_t>(i)]);
  });
  for (const AttentionMergeWork& merge : plan.merges) cpu_loops().attention_merge(args, merge);
}

void forward(const AttentionForwardArgs& args, const Stream& stream) {
  check_args(args.dtype, args.num_heads, args.num_kv_heads, args.head_dim, "attention");
  prefill(args, stream);
  decode(args, stream);
}

/// What the pieces found for the biases of their heads, added in the pieces' order.
template <typename R>
class BiasGradients {
 public:
  BiasGradients(const AttentionBackwardArgs& args, std::vector<AttentionBackwardWork>& pieces) : args_(args) {
    if (args.dbias == nullptr) return;
    int64_t group = args.num_heads / args.num_kv_heads;
    for (AttentionBackwardWork& piece : pieces) {
      parts_.emplace_back(static_cast<size_t>(group * piece.distances()));
      piece.dbias = parts_.back().data();
    }
  }

  void add(const std::vector<AttentionBackwardWork>& pieces) const {
    int64_t group = args_.num_heads / args_.num_kv_heads;
    for (size_t p = 0; p < parts_.size(); ++p) {
      const AttentionSequence& sequence = *pieces[p].sequence;
      int64_t count = sequence.query_count + sequence.key_count - 1;
      for (int64_t g = 0; g < group; ++g) {
        int64_t head = pieces[p].kv_head * group + g;
        R* to =
            static_cast<R*>(args_.dbias) + head * args_.bias.stride + sequence.bias_origin - (sequence.query_count - 1);
        const R* from = parts_[p].data() + g * pieces[p].distances();
        for (int64_t i = 0; i < count; ++i) to[i] += from[i];
      }
    }
  }

 private:
  const AttentionBackwardArgs& args_;
  std::vector<std::vector<R>> parts_;
};

void run_backward(const AttentionBackwardArgs& args,
                  const std::vector<AttentionBackwardWork>& pieces,
                  int64_t longest,
                  int threads,
                  const Stream& stream) {
  auto bytes = static_cast<size_t>(cpu_loops().attention_backward_scratch(args, longest));
  Scratch scratch(stream, bytes * static_cast<size_t>(threads));
  parallel_dynamic(threads, static_cast<int64_t>(pieces.size()), [&](int64_t item, int thread) {
    AttentionBackwardWork piece = pieces[static_cast<size_t>(item)];
    piece.scratch = scratch.data() + bytes * static_cast<size_t>(thread);
    cpu_loops().attention_backward(args, piece);
  });
}

void backward(const AttentionBackwardArgs& args, const Stream& stream) {
  check_args(args.dtype, args.num_heads, args.num_kv_heads, args.head_dim, "attention_backward");
  std::vector<AttentionBackwardWork> pieces;
  int64_t key_begin = 0;
  int64_t longest = 0;
  int64_t cost = 0;
  for (const AttentionSequence& sequence : args.sequences) {
    for (int64_t head = 0; head < args.num_kv_heads && sequence.query_count > 0; ++head) {
      pieces.push_back({.sequence = &sequence, .kv_head = head, .key_begin = key_begin});
    }
    key_begin += sequence.key_count;
    longest = std::max(longest, sequence.key_count);
    cost += sequence.query_count * sequence.key_count * args.num_heads * args.head_dim;
  }
  if (pieces.empty()) return;
  std::stable_sort(pieces.begin(), pieces.end(), [](const AttentionBackwardWork& a, const AttentionBackwardWork& b) {
    return a.sequence->query_count > b.sequence->query_count;
  });
  int threads = threads_for(cost, static_cast<int64_t>(pieces.size()), stream);
  auto run = [&](const auto& biases) {
    run_backward(args, pieces, longest, threads, stream);
    biases.add(pieces);
  };
  if (args.dtype == DType::f64) {
    run(BiasGradients<double>(args, pieces));
  } else {
    run(BiasGradients<float>(args, pieces));
  }
}

void write_rows(const CacheWriteArgs& args, int64_t begin, int64_t end) {
  size_t head_bytes = static_cast<size_t>(args.head_dim) * dtype_bytes(args.dtype);
  const std::byte* source = static_cast<const std::byte*>(args.source);
  std::byte* cache = static_cast<std::byte*>(args.cache);
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    std::byte* slot = cache + static_cast<size_t>(head * args.head_stride) * dtype_bytes(args.dtype);
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(slot + static_cast<size_t>(args.past + row) * head_bytes,
                  source + static_cast<size_t>(row * args.num_kv_heads + head) * head_bytes,
                  head_bytes);
    }
  }
}

void cache_write(std::span<const CacheWriteArgs> writes, const Stream& stream) {
  for (const CacheWriteArgs& args : writes) {
    parallel_for(
        stream.num_threads, args.count, row_grain(args.num_kv_heads * args.head_dim), [&](int64_t begin, int64_t end) {
          write_rows(args, begin, end);
        });
  }
}

template <typename T>
void expand_bias(const BiasExpandArgs& args) {
  using R = Real<T>;
  const T* table = static_cast<const T*>(args.table);
  for (int64_t head = 0; head < args.num_heads; ++head) {
    R* to = static_cast<R*>(args.bias) + head * args.stride;
    for (int64_t d = 0; d < args.count; ++d) to[d] = static_cast<R>(table[args.rows[d] * args.num_heads + head]);
    std::fill(to + args.count, to + args.stride, R(0));
  }
}

void bias_expand(const BiasExpandArgs& args, const Stream& /*stream*/) {
  check_loop_dtype(args.dtype, "bias_expand");
  if (args.dtype == DType::f64) return expand_bias<double>(args);
  if (args.dtype == DType::f32) return expand_bias<float>(args);
  expand_bias<bfloat16>(args);
}

template <typename R>
void reduce_bias(const BiasReduceArgs& args) {
  for (int64_t head = 0; head < args.num_heads; ++head) {
    const R* from = static_cast<const R*>(args.dbias) + head * args.stride;
    R* to = static_cast<R*>(args.dtable) + head;
    for (int64_t d = 0; d < args.count; ++d) to[args.rows[d] * args.num_heads] += from[d];
  }
}

void bias_reduce(const BiasReduceArgs& args, const Stream& /*stream*/) {
  if (args.dtype == DType::f64) return reduce_bias<double>(args);
  reduce_bias<float>(args);
}

}  // namespace

AttentionKernels cpu_attention_kernels() {
  return {.forward = forward,
          .backward = backward,
          .cache_write = cache_write,
          .bias_expand = bias_expand,
          .bias_reduce = bias_reduce};
}

}  // namespace weft
