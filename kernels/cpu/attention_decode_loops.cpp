// Attention of one query over a cache: memory bounds it, so keys and values are read once, in place, for all query
// heads of a group.
#include <type_traits>

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

constexpr int64_t kKeyBlock = 64;
constexpr int kMaxGroup = 4;  // query heads at a time: their sums must fit the registers
constexpr int64_t kMaxHeadDim = 512;

/// Two vectors' worth of consecutive elements. For bf16 the first holds the even and the second the odd ones, which is
/// cheapest.
template <typename R>
struct VectorPair {
  Vector<R> first, second;
};

template <typename R>
WEFT_INLINE VectorPair<R> load_pair(const R* from) {
  return {load_vector(from), load_vector(from + kLanes<R>)};
}
WEFT_INLINE VectorPair<float> load_pair(const bfloat16* from) {
  typedef uint32_t Unaligned __attribute__((vector_size(kVectorBytes), aligned(2), may_alias));
  Words words = *reinterpret_cast<const Unaligned*>(from);
  return {reinterpret_cast<Vector<float>>(words << 16), reinterpret_cast<Vector<float>>(words & 0xffff0000u)};
}

/// The first `count` elements of a pair, the others zero.
template <typename T>
WEFT_INLINE VectorPair<Real<T>> load_partial_pair(const T* from, int64_t count) {
  T elements[2 * kLanes<Real<T>>] = {};
  for (int64_t i = 0; i < count; ++i) elements[i] = from[i];
  return load_pair(elements);
}

/// Where element i of a pair stands among the lanes of both vectors.
template <typename T>
WEFT_INLINE int64_t lane_of_element(int64_t i) {
  return i;
}
template <>
WEFT_INLINE int64_t lane_of_element<bfloat16>(int64_t i) {
  return i % 2 * kLanes<float> + i / 2;
}

template <typename T, int group>
struct DecodeState {
  using R = Real<T>;
  static constexpr int64_t kPairElements = 2 * kLanes<R>;

  alignas(64) R queries[group][kMaxHeadDim];  // in the lanes' order, padded with zeros
  alignas(64) R out[group][kMaxHeadDim];      // likewise
  alignas(64) R scores[group][kKeyBlock];
  R maximum[group];
  R sum[group];
};

template <typename T, int group>
WEFT_INLINE void start(DecodeState<T, group>& state, const T* q, int64_t head_dim) {
  using State = DecodeState<T, group>;
  int64_t width = round_up(head_dim, State::kPairElements);
  for (int g = 0; g < group; ++g) {
    state.maximum[g] = kMaskedScore<Real<T>>;
    state.sum[g] = 0;
    for (int64_t d = 0; d < width; ++d) state.queries[g][d] = state.out[g][d] = 0;
    for (int64_t d = 0; d < head_dim; ++d) {
      int64_t pair = d / State::kPairElements * State::kPairElements;
      state.queries[g][pair + lane_of_element<T>(d - pair)] = load(q[g * head_dim + d]);
    }
  }
}

/// Adds the products of a key's next elements with each query's.
template <typename T, int group>
WEFT_INLINE void add_products(Vector<Real<T>> (&sums)[group],
                              const DecodeState<T, group>& state,
                              VectorPair<Real<T>> key,
                              int64_t d) {
#pragma GCC unroll 4
  for (int g = 0; g < group; ++g) {
    sums[g] += key.first * load_vector(state.queries[g] + d);
    sums[g] += key.second * load_vector(state.queries[g] + d + kLanes<Real<T>>);
  }
}

/// Products of each query with as many keys as there are lanes, of which `count` exist; the lanes' sums are formed for
/// all of them together.
template <typename T, int group>
WEFT_INLINE void score_keys(
    DecodeState<T, group>& state, const T* keys, int64_t stride, int64_t count, int64_t head_dim, int64_t index) {
  using R = Real<T>;
  constexpr int64_t kPair = DecodeState<T, group>::kPairElements;
  Vector<R> products[group][kLanes<R>] = {};
  for (int64_t key = 0; key < count; ++key) {
    const T* elements = keys + key * stride;
    Vector<R> sums[group] = {};
    int64_t d = 0;
    for (; d + kPair <= head_dim; d += kPair) add_products<T, group>(sums, state, load_pair(elements + d), d);
    if (d < head_dim) add_products<T, group>(sums, state, load_partial_pair(elements + d, head_dim - d), d);
#pragma GCC unroll 4
    for (int g = 0; g < group; ++g) products[g][key] = sums[g];
  }
#pragma GCC unroll 4
  for (int g = 0; g < group; ++g) store_vector(state.scores[g] + index, sums_of_vectors<R>(products[g]));
}

/// Biases of the keys of a block, for each query head `stride` apart; null: none.
template <typename R>
struct BiasRows {
  const R* values = nullptr;
  int64_t stride = 0;
};

