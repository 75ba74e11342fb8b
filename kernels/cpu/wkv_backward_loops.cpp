// With S the state before a chunk and dS the gradient of the state after it, everything but the pairs of tokens within
// the chunk is matrix products with S and dS. The gradient of a token's ln a is a sum over all paths through its decay:
// from the state before or an earlier token to the state after or a later token. Each path's term contains that decay
// as a factor, and no difference of sums is formed: where a is 0, so is the gradient.
#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/wkv_chunk.h"

namespace weft::WEFT_ISA {
namespace {

inline constexpr int64_t kChunksOfBoundary = kWkvBoundaryTokens / kChunk;

/// [kChunk, width] unless said otherwise.
template <typename R>
struct BackwardScratch {
  WkvChunk<R> chunk;
  R* u = nullptr;   // [width]
  R* du = nullptr;  // [width]
  R* dy = nullptr;
  R* dr = nullptr;  // first dy·Sᵀ
  R* dk = nullptr;  // first v·dSᵀ
  R* dv = nullptr;
  R* dw = nullptr;
  R* v_columns = nullptr;       // [width, kChunk]
  R* scores = nullptr;          // [kChunk, kChunk]
  R* dscores = nullptr;         // [kChunk, kChunk]
  R* dstate = nullptr;          // [width, width]
  R* dstate_columns = nullptr;  // transposed
  R* state_columns = nullptr;   // [kChunksOfBoundary, width, width]: before each chunk, transposed
  R* state_dots = nullptr;      // [width]: Σ_m S·dS
  Vector<R>* pair_sums = nullptr;
  int64_t bytes = 0;

