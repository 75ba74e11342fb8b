// The four Unicode normal forms. utf8proc supplies the data and the composition; its own reordering of marks takes
// quadratic time on long runs of them, so the reordering is done here.
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <memory>
#include <vector>

#include "core/error.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

constexpr char32_t kNumCharacters = 0x110000;

int combining_class(utf8proc_int32_t character) {
  return utf8proc_get_property(character)->combining_class;
}

void decompose(char32_t character, bool is_compatibility, std::vector<utf8proc_int32_t>& out) {
  std::array<utf8proc_int32_t, 64> parts{};  // the longest decomposition has 18
  int last_boundary_class = 0;
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (is_compatibility ? UTF8PROC_COMPAT : 0));
  const utf8proc_ssize_t size = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(character), parts.data(), parts.size(), options, &last_boundary_class);
  WEFT_ASSERT(size >= 0 && size <= static_cast<utf8proc_ssize_t>(parts.size()),
              "decomposition of U+{:04X}",
              static_cast<uint32_t>(character));
  out.insert(out.end(), parts.begin(), parts.begin() + size);
}

/// A character and the first and the last one in the text that it comes from.
struct SourcedCharacter {
  utf8proc_int32_t character = 0;
  uint32_t source = 0;
  uint32_t last_source = 0;
};

utf8proc_int32_t character_of(utf8proc_int32_t character) {
  return character;
}
utf8proc_int32_t character_of(const SourcedCharacter& sourced) {
  return sourced.character;
}

/// Canonical ordering: each run of marks sorted by combining class, stably.
template <typename Character>
void order_marks(std::vector<Character>& characters) {
  const auto class_of = [](const Character& c) { return combining_class(character_of(c)); };
  const auto is_mark_class = [&](const Character& c) { return character_of(c) >= 0x300 && class_of(c) != 0; };
  for (auto begin = characters.begin(); begin != characters.end();) {
    begin = std::find_if(begin, characters.end(), is_mark_class);
    const auto end = std::find_if_not(begin, characters.end(), is_mark_class);
    if (end - begin > 1) {
      std::stable_sort(begin, end, [&](const auto& a, const auto& b) { return class_of(a) < class_of(b); });
    }
    begin = end;
  }
}

/// Characters that a form leaves alone whatever stands beside them, except that a following mark may join them.
class InertCharacters {
 public:
  InertCharacters(bool is_compatibility, bool composes) {
    std::vector<utf8proc_int32_t> parts;
    std::vector<char32_t> seconds;
    for (char32_t c = 0; c < kNumCharacters; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
      const bool is_hangul_syllable = c >= 0xAC00 && c < 0xD7A4;
      if (property->decomp_seqindex == UINT16_MAX && !is_hangul_syllable) {
        inert_[c] = property->combining_class == 0;
        continue;
      }
      parts.clear();
      decompose(c, is_compatibility, parts);
      const bool is_whole = parts.size() == 1 && parts[0] == static_cast<utf8proc_int32_t>(c);
      if (parts.size() > 1) seconds.push_back(static_cast<char32_t>(parts.back()));
      if (composes) recompose(parts);
      const bool is_stable = parts.size() == 1 && parts[0] == static_cast<utf8proc_int32_t>(c);
      inert_[c] = property->combining_class == 0 && (is_whole || (composes && is_stable));
    }
    // What can be the second half of a composition may vanish into what stands before it.
    for (const char32_t second : seconds) {
      if (composes && second >= 0x300) inert_[second] = false;
    }
  }

  bool contains(char32_t c) const { return inert_[c]; }

  static void recompose(std::vector<utf8proc_int32_t>& characters) {
    const auto size = static_cast<utf8proc_ssize_t>(characters.size());
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    characters.resize(static_cast<size_t>(utf8proc_normalize_utf32(characters.data(), size, options)));
  }

 private:
  std::bitset<kNumCharacters> inert_;
};

