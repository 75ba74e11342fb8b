// The recurrence of RWKV-6: attention with one matrix of state a head, whose rows decay by a factor of each token's own
// (Peng et al., "Eagle and Finch: RWKV with matrix-valued states and dynamic recurrence", 2024).
//
// Axes: T tokens, H heads, N head size.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "kernels/stream.h"

namespace weft {

/// Tokens [begin, begin + length) of a packed pass. States are [H, N (key), N (value)] in f32 (f64 for f64).
struct WkvSequence {
  int64_t begin = 0, length = 0;
  const void* initial_state = nullptr;  // null: zeros
  void* final_state = nullptr;          // null: not wanted; may be initial_state
  int64_t first_boundary = 0;           // row of boundary_states
};

/// Of each sequence and head, token after token, with the decay a = exp(−exp(w)):
/// y[m] = Σ_n r[n]·(u[n]·k[n]·v[m] + S[n, m]), then S[n, m] = a[n]·S[n, m] + k[n]·v[m].
/// Arithmetic in f32 (f64 for f64), y rounded once. Any w is exact: no quotient of decays is formed.
struct WkvForwardArgs {
  const void* r = nullptr;  // [T, H·N]
  const void* k = nullptr;  // [T, H·N]
  const void* v = nullptr;  // [T, H·N]
  const void* w = nullptr;  // [T, H·N] f32 (f64 for f64)
  const void* u = nullptr;  // [H·N]
  void* y = nullptr;        // [T, H·N]
  std::span<const WkvSequence> sequences;
  void* boundary_states = nullptr;  // [boundaries, H, N, N] f32 (f64): states kept for backward; or null
  int64_t num_heads = 0, head_size = 0;
  DType dtype = DType::f32;
};

/// Boundary states lie this many tokens apart, the first before a sequence's first token.
inline constexpr int64_t kWkvBoundaryTokens = 256;
inline int64_t wkv_boundaries(int64_t length) {
  return (length + kWkvBoundaryTokens - 1) / kWkvBoundaryTokens;
}

/// Gradients of all inputs.
struct WkvBackwardArgs {
  WkvForwardArgs forward;               // boundary_states as forward wrote them; y and the sequences' states unused
  const void* dy = nullptr;             // [T, H·N]
  const void* dfinal_states = nullptr;  // [sequences, H, N, N] f32 (f64); null: zeros
  void* dr = nullptr;                   // dtype, overwritten, as dk, dv
  void* dk = nullptr;
  void* dv = nullptr;
  void* dw = nullptr;               // f32 (f64), overwritten
  void* du = nullptr;               // [H·N] f32 (f64), added to; or null
  void* dinitial_states = nullptr;  // [sequences, H, N, N] f32 (f64), overwritten; or null
};

struct WkvKernels {
  /// Chunks of tokens by matrix products; a few tokens (without boundary states) one by one.
  void (*forward)(const WkvForwardArgs&, const Stream&) = nullptr;
  /// Token after token, whatever the length. Has no boundary states.
  void (*recurrent)(const WkvForwardArgs&, const Stream&) = nullptr;
  void (*backward)(const WkvBackwardArgs&, const Stream&) = nullptr;
};

}  // namespace weft
