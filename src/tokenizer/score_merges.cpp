#include "tokenizer/score_merges.h"

#include <algorithm>
#include <functional>

#include "tokenizer/unicode.h"

namespace weft {

namespace {

void append_cuts(const Vocabulary& vocabulary,
                 const std::vector<bool>& is_mergeable,
                 int32_t id,
                 int32_t rank,
                 std::vector<BpeMerge>& merges) {
  const std::string_view piece = vocabulary.token(id);
  const char* end = piece.data() + piece.size();
  for (const char* cut = piece.data(); cut < end;) {
    next_character(cut);
    const auto length = static_cast<size_t>(cut - piece.data());
    const int32_t left = length < piece.size() ? vocabulary.find(piece.substr(0, length)) : -1;
    const int32_t right = left < 0 ? -1 : vocabulary.find(piece.substr(length));
    if (right < 0 || !is_mergeable[static_cast<size_t>(left)] || !is_mergeable[static_cast<size_t>(right)]) continue;
    merges.push_back({.left = left, .right = right, .merged = id, .rank = rank});
  }
}

}  // namespace

std::vector<BpeMerge> merges_from_scores(const Vocabulary& vocabulary,
                                         const std::vector<double>& scores,
                                         const std::vector<bool>& is_mergeable) {
  // Equal scores are equal ranks: there the leftmost pair comes first, whichever piece it makes.
  std::vector<double> order = scores;
  std::sort(order.begin(), order.end(), std::greater<>());
  order.erase(std::unique(order.begin(), order.end()), order.end());
  std::vector<BpeMerge> merges;
  for (size_t id = 0; id < scores.size(); ++id) {
    const auto token_id = static_cast<int32_t>(id);
    if (!is_mergeable[id] || vocabulary.find(vocabulary.token(token_id)) != token_id) continue;
    const auto rank = std::lower_bound(order.begin(), order.end(), scores[id], std::greater<>()) - order.begin();
    append_cuts(vocabulary, is_mergeable, token_id, static_cast<int32_t>(rank), merges);
  }
  return merges;
}

}  // namespace weft
