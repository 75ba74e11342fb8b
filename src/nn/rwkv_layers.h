// The parts of RWKV-6 (Peng et al., "Eagle and Finch", 2024). Each is data; none knows a family.
//
// Axes: T tokens of a packed batch, C hidden size, N head size.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "nn/layers.h"
#include "ops/token_shift.h"
#include "ops/wkv.h"

namespace weft {

/// What is the same for all blocks of one forward pass.
struct RecurrentPass {
  int64_t num_tokens = 0;
  std::vector<WkvSpan> spans;  // sequences; their slots are those of the cache, or 0
  KvCache* cache = nullptr;    // its states, three a block: the heads' matrices, and the last inputs of both mixes
  /// bert4keras3 only: 1 for tokens that change the state, 0 for those that do not (id 0); empty: all do.
  std::vector<float> changes_state;
};

/// NAME.weight and NAME.bias.
struct LayerNorm {
  const Parameter* weight = nullptr;
  const Parameter* bias = nullptr;
  double eps = 1e-5;

  Tensor forward(Context& context, const Tensor& x) const;
};
LayerNorm add_layer_norm_layer(ParameterStore& store, const std::string& name, int64_t width, double eps);

/// up(tanh(down(x))) with a bias.
struct LowRankLinear {
  Linear down, up;
};

/// A token's input moved towards the token before it, by what the data say, for each of five projections; then the
/// recurrence over heads.
struct TimeMix {
  const Parameter* base_mix = nullptr;  // [C]
  std::array<LowRankLinear, 5> mixes;   // of receptance, key, value, decay, gate
  Linear receptance, key, value, gate, output;
  LowRankLinear decay;
  const Parameter* bonus = nullptr;        // [C]: of a token to itself
  const Parameter* norm_weight = nullptr;  // [C], of each head's norm
  const Parameter* norm_bias = nullptr;
  const Parameter* inner_norm_weight = nullptr;  // [N]: a weight and bias before those; null: none
  const Parameter* inner_norm_bias = nullptr;
  /// What sequences start from, where it is learned; null: zeros.
  const Parameter* initial_state = nullptr;  // [heads · N (key), N (value)]
  const Parameter* initial_shift = nullptr;  // [C]: the input before the first
  double norm_eps = 64e-5;
  int64_t head_size = 0;
  int64_t layer = 0;

  /// x and the result lie outside the tensor-parallel region.
  Tensor forward(Context& context, const Tensor& x, const RecurrentPass& pass) const;
};

/// sigmoid(receptance(x_r)) · value(relu(key(x_k))²).
struct ChannelMix {
  const Parameter* key_mix = nullptr;  // [C]
  const Parameter* receptance_mix = nullptr;
  const Parameter* initial_shift = nullptr;  // as of TimeMix
  Linear key, receptance, value;
  int64_t layer = 0;

  Tensor forward(Context& context, const Tensor& x, const RecurrentPass& pass) const;
};

/// States of a block of `heads` local heads, as KvCacheShape::states holds them.
std::vector<CacheState> recurrent_states(
    int64_t heads, int64_t width, DType dtype, const TimeMix& time_mix, const ChannelMix& channel_mix);

}  // namespace weft