  WEFT_INLINE BackwardScratch(void* memory, int64_t width) {
    ScratchCutter cutter{reinterpret_cast<uintptr_t>(memory)};
    chunk.cut(cutter, width);
    R** vectors[] = {&u, &du, &state_dots};
    for (R** vector : vectors) *vector = cutter.cut<R>(width);
    R** matrices[] = {&dy, &dr, &dk, &dv, &dw, &v_columns};
    for (R** matrix : matrices) *matrix = cutter.cut<R>(kChunk * width);
    R** squares[] = {&dstate, &dstate_columns};
    for (R** square : squares) *square = cutter.cut<R>(width * width);
    scores = cutter.cut<R>(kChunk * kChunk);
    dscores = cutter.cut<R>(kChunk * kChunk);
    state_columns = cutter.cut<R>(kChunksOfBoundary * width * width);
    pair_sums = cutter.cut<Vector<R>>(kPairVectors<R>);
    bytes = cutter.used;
  }
};

/// to [columns, rows] of from [rows, columns], both multiples of the lanes.
template <typename R>
WEFT_INLINE void transpose_matrix(const R* from, R* to, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r += kLanes<R>) {
    for (int64_t c = 0; c < columns; c += kLanes<R>) {
      Vector<R> square[kLanes<R>];
      for (int64_t i = 0; i < kLanes<R>; ++i) square[i] = load_vector(from + (r + i) * columns + c);
      transpose<R>(square);
      for (int64_t i = 0; i < kLanes<R>; ++i) store_vector(to + (c + i) * rows + r, square[i]);
    }
  }
}

/// next = state·total + vᵀ·(k·decays after), all transposed.
template <typename R>
void advance_state(const WkvChunk<R>& chunk, const R* state, R* next, int64_t width) {
  for (int64_t m = 0; m < width; ++m) {
    for (int64_t n = 0; n < width; n += kLanes<R>) {
      store_vector(next + m * width + n, load_vector(state + m * width + n) * load_vector(chunk.total + n));
    }
  }
  ProductArgs<FmaProduct<R>> product{.a = chunk.v,
                                     .a_row = 1,
                                     .a_step = width,
                                     .b = chunk.k_after,
                                     .b_step = width,
                                     .steps = kChunk,
                                     .c = next,
                                     .c_row = width,
                                     .accumulate = true};
  multiply_matrix(product, width, width);
}

/// c = a·b, [kChunk, width] times [width, width].
template <typename R>
void multiply_state(const R* a, const R* b, R* c, int64_t width, bool accumulate = false) {
  ProductArgs<FmaProduct<R>> product{.a = a,
                                     .a_row = width,
                                     .a_step = 1,
                                     .b = b,
                                     .b_step = width,
                                     .steps = width,
                                     .c = c,
                                     .c_row = width,
                                     .accumulate = accumulate};
  multiply_matrix(product, kChunk, width);
}

/// dscores = dy·vᵀ, of which the part above the diagonal means nothing.
template <typename R>
void score_gradients(const BackwardScratch<R>& s, int64_t width) {
  transpose_matrix(s.chunk.v, s.v_columns, kChunk, width);
  ProductArgs<FmaProduct<R>> product{.a = s.dy,
                                     .a_row = width,
                                     .a_step = 1,
                                     .b = s.v_columns,
                                     .b_step = kChunk,
                                     .steps = width,
                                     .c = s.dscores,
                                     .c_row = kChunk};
  multiply_matrix(product, kChunk, kChunk);
}

/// dv = scoresᵀ·dy + (k·decays after)·dS.
template <typename R>
void value_gradients(const BackwardScratch<R>& s, int64_t width) {
  for (int64_t j = 0; j < kChunk; j += kRowsAtOnce) {
    ProductArgs<FmaProduct<R>> within{.a = s.scores + j * kChunk + j,
                                      .a_row = 1,
                                      .a_step = kChunk,
                                      .b = s.dy + j * width,
                                      .b_step = width,
                                      .steps = kChunk - j,
                                      .c = s.dv + j * width,
                                      .c_row = width};
    multiply_matrix(within, kRowsAtOnce, width);
  }
  multiply_state(s.chunk.k_after, s.dstate, s.dv, width, true);
}

template <typename R>
void multiply_states(const R* state, const R* dstate, R* dots, int64_t width) {
  for (int64_t n = 0; n < width; n += kLanes<R>) {
    Vector<R> sums[4] = {};
    for (int64_t m = 0; m < width; m += 4) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        int64_t at = (m + i) * width + n;
        sums[i] += load_vector(state + at) * load_vector(dstate + at);
      }
    }
    store_vector(dots + n, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

/// dS of the state before the chunk.
template <typename R>
void state_gradient(const BackwardScratch<R>& s, int64_t width) {
  ProductArgs<FmaProduct<R>> product{.a = s.chunk.r_before,
                                     .a_row = 1,
                                     .a_step = width,
                                     .b = s.dy,
                                     .b_step = width,
                                     .steps = kChunk,
                                     .c = s.dstate,
                                     .c_row = width,
                                     .accumulate = true,
                                     .scale = s.chunk.total};
  multiply_matrix(product, width, width);
}

/// One vector of channels of all tokens of a chunk.
template <typename R>
struct ChannelGradients {
  Vector<R> r[kChunk], k[kChunk], decay[kChunk];
  Vector<R> dr[kChunk], dk[kChunk];
  Vector<R> dlog[kChunk];  // of ln a

  /// From what dr and dk with the states are: the paths that begin or end there.
  WEFT_INLINE void add_states(Vector<R> through_all) {
    Vector<R> product = Vector<R>{} + R(1);
    Vector<R> sum = Vector<R>{};
    for (int i = kChunk - 1; i >= 0; --i) {
      dk[i] *= product;
      product = without_tiny<R>(product * decay[i]);
    }
    sum = through_all * product;
    for (int i = 0; i < kChunk; ++i) {
      dlog[i] = sum;
      sum += k[i] * dk[i];
    }
    product = Vector<R>{} + R(1);
    for (int i = 0; i < kChunk; ++i) {
      dr[i] *= product;
      product = without_tiny<R>(product * decay[i]);
    }
    sum = Vector<R>{};
    for (int i = kChunk - 1; i >= 0; --i) {
      dlog[i] += sum;
      sum += r[i] * dr[i];
    }
  }

  /// From token j to each later token i.
  WEFT_INLINE void add_pairs(int j, const R* dscores) {
    Vector<R> between[kChunk];
    Vector<R> product = Vector<R>{} + R(1);
    for (int i = j + 1; i < kChunk; ++i) {
      between[i] = product;
      product = without_tiny<R>(product * decay[i]);
    }
    Vector<R> sum = Vector<R>{};
    for (int i = kChunk - 1; i > j; --i) {
      Vector<R> weight = dscores[i * kChunk + j] * between[i];
      dlog[i] += k[j] * sum;  // paths to tokens behind i
      sum += weight * r[i];
      dr[i] += weight * k[j];
    }
    dk[j] += sum;
  }

  /// Gives du.
  WEFT_INLINE Vector<R> add_own(Vector<R> u, const R* dscores) {
    Vector<R> du = Vector<R>{};
    for (int i = 0; i < kChunk; ++i) {
      Vector<R> weight = Vector<R>{} + dscores[i * kChunk + i];
      du += weight * r[i] * k[i];
      dr[i] += weight * u * k[i];
      dk[i] += weight * u * r[i];
    }
    return du;
  }
};

/// dr and dk of the products with the states become the whole gradients; fills dw, adds to du.
template <typename R>
void channel_gradients(const BackwardScratch<R>& s, int64_t width) {
  for (int64_t n = 0; n < width; n += kLanes<R>) {
    ChannelGradients<R> g;
    for (int i = 0; i < kChunk; ++i) {
      int64_t at = i * width + n;
      g.r[i] = load_vector(s.chunk.r + at);
      g.k[i] = load_vector(s.chunk.k + at);
      g.decay[i] = load_vector(s.chunk.decay + at);
      g.dr[i] = load_vector(s.dr + at);
      g.dk[i] = load_vector(s.dk + at);
    }
    g.add_states(load_vector(s.state_dots + n));
    for (int j = 0; j < kChunk - 1; ++j) g.add_pairs(j, s.dscores);
    Vector<R> du = g.add_own(load_vector(s.u + n), s.dscores);
    store_vector(s.du + n, load_vector(s.du + n) + du);
    for (int i = 0; i < kChunk; ++i) {
      int64_t at = i * width + n;
      store_vector(s.dr + at, g.dr[i]);
      store_vector(s.dk + at, g.dk[i]);
      store_vector(s.dw + at, -load_vector(s.chunk.rate + at) * g.dlog[i]);
    }
  }
}

template <typename T>
class HeadBackward {
  using R = Real<T>;

 public:
  WEFT_INLINE HeadBackward(const WkvBackwardArgs& args, const WkvWork& work)
      : args_(args),
        work_(work),
        place_(args.forward, work),
        width_(round_up(args.forward.head_size, 16)),
        square_(width_ * width_),
        s_(work.scratch, width_) {}

  WEFT_INLINE void run() {
    load_row(static_cast<const T*>(args_.forward.u) + place_.column, s_.u, place_.head_size, width_);
    for (int64_t n = 0; n < width_; ++n) s_.du[n] = 0;
    const R* final_states = static_cast<const R*>(args_.dfinal_states);
    if (final_states != nullptr) final_states += state_at(args_.forward, work_.index, 0);
    load_state(final_states, s_.dstate, place_, work_.head);
    int64_t length = work_.sequence->length;
    for (int64_t boundary = wkv_boundaries(length) - 1; boundary >= 0; --boundary) {
      int64_t begin = boundary * kWkvBoundaryTokens;
      int64_t end = smaller(length, begin + kWkvBoundaryTokens);
      compute_states(boundary, begin, end);
      for (int64_t chunk = (end - begin - 1) / kChunk; chunk >= 0; --chunk) {
        backward_chunk(s_.state_columns + chunk * square_, begin + chunk * kChunk);
      }
    }
    R* initial_states = static_cast<R*>(args_.dinitial_states);
    if (initial_states != nullptr) {
      store_state(s_.dstate, initial_states + state_at(args_.forward, work_.index, 0), place_, work_.head);
    }
    load_row(s_.du, static_cast<R*>(work_.du), place_.head_size, place_.head_size);
  }

 private:
  WEFT_INLINE int64_t count(int64_t token) const { return smaller(kChunk, work_.sequence->length - token); }

  template <typename Element>
  WEFT_INLINE void prefetch(const void* rows, int64_t token) const {
    prefetch_tokens<Element>(place_, rows, larger(token, 0), work_.sequence->length);
  }

  /// The states before the chunks of tokens [begin, end), from the boundary's.
  WEFT_INLINE void compute_states(int64_t boundary, int64_t begin, int64_t end) {
    int64_t at = state_at(args_.forward, work_.sequence->first_boundary + boundary, 0);
    load_state(static_cast<const R*>(args_.forward.boundary_states) + at, s_.dstate_columns, place_, work_.head);
    transpose_matrix(s_.dstate_columns, s_.state_columns, width_, width_);
    R* state = s_.state_columns;
    for (int64_t token = begin; token + kChunk < end; token += kChunk, state += square_) {
      load_chunk<T>(args_.forward, place_, token, kChunk, s_.chunk);
      prefetch<T>(args_.forward.k, token + kChunk);
      prefetch<R>(args_.forward.w, token + kChunk);
      multiply_decays(s_.chunk, width_);
      prefetch<T>(args_.forward.v, token + kChunk);
      advance_state(s_.chunk, state, state + square_, width_);
    }
  }

  WEFT_INLINE void backward_chunk(const R* state_columns, int64_t token) {
    load_chunk<T>(args_.forward, place_, token, count(token), s_.chunk);
    load_tokens<T>(place_, args_.dy, token, count(token), s_.dy);
    prefetch<T>(args_.dr, token);
    multiply_decays(s_.chunk, width_);
    prefetch<T>(args_.dk, token);
    pair_scores(s_.chunk, s_.u, width_, s_.pair_sums, s_.scores);
    prefetch<T>(args_.dv, token);
    score_gradients(s_, width_);
    transpose_matrix(s_.dstate, s_.dstate_columns, width_, width_);
    prefetch<R>(args_.dw, token);
    value_gradients(s_, width_);
    prefetch<T>(args_.forward.r, token - kChunk);
    multiply_state(s_.dy, state_columns, s_.dr, width_);
    prefetch<T>(args_.dy, token - kChunk);
    multiply_state(s_.chunk.v, s_.dstate_columns, s_.dk, width_);
    multiply_states(state_columns, s_.dstate_columns, s_.state_dots, width_);
    channel_gradients(s_, width_);
    state_gradient(s_, width_);
    store_tokens<T>(place_, s_.dr, token, count(token), args_.dr);
    store_tokens<T>(place_, s_.dk, token, count(token), args_.dk);
    store_tokens<T>(place_, s_.dv, token, count(token), args_.dv);
    store_tokens<R>(place_, s_.dw, token, count(token), args_.dw);
  }

  const WkvBackwardArgs& args_;
  const WkvWork& work_;
  WkvPlace place_;
  int64_t width_, square_;
  BackwardScratch<R> s_;
};

}  // namespace

int64_t wkv_backward_scratch(const WkvBackwardArgs& args) {
  int64_t width = round_up(args.forward.head_size, 16);
  if (args.forward.dtype == DType::f64) return BackwardScratch<double>(nullptr, width).bytes;
  return BackwardScratch<float>(nullptr, width).bytes;
}

void wkv_backward(const WkvBackwardArgs& args, const WkvWork& work) {
  for_dtype(args.forward.dtype, [&]<typename T>(TypeTag<T>) { HeadBackward<T>(args, work).run(); });
}

}  // namespace weft::WEFT_ISA
