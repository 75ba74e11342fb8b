#include "tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "core/error.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/hash.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

// Up to here a scan of all pairs beats the heap.
constexpr size_t kShortWordSymbols = 32;
constexpr int32_t kNoMerge = std::numeric_limits<int32_t>::max();
constexpr uint64_t kFreePair = std::numeric_limits<uint64_t>::max();

// The classes of ascii_pairs_: ASCII and the space's stand-in U+2581.
constexpr size_t kPairClasses = 129;

size_t pair_class(char32_t character) {
  if (character < 128) return character;
  return character == 0x2581 ? 128 : kPairClasses;
}

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t hash_pair(uint64_t pair) {
  return mix_hash(pair, 0);
}

bool is_byte_token(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
}

char32_t last_character(std::string_view text) {
  const char* position = previous_character(text.data(), text.data() + text.size());
  return next_character(position);
}

char32_t first_character(std::string_view text) {
  const char* position = text.data();
  return next_character(position);
}

/// Later candidates first, as the standard heap functions keep the largest on top.
bool is_later(const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

}  // namespace

BpeMerge parse_merge(std::string_view text, size_t rank, const Vocabulary& vocabulary, const std::string& where) {
  const size_t space = text.find(' ', 1);  // a half may begin with the separator itself
  const std::string_view left = text.substr(0, space);
  const std::string_view right = space == std::string_view::npos ? "" : text.substr(space + 1);
  const BpeMerge merge{.left = vocabulary.find(left),
                       .right = vocabulary.find(right),
                       .merged = vocabulary.find(std::string(left) + std::string(right)),
                       .rank = static_cast<int32_t>(rank)};
  if (space == std::string_view::npos || merge.left < 0 || merge.right < 0 || merge.merged < 0) {
    fail_input("{}: merge {} ('{}') is not two tokens that form a third", where, rank, printable(text));
  }
  return merge;
}

BpeModel::BpeModel(const Vocabulary& vocabulary, const std::vector<BpeMerge>& merges, BpeOptions options)
    : vocabulary_(vocabulary), options_(std::move(options)), byte_ids_(256, -1), ascii_ids_(128, -1) {
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string token;
    if (options_.byte_level) {
      append_utf8(byte_to_alphabet(static_cast<unsigned char>(byte)), token);
    } else {
      token = fmt::format("<0x{:02X}>", byte);
    }
    byte_ids_[byte] = vocabulary_.find(token);
  }
  for (size_t c = 0; c < 128; ++c) ascii_ids_[c] = vocabulary_.find(std::string(1, static_cast<char>(c)));
  if (!options_.unknown_token.empty()) unknown_id_ = vocabulary_.find(options_.unknown_token);
  build_merge_table(merges);
  build_boundaries(merges);
  if (options_.ignore_merges) build_whole_words();
}

void BpeModel::build_merge_table(const std::vector<BpeMerge>& merges) {
  merges_.assign(std::bit_ceil(merges.size() * 2 + 16), {.pair = kFreePair, .rank = kNoMerge, .merged = -1});
  const size_t mask = merges_.size() - 1;
  for (const BpeMerge& merge : merges) {
    const uint64_t pair = pair_key(merge.left, merge.right);
    size_t slot = hash_pair(pair) & mask;
    while (merges_[slot].pair != kFreePair && merges_[slot].pair != pair) slot = (slot + 1) & mask;
    merges_[slot] = {.pair = pair, .rank = merge.rank, .merged = merge.merged};
  }
}

bool BpeModel::covers_all_characters() const {
  for (size_t byte = 0; byte < 256; ++byte) {
    const bool is_covered = byte_ids_[byte] >= 0 || (byte < 128 && ascii_ids_[byte] >= 0);
    if (!is_covered) return false;
  }
  return true;
}

void BpeModel::build_boundaries(const std::vector<BpeMerge>& merges) {
  // An unknown character could vanish or fuse with another, so that chunks would not be independent.
  if (options_.byte_level || !options_.byte_fallback || !covers_all_characters()) return;
  if (!options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty()) return;
  ascii_pairs_.assign(kPairClasses * kPairClasses, false);
  pair_bits_.assign(std::bit_ceil(merges.size() / 4 + 16), 0);
  for (const BpeMerge& merge : merges) {
    const std::string_view left = vocabulary_.token(merge.left);
    const std::string_view right = vocabulary_.token(merge.right);
    if (is_byte_token(left) || is_byte_token(right)) return;
    if (left.empty() || right.empty()) continue;
    const char32_t before = last_character(left);
    const char32_t after = first_character(right);
    if (pair_class(before) < kPairClasses && pair_class(after) < kPairClasses) {
      ascii_pairs_[pair_class(before) * kPairClasses + pair_class(after)] = true;
    }
    const uint64_t bit = mix_hash(before, after) & (pair_bits_.size() * 64 - 1);
    pair_bits_[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  splits_chunks_ = true;
}

void BpeModel::build_whole_words() {
  whole_words_ = StringTable(static_cast<size_t>(vocabulary_.size()));
  std::string bytes;
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    if (!vocabulary_.contains(id)) continue;
    bytes.clear();
    if (options_.byte_level) {
      append_alphabet_bytes(vocabulary_.token(id), bytes);
    } else {
      bytes = vocabulary_.token(id);
    }
    whole_words_.set(bytes, id);
  }
}

const BpeModel::Merge* BpeModel::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pair_key(left, right);
  const size_t mask = merges_.size() - 1;
  size_t slot = hash_pair(pair) & mask;
  while (merges_[slot].pair != pair) {
    if (merges_[slot].pair == kFreePair) return nullptr;
    slot = (slot + 1) & mask;
  }
  return &merges_[slot];
}

