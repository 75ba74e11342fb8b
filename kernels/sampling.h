// The choice of a next token from the logits of a position.
#pragma once

#include <cstdint>

#include "core/random.h"
#include "kernels/stream.h"

namespace weft {

/// Ids that cannot be chosen: `with_share` have their part of the softmax's sum, which lowers all other probabilities.
enum class LogitBan : int32_t { none, with_share, without_share };

/// What happens to a logit before the choice: above 0 it is divided by the factor, otherwise multiplied; then an id
/// that is banned loses it.
struct LogitChange {
  int32_t id = 0;
  float factor = 1;
  float late_factor = 1;  // instead, where the id is the row's late one
  LogitBan ban = LogitBan::none;
};

/// How a row's token is chosen: w = exp((logit − largest)·scale), of which top_k, top_p and min_p keep the largest (the
/// lowest id first on ties), none of them renormalising; then the first kept id, in the order of ids, up to which the
/// kept weights sum to more than u of all kept, u in [0, 1) from the key (seed, step, sequence).
struct SampleChoice {
  double top_p = 1;
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t sequence = 0;
  float scale = 1;  // 1 / temperature
  float min_p = 0;
  int32_t top_k = 0;      // 0: no cut
  int32_t is_greedy = 0;  // the largest logit; the lowest id on ties
  int32_t first_change = 0;
  int32_t num_changes = 0;  // no id twice; those that are banned come first
  int32_t num_bans = 0;
  float late_factor = 1;  // of the late id, where no change has it
};

/// The u of a choice.
constexpr double sample_uniform(const SampleChoice& choice) {
  RandomKey key{choice.seed, choice.step, choice.sequence};
  return static_cast<double>((uint64_t{key.bits(0)} << 32 | key.bits(1)) >> 11) * 0x1p-53;
}

/// ids[r] = the token of row r; −1 where no logit is finite or the largest isn't. Not-a-numbers lose.
struct SampleArgs {
  float* logits = nullptr;                // [rows, width], changed in place
  int32_t* ids = nullptr;                 // [rows], where the logits are
  const int32_t* late_ids = nullptr;      // [rows], there too: ids chosen last, which the host does not know; or null
  const SampleChoice* choices = nullptr;  // [rows], on the host
  const LogitChange* changes = nullptr;   // on the host
  int64_t num_changes = 0;
  int64_t rows = 0, width = 0;
};

struct SamplingKernels {
  /// Where logits would have to travel to the host: empty on the CPU, whose sampler does it (kernels/row_sampler.h).
  void (*sample)(const SampleArgs&, const Stream&) = nullptr;
};

}  // namespace weft
