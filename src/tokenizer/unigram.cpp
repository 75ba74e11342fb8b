#include "tokenizer/unigram.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/error.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

// What an unknown character costs below the worst piece (both references' constant).
constexpr double kUnknownPenalty = 10;
// A user-defined piece scores as much as its bytes would, each as the best piece, less this (sentencepiece's constant).
constexpr double kUserDefinedMalus = 0.1;
// Positions in a text are 32 bits wide.
constexpr size_t kMaxWordBytes = size_t{1} << 30;

uint32_t hash_edge(uint32_t key) {
  return key * 0x9E3779B1U;
}

}  // namespace

UnigramModel::Trie::Trie(const std::vector<UnigramPiece>& pieces) : nodes(1) {
  double lowest = std::numeric_limits<double>::max();
  double highest = std::numeric_limits<float>::lowest();
  size_t num_bytes = 0;
  for (const UnigramPiece& piece : pieces) {
    num_bytes += piece.text.size();
    if (piece.is_user_defined) continue;
    lowest = std::min(lowest, piece.score);
    highest = std::max(highest, piece.score);
  }
  unknown_score = lowest - kUnknownPenalty;
  max_score = static_cast<float>(highest);
  edges.resize(std::bit_ceil(num_bytes * 2 + 16));
  for (const UnigramPiece& piece : pieces) insert(piece);
}

void UnigramModel::Trie::insert(const UnigramPiece& piece) {
  uint32_t node = 0;
  for (const char c : piece.text) {
    const uint32_t key = node << 8 | static_cast<unsigned char>(c);
    const size_t mask = edges.size() - 1;
    size_t slot = hash_edge(key) & mask;
    while (edges[slot].child != 0 && edges[slot].key != key) slot = (slot + 1) & mask;
    if (edges[slot].child == 0) {
      edges[slot] = {.key = key, .child = static_cast<uint32_t>(nodes.size())};
      nodes.emplace_back();
    }
    node = edges[slot].child;
  }
  nodes[node] = {
      .score = piece.score, .id = piece.id, .is_user_defined = piece.is_user_defined, .is_special = piece.is_special};
}

uint32_t UnigramModel::Trie::child(uint32_t node, unsigned char byte) const {
  const uint32_t key = node << 8 | byte;
  const size_t mask = edges.size() - 1;
  size_t slot = hash_edge(key) & mask;
  while (edges[slot].child != 0 && edges[slot].key != key) slot = (slot + 1) & mask;
  return edges[slot].child;
}

UnigramModel::UnigramModel(const std::vector<UnigramPiece>& pieces, UnigramOptions options)
    : trie_(std::make_shared<const Trie>(pieces)), options_(std::move(options)) {}

std::unique_ptr<WordModel> UnigramModel::without_specials() const {
  auto model = std::make_unique<UnigramModel>(*this);
  model->skips_specials_ = true;
  return model;
}

int32_t UnigramModel::find_piece(std::string_view text) const {
  uint32_t node = 0;
  for (const char c : text) {
    node = trie_->child(node, static_cast<unsigned char>(c));
    if (node == 0) return -1;
  }
  const Node& piece = trie_->nodes[node];
  return is_found(piece) ? piece.id : -1;
}

template <bool keeps_floats>
void UnigramModel::extend_paths(std::string_view text,
                                size_t begin,
                                size_t character_end,
                                UnigramScratch& scratch) const {
  const Trie& trie = *trie_;
  const double score_until_begin = scratch.best_until[begin].score;
  // Sentencepiece adds and compares in double, but keeps a float.
  const auto offer = [&](size_t end, int32_t id, double candidate) {
    UnigramScratch::Best& best = scratch.best_until[end];
    if (best.begin >= 0 && candidate <= best.score) return;
    best = {keeps_floats ? static_cast<float>(candidate) : candidate, id, static_cast<int32_t>(begin)};
  };
  bool has_single_character = false;
  uint32_t node = 0;
  for (size_t end = begin + 1; end <= text.size(); ++end) {
    node = trie.child(node, static_cast<unsigned char>(text[end - 1]));
    if (node == 0) break;
    const Node& piece = trie.nodes[node];
    if (!is_found(piece)) continue;
    const double score =
        piece.is_user_defined ? static_cast<float>(end - begin) * trie.max_score - kUserDefinedMalus : piece.score;
    offer(end, piece.id, score + score_until_begin);
    has_single_character = has_single_character || end == character_end;
  }
  if (has_single_character) return;
  const double unknown_score = keeps_floats ? static_cast<float>(trie.unknown_score) : trie.unknown_score;
  const double unknown = unknown_score + score_until_begin;
  offer(character_end, options_.unknown_id, keeps_floats ? static_cast<float>(unknown) : unknown);
}