bool BpeModel::may_join(char32_t left, char32_t right) const {
  const size_t left_class = pair_class(left);
  const size_t right_class = pair_class(right);
  if (left_class < kPairClasses && right_class < kPairClasses) {
    return ascii_pairs_[left_class * kPairClasses + right_class];
  }
  const uint64_t bit = mix_hash(left, right) & (pair_bits_.size() * 64 - 1);
  return (pair_bits_[bit / 64] >> (bit % 64) & 1) != 0;
}

void BpeModel::encode(std::string_view word,
                      const char* readable_end,
                      ModelScratch& model_scratch,
                      std::vector<int32_t>& ids) const {
  if (word.empty()) return;
  auto& scratch = static_cast<BpeScratch&>(model_scratch);
  // A whole word may be a token that no merge leads to, so it is looked up before it is cut.
  if (!splits_chunks_ || options_.ignore_merges) {
    encode_chunk(word, readable_end, scratch, ids);
    return;
  }
  const char* begin = word.data();
  const char* end = begin + word.size();
  const char* position = begin;
  char32_t previous = next_character(position);
  while (position < end) {
    const char* boundary = position;
    const char32_t current = next_character(position);
    if (!may_join(previous, current)) {
      encode_chunk({begin, static_cast<size_t>(boundary - begin)}, readable_end, scratch, ids);
      begin = boundary;
    }
    previous = current;
  }
  encode_chunk({begin, static_cast<size_t>(end - begin)}, readable_end, scratch, ids);
}

void BpeModel::encode_chunk(std::string_view chunk,
                            const char* readable_end,
                            BpeScratch& scratch,
                            std::vector<int32_t>& ids) const {
  if (chunk.size() > WordCache::kMaxWordBytes) {
    encode_uncached(chunk, scratch, ids);
    return;
  }
  const WordCache::Key key = WordCache::make_key(chunk, readable_end);
  if (const WordCache::Slot* slot = scratch.cache.find(key)) {
    const size_t size = ids.size();
    ids.insert(ids.end(), slot->ids.begin(), slot->ids.end());
    ids.resize(size + slot->num_ids);
    return;
  }
  const size_t size = ids.size();
  encode_uncached(chunk, scratch, ids);
  scratch.cache.insert(key, std::span(ids).subspan(size));
}

void BpeModel::encode_uncached(std::string_view chunk, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    if (const int32_t id = whole_words_.find(chunk); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  scratch.ids.clear();
  append_symbols(chunk, scratch.ids, nullptr);
  if (scratch.ids.size() <= kShortWordSymbols) {
    merge_short(scratch.ids);
  } else {
    merge_long(scratch);
  }
  ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
}

int32_t BpeModel::symbol_id(std::string_view character, bool is_first, bool is_last) const {
  const bool has_prefix = !is_first && !options_.continuing_subword_prefix.empty();
  const bool has_suffix = is_last && !options_.end_of_word_suffix.empty();
  if (has_prefix || has_suffix) {
    std::string token = has_prefix ? options_.continuing_subword_prefix : std::string();
    token.append(character);
    if (has_suffix) token.append(options_.end_of_word_suffix);
    return vocabulary_.find(token);
  }
  if (character.size() == 1) return ascii_ids_[static_cast<unsigned char>(character[0])];
  return vocabulary_.find(character);
}

// The reference adds a pending unknown only when the next known character comes, after any byte tokens between; so do
// we.
void BpeModel::append_symbols(std::string_view chunk, std::vector<int32_t>& ids, std::vector<TokenSpan>* spans) const {
  const char* position = chunk.data();
  const char* end = position + chunk.size();
  bool has_unknown = false;
  TokenSpan unknown;
  const auto add = [&](int32_t id, const TokenSpan& span) {
    ids.push_back(id);
    if (spans != nullptr) spans->push_back(span);
  };
  while (position < end) {
    const char* begin = position;
    if (options_.byte_level) {
      ++position;
    } else {
      next_character(position);
    }
    const std::string_view character(begin, static_cast<size_t>(position - begin));
    const auto place = static_cast<size_t>(begin - chunk.data());
    const TokenSpan span{place, place + character.size()};
    const int32_t id = options_.byte_level ? byte_ids_[static_cast<unsigned char>(*begin)]
                                           : symbol_id(character, begin == chunk.data(), position == end);
    if (id >= 0) {
      if (has_unknown) add(unknown_id_, unknown);
      has_unknown = false;
      add(id, span);
      continue;
    }
    const auto has_token = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)] >= 0; };
    if (options_.byte_fallback && std::all_of(character.begin(), character.end(), has_token)) {
      for (size_t i = 0; i < character.size(); ++i) {
        add(byte_ids_[static_cast<unsigned char>(character[i])], {place + i, place + i + 1});
      }
      continue;
    }
    if (unknown_id_ < 0) continue;
    const bool goes_on = has_unknown && options_.fuse_unknown;
    if (has_unknown && !goes_on) add(unknown_id_, unknown);
    unknown = {goes_on ? unknown.begin : span.begin, span.end};
    has_unknown = true;
  }
  if (has_unknown) add(unknown_id_, unknown);
}