/// Canonical composition of characters in canonical order (The Unicode Standard, 3.11, D117): each joins the starter
/// before it where the two have a composite and nothing between them is in the way.
std::vector<SourcedCharacter> compose(const std::vector<SourcedCharacter>& characters) {
  std::vector<SourcedCharacter> result;
  std::vector<utf8proc_int32_t> pair;
  size_t starter = SIZE_MAX;
  for (const SourcedCharacter& next : characters) {
    const int next_class = combining_class(next.character);
    const bool is_beside = starter + 1 == result.size();
    const bool may_join = starter != SIZE_MAX && (is_beside || combining_class(result.back().character) < next_class);
    if (may_join) {
      pair = {result[starter].character, next.character};
      InertCharacters::recompose(pair);
      if (pair.size() == 1) {
        SourcedCharacter& composite = result[starter];
        composite = {
            pair[0], std::min(composite.source, next.source), std::max(composite.last_source, next.last_source)};
        continue;
      }
    }
    if (next_class == 0) starter = result.size();
    result.push_back(next);
  }
  return result;
}

class UnicodeNormalizer : public Normalizer {
 public:
  explicit UnicodeNormalizer(UnicodeForm form)
      : is_compatibility_(form == UnicodeForm::nfkc || form == UnicodeForm::nfkd),
        composes_(form == UnicodeForm::nfc || form == UnicodeForm::nfkc),
        inert_(std::make_unique<InertCharacters>(is_compatibility_, composes_)) {}

  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    const char* end = text.data() + text.size();
    const char* copied = text.data();
    const char* previous = text.data();  // the last inert character, which a mark after it may join
    std::vector<utf8proc_int32_t> run;
    bool is_changed = false;
    for (const char* position = text.data(); position < end;) {
      const char* begin = position;
      if (inert_->contains(next_character(position))) {
        previous = begin;
        continue;
      }
      const char* run_end = end_of_run(position, end);
      if (!is_changed) buffer.clear();
      is_changed = true;
      buffer.append(copied, static_cast<size_t>(previous - copied));
      append_normalized(previous, run_end, run, buffer);
      copied = previous = position = run_end;
    }
    if (!is_changed) return text;
    buffer.append(copied, static_cast<size_t>(end - copied));
    return buffer;
  }

  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    std::vector<utf8proc_int32_t> parts;
    std::vector<SourcedCharacter> characters;
    const char* end = text.data() + text.size();
    for (const char* position = text.data(); position < end;) {
      const auto source = static_cast<uint32_t>(position - text.data());
      parts.clear();
      decompose(next_character(position), is_compatibility_, parts);
      for (const utf8proc_int32_t part : parts) characters.push_back({part, source, source});
    }
    order_marks(characters);
    if (composes_) characters = compose(characters);
    buffer.clear();
    sources.clear();
    for (const SourcedCharacter& sourced : characters) {
      append_utf8(static_cast<char32_t>(sourced.character), buffer);
      sources.resize(buffer.size(), sourced.source);
      // Composites take two bytes and more.
      sources.back() = sourced.last_source;
    }
    return true;
  }

 private:
  const char* end_of_run(const char* position, const char* end) const {
    while (position < end) {
      const char* next = position;
      if (inert_->contains(next_character(next))) break;
      position = next;
    }
    return position;
  }

  void append_normalized(const char* position,
                         const char* end,
                         std::vector<utf8proc_int32_t>& run,
                         std::string& out) const {
    run.clear();
    while (position < end) decompose(next_character(position), is_compatibility_, run);
    order_marks(run);
    if (composes_) InertCharacters::recompose(run);
    for (const utf8proc_int32_t character : run) append_utf8(static_cast<char32_t>(character), out);
  }

  bool is_compatibility_;
  bool composes_;
  std::unique_ptr<const InertCharacters> inert_;
};

}  // namespace

std::unique_ptr<Normalizer> make_unicode_normalizer(UnicodeForm form) {
  return std::make_unique<UnicodeNormalizer>(form);
}

}  // namespace weft
