// The normalizer "Precompiled" of a tokenizer.json: sentencepiece's table by the rule of the crate spm_precompiled.
#include <bitset>
#include <memory>
#include <utility>

#include "tokenizer/normalizer.h"
#include "tokenizer/sentencepiece_normalizer.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

// A longer grapheme is replaced character by character.
constexpr size_t kMaxWholeGraphemeBytes = 5;

class Precompiled : public Normalizer {
 public:
  explicit Precompiled(Charsmap charsmap) : charsmap_(std::move(charsmap)) {
    for (size_t byte = 0; byte < 128; ++byte) {
      const char character = static_cast<char>(byte);
      // A line end may belong to the grapheme of the one before it.
      is_inert_[byte] =
          byte != '\r' && byte != '\n' && charsmap_.find_shortest(std::string_view(&character, 1)).length == 0;
    }
  }

  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    if (inert_prefix(text) == text.size()) return text;
    buffer.clear();
    buffer.reserve(text.size() + text.size() / 8);
    for_each_part(text, [&](std::string_view content, size_t, size_t) { buffer.append(content); });
    return buffer;
  }

  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    buffer.clear();
    sources.clear();
    for_each_part(text, [&](std::string_view content, size_t source, size_t source_step) {
      buffer.append(content);
      for (size_t i = 0; i < content.size(); ++i) sources.push_back(static_cast<uint32_t>(source + i * source_step));
    });
    return true;
  }

 private:
  /// Length of a prefix whose characters are graphemes that stay: ASCII, and followed by ASCII.
  size_t inert_prefix(std::string_view text) const {
    size_t length = 0;
    while (length < text.size() && is_inert(text[length])) ++length;
    const bool may_go_on = length > 0 && length < text.size() && static_cast<unsigned char>(text[length]) >= 0x80;
    return may_go_on ? length - 1 : length;
  }
  bool is_inert(char byte) const {
    return static_cast<unsigned char>(byte) < 0x80 && is_inert_[static_cast<unsigned char>(byte)];
  }

  /// Calls on_part(content, source, source_step): byte i of `content` comes from the character at source + i *
  /// source_step.
  template <typename OnPart>
  void for_each_part(std::string_view text, const OnPart& on_part) const {
    for (size_t begin = 0; begin < text.size();) {
      const size_t num_inert = inert_prefix(text.substr(begin));
      on_part(text.substr(begin, num_inert), begin, 1);
      begin += num_inert;
      if (begin == text.size()) return;
      const std::string_view grapheme = text.substr(begin, grapheme_length(text.substr(begin)));
      replace(grapheme, begin, on_part);
      begin += grapheme.size();
    }
  }

  /// The first, shortest string of the table that a short grapheme starts with replaces all of it.
  template <typename OnPart>
  void replace(std::string_view grapheme, size_t source, const OnPart& on_part) const {
    if (grapheme.size() <= kMaxWholeGraphemeBytes) {
      const Charsmap::Replacement whole = charsmap_.find_shortest(grapheme);
      if (whole.length > 0) return replace_whole(grapheme, whole.content, source, on_part);
    }
    const char* end = grapheme.data() + grapheme.size();
    for (const char* position = grapheme.data(); position < end;) {
      const char* begin = position;
      next_character(position);
      const std::string_view character(begin, static_cast<size_t>(position - begin));
      const Charsmap::Replacement replacement = charsmap_.find_shortest(character);
      on_part(replacement.length > 0 ? replacement.content : character,
              source + static_cast<size_t>(begin - grapheme.data()),
              0);
    }
  }

  /// The characters come from those of the grapheme in turn; those that are more, from its last one.
  template <typename OnPart>
  static void replace_whole(std::string_view grapheme, std::string_view content, size_t source, const OnPart& on_part) {
    const char* replaced = grapheme.data();
    const char* end = content.data() + content.size();
    for (const char* position = content.data(); position < end;) {
      const char* begin = position;
      next_character(position);
      on_part(
          {begin, static_cast<size_t>(position - begin)}, source + static_cast<size_t>(replaced - grapheme.data()), 0);
      const char* next = replaced;
      next_character(next);
      if (next < grapheme.data() + grapheme.size()) replaced = next;
    }
  }

  Charsmap charsmap_;
  std::bitset<128> is_inert_;  // ASCII characters that the table leaves alone
};

}  // namespace

std::unique_ptr<Normalizer> make_precompiled(Charsmap charsmap) {
  return std::make_unique<Precompiled>(std::move(charsmap));
}

}  // namespace weft
