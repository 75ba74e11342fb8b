#include "tokenizer/sentencepiece_normalizer.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";
// A unit's children lie at (its index ^ its offset ^ byte), so they share a block of 256 units.
constexpr size_t kUnitsABlock = 256;

uint32_t label_of(uint32_t unit) {
  return unit & 0x800000FF;
}
bool is_value(uint32_t unit) {
  return unit >> 31 != 0;
}
bool has_value_child(uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
uint32_t value_of(uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & (1U << 9)) >> 6);
}

/// The place in the text of the character that each byte of `content` comes from: its own, where nothing was replaced,
/// else those of what was replaced, which stands at `place`, from the first to the last one.
std::vector<uint32_t> places_of_content(std::string_view content, std::string_view replaced, size_t place) {
  const bool is_same = content.data() == replaced.data();
  std::vector<uint32_t> starts;
  std::vector<uint32_t> places;
  for (size_t i = 0; i < replaced.size(); ++i) {
    const bool goes_on = (static_cast<unsigned char>(replaced[i]) & 0xC0) == 0x80;
    if (!goes_on || i == 0) starts.push_back(static_cast<uint32_t>(place + i));
    if (is_same) places.push_back(starts.back());
  }
  for (size_t i = places.size(); i < content.size(); ++i) {
    const size_t steps = std::max<size_t>(content.size() - 1, 1);
    places.push_back(starts[i * (starts.size() - 1) / steps]);
  }
  return places;
}

}  // namespace

Charsmap::Charsmap(std::string_view bytes, const std::string& where) {
  if (bytes.empty()) return;
  uint32_t trie_bytes = 0;
  if (bytes.size() >= 4) std::memcpy(&trie_bytes, bytes.data(), 4);
  const bool is_whole = bytes.size() > 4 && trie_bytes > 0 && trie_bytes < bytes.size() - 4;
  if (!is_whole || trie_bytes % (4 * kUnitsABlock) != 0) {
    fail_input("{}: the normalization table (precompiled_charsmap) has {} bytes and a trie of {}; the file is damaged",
               where,
               bytes.size(),
               trie_bytes);
  }
  units_.resize(trie_bytes / 4);
  std::memcpy(units_.data(), bytes.data() + 4, trie_bytes);
  replacements_ = bytes.substr(4 + size_t{trie_bytes});
  validate(where);
}

void Charsmap::validate(const std::string& where) const {
  const auto refuse = [&](const char* what) {
    fail_input("{}: the normalization table (precompiled_charsmap) is damaged: {}", where, what);
  };
  if (replacements_.back() != '\0') refuse("its last replacement has no end");
  if (!is_valid_utf8(replacements_)) refuse("its replacements are not valid UTF-8");
  for (size_t i = 0; i < units_.size(); ++i) {
    // Never entered, as no byte matches its label; but for the root, where every search begins.
    if (i > 0 && is_value(units_[i])) continue;
    const size_t children = i ^ offset_of(units_[i]);
    if (children >= units_.size()) refuse("an offset leads out of its trie");
    if (!has_value_child(units_[i])) continue;
    const uint32_t value = value_of(units_[children]);
    if (value >= replacements_.size()) refuse("a replacement lies outside the table");
    if ((static_cast<unsigned char>(replacements_[value]) & 0xC0) == 0x80)
      refuse("a replacement begins inside a character");
  }
}

template <bool is_shortest_enough>
Charsmap::Replacement Charsmap::search(std::string_view text) const {
  Replacement last;
  size_t node = offset_of(units_[0]);
  for (size_t length = 1; length <= text.size(); ++length) {
    const auto byte = static_cast<unsigned char>(text[length - 1]);
    node ^= byte;
    if (byte == 0 || label_of(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if (!has_value_child(unit)) continue;
    last = {length, replacements_.data() + value_of(units_[node])};
    if (is_shortest_enough) break;
  }
  return last;
}

Charsmap::Replacement Charsmap::find(std::string_view text) const {
  return search</*is_shortest_enough=*/false>(text);
}

Charsmap::Replacement Charsmap::find_shortest(std::string_view text) const {
  return search</*is_shortest_enough=*/true>(text);
}

SentencepieceNormalizer::Step SentencepieceNormalizer::next_step(std::string_view text) const {
  if (const size_t length = user_defined_.longest_at_start(text); length > 0) return {text.substr(0, length), length};
  if (!charsmap_.empty()) {
    if (const auto replacement = charsmap_.find(text); replacement.length > 0) {
      return {replacement.content, replacement.length};
    }
  }
  if (static_cast<unsigned char>(text[0]) < 0x80) return {text.substr(0, 1), 1};
  const Utf8Character character = read_utf8(text);
  if (character.status != Utf8Status::valid) return {kReplacementCharacter, 1};
  const auto length = static_cast<size_t>(character.length);
  return {text.substr(0, length), length};
}

std::string SentencepieceNormalizer::normalize(std::string_view text) const {
  return normalize(text, nullptr);
}

AlignedText SentencepieceNormalizer::normalize_aligned(std::string_view text) const {
  AlignedText aligned;
  aligned.bytes = normalize(text, &aligned.sources);
  return aligned;
}

std::string SentencepieceNormalizer::normalize(std::string_view text, std::vector<uint32_t>* sources) const {
  const char* text_begin = text.data();
  std::string out;
  out.reserve(text.size() + text.size() / 2 + kSpaceSymbol.size());
  if (options_.removes_extra_spaces) {
    while (!text.empty()) {
      const Step step = next_step(text);
      if (step.content != " ") break;
      text.remove_prefix(step.length);
    }
  }
  if (text.empty()) return out;
  const auto place = [&] { return static_cast<size_t>(text.data() - text_begin); };
  if (options_.adds_dummy_prefix) out += kSpaceSymbol;
  if (sources != nullptr) sources->assign(out.size(), static_cast<uint32_t>(place()));
  bool follows_space = options_.removes_extra_spaces;
  while (!text.empty()) {
    Step step = next_step(text);
    const std::string_view replaced = text.substr(0, step.length);
    std::vector<uint32_t> places;
    if (sources != nullptr) places = places_of_content(step.content, replaced, place());
    text.remove_prefix(step.length);
    const size_t whole = step.content.size();
    while (follows_space && step.content.starts_with(' ')) step.content.remove_prefix(1);
    if (step.content.empty()) continue;
    size_t at = whole - step.content.size();
    for (const char c : step.content) {
      if (c == ' ') {
        out += kSpaceSymbol;
      } else {
        out.push_back(c);
      }
      if (sources != nullptr) sources->resize(out.size(), places[at]);
      ++at;
    }
    follows_space = options_.removes_extra_spaces && step.content.ends_with(' ');
  }
  while (options_.removes_extra_spaces && out.ends_with(kSpaceSymbol)) out.resize(out.size() - kSpaceSymbol.size());
  if (sources != nullptr) sources->resize(out.size());
  return out;
}

}  // namespace weft
