#include "tokenizer/unigram.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "tokenizer/unicode.h"

namespace weft {

namespace {

// What an unknown character costs below the worst piece (sentencepiece's constant).
constexpr float kUnknownPenalty = 10.0F;
// A user-defined piece scores as much as its bytes would, each as the best piece, less this (sentencepiece's constant).
constexpr double kUserDefinedMalus = 0.1;

uint32_t hash_edge(uint32_t key) {
  return key * 0x9E3779B1U;
}

}  // namespace

UnigramModel::UnigramModel(const std::vector<UnigramPiece>& pieces, int32_t unknown_id, std::vector<int32_t> byte_ids)
    : nodes_(1), unknown_id_(unknown_id), byte_ids_(std::move(byte_ids)) {
  float min_score = std::numeric_limits<float>::max();
  max_score_ = std::numeric_limits<float>::lowest();
  size_t num_bytes = 0;
  for (const UnigramPiece& piece : pieces) {
    num_bytes += piece.text.size();
    if (piece.is_user_defined) continue;
    min_score = std::min(min_score, piece.score);
    max_score_ = std::max(max_score_, piece.score);
  }
  unknown_score_ = min_score - kUnknownPenalty;
  edges_.resize(std::bit_ceil(num_bytes * 2 + 16));
  for (const UnigramPiece& piece : pieces) insert(piece);
}

void UnigramModel::insert(const UnigramPiece& piece) {
  uint32_t node = 0;
  for (const char c : piece.text) {
    const uint32_t key = node << 8 | static_cast<unsigned char>(c);
    const size_t mask = edges_.size() - 1;
    size_t slot = hash_edge(key) & mask;
    while (edges_[slot].child != 0 && edges_[slot].key != key) slot = (slot + 1) & mask;
    if (edges_[slot].child == 0) {
      edges_[slot] = {.key = key, .child = static_cast<uint32_t>(nodes_.size())};
      nodes_.emplace_back();
    }
    node = edges_[slot].child;
  }
  nodes_[node] = {.id = piece.id, .score = piece.score, .is_user_defined = piece.is_user_defined};
}

uint32_t UnigramModel::child(uint32_t node, unsigned char byte) const {
  const uint32_t key = node << 8 | byte;
  const size_t mask = edges_.size() - 1;
  size_t slot = hash_edge(key) & mask;
  while (edges_[slot].child != 0 && edges_[slot].key != key) slot = (slot + 1) & mask;
  return edges_[slot].child;
}

void UnigramModel::extend_paths(std::string_view text,
                                size_t begin,
                                size_t character_end,
                                UnigramScratch& scratch) const {
  const float score_until_begin = scratch.best_until[begin].score;
  // The reference adds in double and keeps a float.
  const auto offer = [&](size_t end, int32_t id, double candidate) {
    UnigramScratch::Best& best = scratch.best_until[end];
    if (best.begin >= 0 && candidate <= best.score) return;
    best = {static_cast<float>(candidate), id, static_cast<int32_t>(begin)};
  };
  bool has_single_character = false;
  uint32_t node = 0;
  for (size_t end = begin + 1; end <= text.size(); ++end) {
    node = child(node, static_cast<unsigned char>(text[end - 1]));
    if (node == 0) break;
    const Node& piece = nodes_[node];
    if (piece.id < 0) continue;
    const double score =
        piece.is_user_defined ? static_cast<float>(end - begin) * max_score_ - kUserDefinedMalus : piece.score;
    offer(end, piece.id, score + score_until_begin);
    has_single_character = has_single_character || end == character_end;
  }
  if (!has_single_character) offer(character_end, unknown_id_, unknown_score_ + score_until_begin);
}

void UnigramModel::encode(std::string_view text,
                          const char* /*readable_end*/,
                          ModelScratch& model_scratch,
                          std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  auto& scratch = static_cast<UnigramScratch&>(model_scratch);
  scratch.best_until.assign(text.size() + 1, {.score = 0, .id = -1, .begin = -1});
  const char* position = text.data();
  const char* end = position + text.size();
  while (position < end) {
    const auto begin = static_cast<size_t>(position - text.data());
    next_character(position);
    extend_paths(text, begin, static_cast<size_t>(position - text.data()), scratch);
  }
  append_best(text, scratch, ids);
}

void UnigramModel::append_best(std::string_view text, const UnigramScratch& scratch, std::vector<int32_t>& ids) const {
  std::vector<size_t> ends;
  for (size_t end = text.size(); end > 0; end = static_cast<size_t>(scratch.best_until[end].begin)) ends.push_back(end);
  bool follows_unknown = false;
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    const UnigramScratch::Best& best = scratch.best_until[*end];
    const auto begin = static_cast<size_t>(best.begin);
    if (best.id == unknown_id_) {
      append_unknown(text.substr(begin, *end - begin), follows_unknown, ids);
    } else {
      ids.push_back(best.id);
    }
    follows_unknown = best.id == unknown_id_;
  }
}

void UnigramModel::append_unknown(std::string_view character, bool follows_unknown, std::vector<int32_t>& ids) const {
  if (byte_ids_.empty()) {
    if (!follows_unknown) ids.push_back(unknown_id_);
    return;
  }
  for (const char byte : character) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
}

}  // namespace weft