/// Scores of the first `count` keys become weights; what was summed before shrinks to the new maximum.
template <typename T, int group>
WEFT_INLINE void soften(DecodeState<T, group>& state,
                        const ScoreScale<Real<T>>& scale,
                        const BiasRows<Real<T>>& bias,
                        int64_t count,
                        int64_t width) {
  using R = Real<T>;
  for (int g = 0; g < group; ++g) {
    Vector<R> maximum = Vector<R>{} + kMaskedScore<R>;
    for (int64_t i = 0; i < count; i += kLanes<R>) {
      Vector<R> score = scale(load_vector(state.scores[g] + i));
      if (bias.values != nullptr) score += load_vector(bias.values + g * bias.stride + i) * static_cast<R>(kLog2E);
      score = lanes_between<R>(0, count - i) ? score : Vector<R>{} + kMaskedScore<R>;
      store_vector(state.scores[g] + i, score);
      maximum = score > maximum ? score : maximum;
    }
    R new_maximum = horizontal_maximum<R>(maximum);
    new_maximum = state.maximum[g] > new_maximum ? state.maximum[g] : new_maximum;
    Vector<R> sum{};
    for (int64_t i = 0; i < count; i += kLanes<R>) {
      Vector<R> weight = exp2_of_negative(load_vector(state.scores[g] + i) - new_maximum);
      weight = lanes_between<R>(0, count - i) ? weight : Vector<R>{};
      store_vector(state.scores[g] + i, weight);
      sum += weight;
    }
    R rescale = exp2_of_negative(Vector<R>{} + (state.maximum[g] - new_maximum))[0];
    state.maximum[g] = new_maximum;
    state.sum[g] = state.sum[g] * rescale + horizontal_sum<R>(sum);
    for (int64_t d = 0; d < width; ++d) state.out[g][d] *= rescale;
  }
}

