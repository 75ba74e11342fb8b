#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/wkv_chunk.h"

namespace weft::WEFT_ISA {
namespace {

template <typename R>
struct ForwardScratch {
  WkvChunk<R> chunk;
  R* u = nullptr;       // [width]
  R* state = nullptr;   // [width, width]
  R* y = nullptr;       // [kChunk, width]
  R* scores = nullptr;  // [kChunk, kChunk]
  Vector<R>* pair_sums = nullptr;
  int64_t bytes = 0;

  WEFT_INLINE ForwardScratch(void* memory, int64_t width) {
    ScratchCutter cutter{reinterpret_cast<uintptr_t>(memory)};
    chunk.cut(cutter, width);
    u = cutter.cut<R>(width);
    state = cutter.cut<R>(width * width);
    y = cutter.cut<R>(kChunk * width);
    scores = cutter.cut<R>(kChunk * kChunk);
    pair_sums = cutter.cut<Vector<R>>(kPairVectors<R>);
    bytes = cutter.used;
  }
};

/// y = scores·v + (r·decays before)·state.
template <typename R>
void chunk_outputs(const ForwardScratch<R>& s, int64_t width) {
  for (int64_t i = 0; i < kChunk; i += kRowsAtOnce) {
    ProductArgs<FmaProduct<R>> within{.a = s.scores + i * kChunk,
                                      .a_row = kChunk,
                                      .a_step = 1,
                                      .b = s.chunk.v,
                                      .b_step = width,
                                      .steps = i + kRowsAtOnce,
                                      .c = s.y + i * width,
                                      .c_row = width};
    multiply_matrix(within, kRowsAtOnce, width);
  }
  ProductArgs<FmaProduct<R>> before{.a = s.chunk.r_before,
                                    .a_row = width,
                                    .a_step = 1,
                                    .b = s.state,
                                    .b_step = width,
                                    .steps = width,
                                    .c = s.y,
                                    .c_row = width,
                                    .accumulate = true};
  multiply_matrix(before, kChunk, width);
}

/// state = total·state + (k·decays after)ᵀ·v.
template <typename R>
void chunk_state(const ForwardScratch<R>& s, int64_t width) {
  ProductArgs<FmaProduct<R>> product{.a = s.chunk.k_after,
                                     .a_row = 1,
                                     .a_step = width,
                                     .b = s.chunk.v,
                                     .b_step = width,
                                     .steps = kChunk,
                                     .c = s.state,
                                     .c_row = width,
                                     .accumulate = true,
                                     .scale = s.chunk.total};
  multiply_matrix(product, width, width);
}

template <typename T>
void forward_chunks(const WkvForwardArgs& args, const WkvWork& work) {
  using R = Real<T>;
  WkvPlace place(args, work);
  ForwardScratch<R> s(work.scratch, place.width);
  load_row(static_cast<const T*>(args.u) + place.column, s.u, place.head_size, place.width);
  load_state(static_cast<const R*>(work.sequence->initial_state), s.state, place, work.head);
  R* boundaries = static_cast<R*>(args.boundary_states);
  for (int64_t token = 0; token < work.sequence->length; token += kChunk) {
    if (boundaries != nullptr && token % kWkvBoundaryTokens == 0) {
      int64_t boundary = work.sequence->first_boundary + token / kWkvBoundaryTokens;
      store_state(s.state, boundaries + state_at(args, boundary, 0), place, work.head);
    }
    int64_t count = smaller(kChunk, work.sequence->length - token);
    int64_t next = token + kChunk, end = work.sequence->length;
    load_chunk<T>(args, place, token, count, s.chunk);
    prefetch_tokens<T>(place, args.r, next, end);
    multiply_decays(s.chunk, place.width);
    prefetch_tokens<T>(place, args.k, next, end);
    pair_scores(s.chunk, s.u, place.width, s.pair_sums, s.scores);
    prefetch_tokens<T>(place, args.v, next, end);
    chunk_outputs(s, place.width);
    prefetch_tokens<R>(place, args.w, next, end);
    chunk_state(s, place.width);
    prefetch_tokens<T>(place, args.y, next, end);
    store_tokens<T>(place, s.y, token, count, args.y);
  }
  if (work.sequence->final_state != nullptr) {
    store_state(s.state, static_cast<R*>(work.sequence->final_state), place, work.head);
  }
}

/// The values that one token's recurrence broadcasts.
template <typename R>
struct TokenScratch {
  R *r = nullptr, *k = nullptr, *v = nullptr, *decay = nullptr, *y = nullptr;  // [width]
  R* state = nullptr;                                                          // [head_size, head_size]
  int64_t bytes = 0;