void UnigramModel::encode(std::string_view word,
                          const char* /*readable_end*/,
                          ModelScratch& scratch,
                          std::vector<int32_t>& ids) const {
  segment(word, static_cast<UnigramScratch&>(scratch), ids, nullptr);
}

bool UnigramModel::encode_with_spans(std::string_view word,
                                     std::vector<int32_t>& ids,
                                     std::vector<TokenSpan>& spans) const {
  UnigramScratch scratch;
  segment(word, scratch, ids, &spans);
  return true;
}

void UnigramModel::segment(std::string_view word,
                           UnigramScratch& scratch,
                           std::vector<int32_t>& ids,
                           std::vector<TokenSpan>* spans) const {
  if (word.empty()) return;
  if (word.size() > kMaxWordBytes) {
    fail_input("a text of {} bytes without a place to cut it; at most {} at a time", word.size(), kMaxWordBytes);
  }
  scratch.best_until.assign(word.size() + 1, {.score = 0, .id = -1, .begin = -1});
  const bool keeps_floats = options_.rules == UnigramRules::sentencepiece;
  const char* position = word.data();
  const char* end = position + word.size();
  while (position < end) {
    const auto begin = static_cast<size_t>(position - word.data());
    next_character(position);
    const auto character_end = static_cast<size_t>(position - word.data());
    if (keeps_floats) {
      extend_paths<true>(word, begin, character_end, scratch);
    } else {
      extend_paths<false>(word, begin, character_end, scratch);
    }
  }
  append_best(word, scratch, ids, spans);
}

void UnigramModel::append_best(std::string_view text,
                               const UnigramScratch& scratch,
                               std::vector<int32_t>& ids,
                               std::vector<TokenSpan>* spans) const {
  std::vector<size_t> ends;
  for (size_t end = text.size(); end > 0; end = static_cast<size_t>(scratch.best_until[end].begin)) ends.push_back(end);
  size_t begin = 0;
  for (size_t i = ends.size(); i > 0; --i) {
    const auto is_unknown = [&](size_t at) { return scratch.best_until[ends[at]].id == options_.unknown_id; };
    const bool is_run = is_unknown(i - 1);
    while (is_run && i > 1 && is_unknown(i - 2)) --i;
    const size_t end = ends[i - 1];
    const size_t num_before = ids.size();
    if (is_run) {
      append_unknown(text.substr(begin, end - begin), ids);
    } else {
      ids.push_back(scratch.best_until[end].id);
    }
    if (spans != nullptr) spans->insert(spans->end(), ids.size() - num_before, {begin, end});
    begin = end;
  }
}

void UnigramModel::append_unknown(std::string_view run, std::vector<int32_t>& ids) const {
  if (options_.rules == UnigramRules::tokenizer_json) {
    if (const int32_t id = find_piece(run); id >= 0) return ids.push_back(id);
  }
  const auto byte_id = [&](char byte) { return options_.byte_ids[static_cast<unsigned char>(byte)]; };
  const auto has_id = [&](char byte) { return byte_id(byte) >= 0; };
  if (options_.byte_ids.empty() || !std::all_of(run.begin(), run.end(), has_id)) {
    ids.push_back(options_.unknown_id);
    return;
  }
  for (const char byte : run) ids.push_back(byte_id(byte));
}

}  // namespace weft