/// Adds `pairs` pairs of dims from d on of the first `count` values. The last pair is partial where `partial` is not 0.
template <int pairs, bool is_partial, typename T, int group>
WEFT_INLINE void add_values(
    DecodeState<T, group>& state, const T* values, int64_t stride, int64_t count, int64_t d, int64_t partial) {
  using R = Real<T>;
  constexpr int64_t kPair = DecodeState<T, group>::kPairElements;
  VectorPair<R> sums[group][pairs];
#pragma GCC unroll 4
  for (int g = 0; g < group; ++g) {
#pragma GCC unroll 2
    for (int p = 0; p < pairs; ++p) sums[g][p] = load_pair(state.out[g] + d + p * kPair);
  }
  for (int64_t key = 0; key < count; ++key) {
    VectorPair<R> value[pairs];
#pragma GCC unroll 2
    for (int p = 0; p < pairs; ++p) {
      const T* from = values + key * stride + d + p * kPair;
      if constexpr (is_partial) {
        value[p] = load_partial_pair(from, partial);
      } else {
        value[p] = load_pair(from);
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < group; ++g) {
      R weight = state.scores[g][key];
#pragma GCC unroll 2
      for (int p = 0; p < pairs; ++p) {
        sums[g][p].first += weight * value[p].first;
        sums[g][p].second += weight * value[p].second;
      }
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < group; ++g) {
#pragma GCC unroll 2
    for (int p = 0; p < pairs; ++p) {
      store_vector(state.out[g] + d + p * kPair, sums[g][p].first);
      store_vector(state.out[g] + d + p * kPair + kLanes<R>, sums[g][p].second);
    }
  }
}

template <typename T, int group>
WEFT_INLINE void add_all_values(
    DecodeState<T, group>& state, const T* values, int64_t stride, int64_t count, int64_t head_dim) {
  constexpr int64_t kPair = DecodeState<T, group>::kPairElements;
  constexpr int kPairs = kTileColumns / 2;
  int64_t d = 0;
  for (; d + kPairs * kPair <= head_dim; d += kPairs * kPair)
    add_values<kPairs, false>(state, values, stride, count, d, 0);
  for (; d + kPair <= head_dim; d += kPair) add_values<1, false>(state, values, stride, count, d, 0);
  if (d < head_dim) add_values<1, true>(state, values, stride, count, d, head_dim - d);
}

template <typename T, int group>
WEFT_INLINE void finish(const DecodeState<T, group>& state, Real<T>* partial, int64_t head_dim) {
  constexpr int64_t kPair = DecodeState<T, group>::kPairElements;
  for (int g = 0; g < group; ++g, partial += head_dim + 2) {
    for (int64_t d = 0; d < head_dim; ++d) {
      int64_t pair = d / kPair * kPair;
      partial[d] = state.out[g][pair + lane_of_element<T>(d - pair)];
    }
    partial[head_dim] = state.maximum[g];
    partial[head_dim + 1] = state.sum[g];
  }
}

template <typename T, int group>
void decode(const AttentionForwardArgs& args, const AttentionDecodeWork& work, int64_t first_head, Real<T>* partial) {
  const AttentionSequence& sequence = *work.sequence;
  int64_t stride = sequence.key_token_stride;
  int64_t head_dim = args.head_dim;
  int64_t width = round_up(head_dim, DecodeState<T, group>::kPairElements);
  const T* q = static_cast<const T*>(args.q) + (sequence.query_begin * args.num_heads + first_head) * head_dim;
  const T* keys = static_cast<const T*>(sequence.keys) + work.kv_head * sequence.key_head_stride;
  const T* values = static_cast<const T*>(sequence.values) + work.kv_head * sequence.key_head_stride;
  ScoreScale<Real<T>> scale(args.mask);
  BiasRows<Real<T>> bias;
  if (args.bias.values != nullptr) {
    bias = {static_cast<const Real<T>*>(args.bias.values) + first_head * args.bias.stride + sequence.bias_origin +
                work.key_begin,
            args.bias.stride};
  }
  DecodeState<T, group> state;
  start(state, q, head_dim);
  for (int64_t key = work.key_begin; key < work.key_end; key += kKeyBlock) {
    int64_t count = smaller(kKeyBlock, work.key_end - key);
    for (int64_t i = 0; i < count; i += kLanes<Real<T>>) {
      score_keys(state, keys + (key + i) * stride, stride, smaller(kLanes<Real<T>>, count - i), head_dim, i);
    }
    soften(state, scale, bias, count, width);
    if (bias.values != nullptr) bias.values += kKeyBlock;
    add_all_values(state, values + key * stride, stride, count, head_dim);
  }
  finish(state, partial, head_dim);
}

template <typename T>
void decode_heads(const AttentionForwardArgs& args, const AttentionDecodeWork& work) {
  int64_t group = args.num_heads / args.num_kv_heads;
  Real<T>* partial = static_cast<Real<T>*>(work.partial);
  for (int64_t done = 0; done < group;) {
    int64_t head = work.kv_head * group + done;
    Real<T>* to = partial + done * (args.head_dim + 2);
    // Double is for tests of gradients: one head at a time will do.
    int64_t heads = smaller(std::is_same_v<T, double> ? 1 : kMaxGroup, group - done);
    if constexpr (!std::is_same_v<T, double>) {
      if (heads == 4) decode<T, 4>(args, work, head, to);
      if (heads == 3) decode<T, 3>(args, work, head, to);
      if (heads == 2) decode<T, 2>(args, work, head, to);
    }
    if (heads == 1) decode<T, 1>(args, work, head, to);
    done += heads;
  }
}

template <typename T>
void merge_head(const AttentionForwardArgs& args, const AttentionMergeWork& work, int64_t g) {
  using R = Real<T>;
  int64_t group = args.num_heads / args.num_kv_heads;
  int64_t head_stride = args.head_dim + 2;
  const R* first = static_cast<const R*>(work.partials) + g * head_stride;
  R maximum = kMaskedScore<R>;
  for (int64_t i = 0; i < work.count; ++i) {
    R of_piece = first[i * group * head_stride + args.head_dim];
    maximum = of_piece > maximum ? of_piece : maximum;
  }
  R out[kMaxHeadDim] = {};
  R sum = 0;
  for (int64_t i = 0; i < work.count; ++i) {
    const R* piece = first + i * group * head_stride;
    R factor = exp2_of_negative(Vector<R>{} + (piece[args.head_dim] - maximum))[0];
    sum += factor * piece[args.head_dim + 1];
#pragma omp simd
    for (int64_t d = 0; d < args.head_dim; ++d) out[d] += factor * piece[d];
  }
  int64_t row = work.sequence->query_begin * args.num_heads + work.kv_head * group + g;
  T* to = static_cast<T*>(args.out) + row * args.head_dim;
  R inverse_sum = R(1) / sum;
#pragma omp simd
  for (int64_t d = 0; d < args.head_dim; ++d) to[d] = round_to<T>(out[d] * inverse_sum);
  if (args.log_sum_exp != nullptr) {
    double log_sum = static_cast<double>(maximum) * kLn2 + __builtin_log(static_cast<double>(sum));
    static_cast<R*>(args.log_sum_exp)[row] = static_cast<R>(log_sum);
  }
}

}  // namespace

void attention_decode(const AttentionForwardArgs& args, const AttentionDecodeWork& work) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { decode_heads<T>(args, work); });
}

void attention_merge(const AttentionForwardArgs& args, const AttentionMergeWork& work) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) {
    for (int64_t g = 0; g < args.num_heads / args.num_kv_heads; ++g) merge_head<T>(args, work, g);
  });
}

}  // namespace weft::WEFT_ISA