  WEFT_INLINE TokenScratch(void* memory, int64_t head_size) {
    ScratchCutter cutter{reinterpret_cast<uintptr_t>(memory)};
    R** rows[] = {&r, &k, &v, &decay, &y};
    for (R** row : rows) *row = cutter.cut<R>(round_up(head_size, 16));
    state = cutter.cut<R>(head_size * head_size);
    bytes = cutter.used;
  }
};

/// `columns` vectors of values from m on.
template <typename R, int columns>
WEFT_INLINE void step_columns(const TokenScratch<R>& s, R bonus, R* state, int64_t head_size, int64_t m) {
  Vector<R> y[columns], v[columns];
#pragma GCC unroll 4
  for (int c = 0; c < columns; ++c) {
    v[c] = load_vector(s.v + m + c * kLanes<R>);
    y[c] = v[c] * bonus;
  }
  R* row = state + m;
  for (int64_t n = 0; n < head_size; ++n, row += head_size) {
    R r = s.r[n], k = s.k[n], decay = s.decay[n];
#pragma GCC unroll 4
    for (int c = 0; c < columns; ++c) {
      Vector<R> old = load_vector(row + c * kLanes<R>);
      y[c] += r * old;
      store_vector(row + c * kLanes<R>, decay * old + k * v[c]);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < columns; ++c) store_vector(s.y + m + c * kLanes<R>, y[c]);
}

template <typename R>
WEFT_INLINE void step(const TokenScratch<R>& s, R bonus, R* state, int64_t head_size) {
  int64_t m = 0;
  for (; m + kTileColumns * kLanes<R> <= head_size; m += kTileColumns * kLanes<R>) {
    step_columns<R, kTileColumns>(s, bonus, state, head_size, m);
  }
  for (; m + kLanes<R> <= head_size; m += kLanes<R>) step_columns<R, 1>(s, bonus, state, head_size, m);
  for (; m < head_size; ++m) {
    R y = bonus * s.v[m];
    for (int64_t n = 0; n < head_size; ++n) {
      R& old = state[n * head_size + m];
      y += s.r[n] * old;
      old = s.decay[n] * old + s.k[n] * s.v[m];
    }
    s.y[m] = y;
  }
}

/// Where the state is updated: the final state, which starts as the initial one.
template <typename R>
WEFT_INLINE R* working_state(const WkvForwardArgs& args, const WkvWork& work, R* scratch) {
  int64_t at = state_at(args, 0, work.head);
  R* state = work.sequence->final_state != nullptr ? static_cast<R*>(work.sequence->final_state) + at : scratch;
  auto bytes = static_cast<size_t>(args.head_size * args.head_size) * sizeof(R);
  if (work.sequence->initial_state == nullptr) {
    __builtin_memset(state, 0, bytes);
  } else if (work.sequence->initial_state != work.sequence->final_state) {
    __builtin_memcpy(state, static_cast<const R*>(work.sequence->initial_state) + at, bytes);
  }
  return state;
}

/// One token's rows.
template <typename T>
WEFT_INLINE void prefetch_ahead(const WkvForwardArgs& args, const WkvPlace& place, int64_t token, int64_t length) {
  int64_t end = smaller(token + 1, length);
  prefetch_tokens<T>(place, args.r, token, end);
  prefetch_tokens<T>(place, args.k, token, end);
  prefetch_tokens<T>(place, args.v, token, end);
  prefetch_tokens<Real<T>>(place, args.w, token, end);
  prefetch_tokens<T>(place, args.y, token, end);
}

template <typename T>
void recurrent_tokens(const WkvForwardArgs& args, const WkvWork& work) {
  using R = Real<T>;
  WkvPlace place(args, work);
  TokenScratch<R> s(work.scratch, place.head_size);
  R* state = working_state(args, work, s.state);
  const T* u = static_cast<const T*>(args.u) + place.column;
  for (int64_t token = 0; token < work.sequence->length; ++token) {
    int64_t at = place.at(token);
    prefetch_ahead<T>(args, place, token + kChunk, work.sequence->length);
    load_row(static_cast<const T*>(args.r) + at, s.r, place.head_size, place.width);
    load_row(static_cast<const T*>(args.k) + at, s.k, place.head_size, place.width);
    load_row(static_cast<const T*>(args.v) + at, s.v, place.head_size, place.width);
    load_rates(static_cast<const R*>(args.w) + at, s.decay, place.head_size);
    rates_to_decays(s.decay, s.decay, place.head_size);
    R bonus = 0;
#pragma omp simd reduction(+ : bonus)
    for (int64_t n = 0; n < place.head_size; ++n) bonus += s.r[n] * load(u[n]) * s.k[n];
    step(s, bonus, state, place.head_size);
    T* y = static_cast<T*>(args.y) + at;
#pragma omp simd
    for (int64_t n = 0; n < place.head_size; ++n) y[n] = round_to<T>(s.y[n]);
  }
}

}  // namespace

int64_t wkv_forward_scratch(const WkvForwardArgs& args) {
  int64_t width = round_up(args.head_size, 16);
  if (args.dtype == DType::f64) return ForwardScratch<double>(nullptr, width).bytes;
  return ForwardScratch<float>(nullptr, width).bytes;
}

void wkv_forward(const WkvForwardArgs& args, const WkvWork& work) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { forward_chunks<T>(args, work); });
}

void wkv_recurrent(const WkvForwardArgs& args, const WkvWork& work) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { recurrent_tokens<T>(args, work); });
}

}  // namespace weft::WEFT_ISA
