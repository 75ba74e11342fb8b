#include "generate/token_logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace weft {

TokenLogprobs token_logprobs(std::span<const float> logits, int32_t id, int64_t num_top) {
  float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  double offset = static_cast<double>(largest) + std::log(sum);
  auto logprob = [&](int32_t of) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(of)]) - offset);
  };
  TokenLogprobs result{.logprob = logprob(id), .top = {}};
  if (num_top <= 0) return result;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  auto end = ids.begin() + std::min<std::ptrdiff_t>(num_top, std::ssize(ids));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    float left = logits[static_cast<size_t>(a)];
    float right = logits[static_cast<size_t>(b)];
    return left != right ? left > right : a < b;
  });
  for (auto place = ids.begin(); place != end; ++place) result.top.emplace_back(*place, logprob(*place));
  return result;
}

}  // namespace weft