bool BpeModel::encode_with_spans(std::string_view word,
                                 std::vector<int32_t>& ids,
                                 std::vector<TokenSpan>& spans) const {
  if (word.empty()) return true;
  if (options_.ignore_merges) {
    if (const int32_t id = whole_words_.find(word); id >= 0) {
      ids.push_back(id);
      spans.push_back({0, word.size()});
      return true;
    }
  }
  BpeScratch scratch;
  std::vector<TokenSpan> of_symbols;
  append_symbols(word, scratch.ids, &of_symbols);
  if (scratch.ids.empty()) return true;
  merge_long(scratch);
  ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
  for (int32_t first = 0; first >= 0; first = scratch.symbols[static_cast<size_t>(first)].next) {
    const int32_t next = scratch.symbols[static_cast<size_t>(first)].next;
    const size_t last = (next >= 0 ? static_cast<size_t>(next) : of_symbols.size()) - 1;
    spans.push_back({of_symbols[static_cast<size_t>(first)].begin, of_symbols[last].end});
  }
  return true;
}

void BpeModel::merge_short(std::vector<int32_t>& ids) const {
  std::array<const Merge*, kShortWordSymbols> merges{};
  size_t num_pairs = ids.empty() ? 0 : ids.size() - 1;
  for (size_t i = 0; i < num_pairs; ++i) merges[i] = find_merge(ids[i], ids[i + 1]);
  while (num_pairs > 0) {
    size_t best = num_pairs;
    int32_t best_rank = kNoMerge;
    for (size_t i = 0; i < num_pairs; ++i) {
      if (merges[i] != nullptr && merges[i]->rank < best_rank) {
        best = i;
        best_rank = merges[i]->rank;
      }
    }
    if (best == num_pairs) return;
    ids[best] = merges[best]->merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    --num_pairs;
    std::copy(merges.begin() + best + 1, merges.begin() + num_pairs + 1, merges.begin() + best);
    if (best > 0) merges[best - 1] = find_merge(ids[best - 1], ids[best]);
    if (best < num_pairs) merges[best] = find_merge(ids[best], ids[best + 1]);
  }
}

void BpeModel::merge_long(BpeScratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto num_symbols = static_cast<int32_t>(scratch.ids.size());
  symbols.resize(scratch.ids.size());
  heap.clear();
  const auto add_candidate = [&](int32_t left) {
    const int32_t right = left < 0 ? -1 : symbols[left].next;
    if (right < 0) return false;
    const Merge* merge = find_merge(symbols[left].id, symbols[right].id);
    if (merge == nullptr) return false;
    heap.push_back({merge->rank, left, symbols[left].id, symbols[right].id, merge->merged});
    return true;
  };
  for (int32_t i = 0; i < num_symbols; ++i) {
    symbols[i] = {.id = scratch.ids[i], .previous = i - 1, .next = i + 1 < num_symbols ? i + 1 : -1};
  }
  for (int32_t i = 0; i < num_symbols; ++i) add_candidate(i);
  std::make_heap(heap.begin(), heap.end(), is_later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), is_later);
    const BpeScratch::Candidate best = heap.back();
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[best.left];
    const int32_t right = left.next;
    const bool is_stale = left.id != best.left_id || right < 0 || symbols[right].id != best.right_id;
    if (is_stale) continue;
    left.id = best.merged;
    left.next = symbols[right].next;
    symbols[right].id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.left;
    if (add_candidate(best.left)) std::push_heap(heap.begin(), heap.end(), is_later);
    if (add_candidate(left.previous)) std::push_heap(heap.begin(), heap.end(), is_later);
  }
  scratch.ids.clear();
  for (int32_t i = 0; i >= 0; i = symbols[i].next) scratch.ids.push_back(symbols[i].id);
}

}  // namespace weft
