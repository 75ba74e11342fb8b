// How likely a drawn token was, and which ones were likelier.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace weft {

/// Natural logarithms of the model's own probabilities: before temperature, penalties and forbidden ids.
struct TokenLogprobs {
  float logprob = 0;                           // of the token
  std::vector<std::pair<int32_t, float>> top;  // the likeliest ids, likeliest first; the lower id first on a tie
};

/// Of token `id` by a row of logits, with the `num_top` likeliest.
TokenLogprobs token_logprobs(std::span<const float> logits, int32_t id, int64_t num_top);

}  // namespace weft
