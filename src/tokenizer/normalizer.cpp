#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "tokenizer/byte_alphabet.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

/// A text under construction and where its bytes come from.
struct AlignedWriter {
  AlignedWriter(std::string_view from, std::string& bytes, std::vector<uint32_t>& places)
      : text(from), buffer(bytes), sources(places) {
    buffer.clear();
    sources.clear();
  }
  void keep(size_t begin, size_t end) {
    buffer.append(text.substr(begin, end - begin));
    for (size_t i = begin; i < end; ++i) sources.push_back(static_cast<uint32_t>(i));
  }
  /// The reference has a replacement come from the last character of what it replaces.
  void replace(std::string_view content, size_t end) {
    buffer.append(content);
    sources.resize(buffer.size(), end == 0 ? 0 : static_cast<uint32_t>(end - 1));
  }

  std::string_view text;
  std::string& buffer;
  std::vector<uint32_t>& sources;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  std::string_view normalize(std::string_view text, std::string&) const override {
    const char* begin = text.data();
    const char* end = begin + text.size();
    while (left_ && begin < end) {
      const char* next = begin;
      if (!is_space(next_character(next))) break;
      begin = next;
    }
    while (right_ && begin < end) {
      const char* last = previous_character(begin, end);
      const char* position = last;
      if (!is_space(next_character(position))) break;
      end = last;
    }
    return {begin, static_cast<size_t>(end - begin)};
  }
  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    const std::string_view kept = normalize(text, buffer);
    const auto begin = static_cast<size_t>(kept.data() - text.data());
    AlignedWriter(text, buffer, sources).keep(begin, begin + kept.size());
    return true;
  }

 private:
  bool left_;
  bool right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    if (text.empty()) return text;
    buffer.assign(prefix_);
    buffer.append(text);
    return buffer;
  }
  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    AlignedWriter writer(text, buffer, sources);
    if (!text.empty()) writer.replace(prefix_, 0);
    writer.keep(0, text.size());
    return true;
  }

 private:
  std::string prefix_;
};

/// One byte replaced by a string: what vocabularies with U+2581 for the space need for every text.
class ReplaceByte : public Normalizer {
 public:
  ReplaceByte(char byte, std::string content) : byte_(byte), content_(std::move(content)) {}
  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    if (text.find(byte_) == std::string_view::npos) return text;
    buffer.clear();
    buffer.reserve(text.size() + text.size() / 2);
    size_t begin = 0;
    for (size_t end = text.find(byte_); end != std::string_view::npos; end = text.find(byte_, begin)) {
      buffer.append(text.substr(begin, end - begin));
      buffer.append(content_);
      begin = end + 1;
    }
    buffer.append(text.substr(begin));
    return buffer;
  }
  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    AlignedWriter writer(text, buffer, sources);
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == byte_) {
        writer.replace(content_, i + 1);
      } else {
        writer.keep(i, i + 1);
      }
    }
    return true;
  }

 private:
  char byte_;
  std::string content_;
};

class Replace : public Normalizer {
 public:
  Replace(std::unique_ptr<Matcher> matcher, std::string content)
      : matcher_(std::move(matcher)), content_(std::move(content)) {}
  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    std::optional<TextSpan> match = matcher_->find(text, 0);
    if (!match) return text;
    buffer.clear();
    size_t copied = 0;
    for (; match; match = next_match(text, *match)) {
      buffer.append(text.substr(copied, match->begin - copied));
      buffer.append(content_);
      copied = match->end;
    }
    buffer.append(text.substr(copied));
    return buffer;
  }
  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    AlignedWriter writer(text, buffer, sources);
    size_t copied = 0;
    for (std::optional<TextSpan> match = matcher_->find(text, 0); match; match = next_match(text, *match)) {
      if (text.empty()) return false;  // what is put there comes from nowhere
      writer.keep(copied, match->begin);
      writer.replace(content_, match->end);
      copied = match->end;
    }
    writer.keep(copied, text.size());
    return true;
  }

 private:
  /// Behind an empty match a character is left out.
  std::optional<TextSpan> next_match(std::string_view text, TextSpan match) const {
    size_t from = match.end;
    if (match.begin == match.end) {
      if (from == text.size()) return std::nullopt;
      const char* next = text.data() + from;
      next_character(next);
      from = static_cast<size_t>(next - text.data());
    }
    return matcher_->find(text, from);
  }

  std::unique_ptr<Matcher> matcher_;
  std::string content_;
};

/// A rewriting that looks at one character at a time.
class CharacterMap : public Normalizer {
 public:
  using Function = void (*)(char32_t character, std::string& out);
  explicit CharacterMap(Function function) : function_(function) {}
  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    buffer.clear();
    const char* position = text.data();
    const char* end = position + text.size();
    while (position < end) function_(next_character(position), buffer);
    return buffer;
  }
  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    buffer.clear();
    sources.clear();
    const char* position = text.data();
    const char* end = position + text.size();
    while (position < end) {
      const auto source = static_cast<uint32_t>(position - text.data());
      function_(next_character(position), buffer);
      sources.resize(buffer.size(), source);
    }
    return true;
  }

 private:
  Function function_;
};

void lowercase(char32_t character, std::string& out) {
  // The only character whose full lower case is longer than one character.
  if (character == 0x130) {
    out += "i\xCC\x87";
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character))), out);
  }
}

void drop_marks(char32_t character, std::string& out) {
  if (!is_mark(character)) append_utf8(character, out);
}

void clean_nmt(char32_t character, std::string& out) {
  const bool is_dropped = (character >= 0x1 && character <= 0x8) || character == 0xB ||
                          (character >= 0xE && character <= 0x1F) || character == 0x7F || character == 0x8F ||
                          character == 0x9F;
  if (is_dropped) return;
  const bool becomes_space = character == 0x9 || character == 0xA || character == 0xC || character == 0xD ||
                             character == 0x1680 || (character >= 0x200B && character <= 0x200F) ||
                             character == 0x2028 || character == 0x2029 || character == 0x2581 || character == 0xFEFF ||
                             character == 0xFFFD;
  append_utf8(becomes_space ? U' ' : character, out);
}

class ByteLevelNormalizer : public Normalizer {
 public:
  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    buffer.clear();
    append_alphabet(text, buffer);
    return buffer;
  }
  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    buffer.clear();
    sources.clear();
    for (size_t i = 0; i < text.size(); ++i) {
      append_alphabet(text.substr(i, 1), buffer);
      sources.resize(buffer.size(), static_cast<uint32_t>(i));
    }
    return true;
  }
};

}  // namespace

TokenSpan original_span(std::string_view original, const uint32_t* sources, size_t begin, size_t end) {
  // A normal form may have changed the order.
  const auto [first_source, last_source] = std::minmax_element(sources + begin, sources + end);
  const size_t last = *last_source;
  return {*first_source, last + static_cast<size_t>(read_utf8(original.substr(last)).length)};
}

std::unique_ptr<Normalizer> make_lowercase() {
  return std::make_unique<CharacterMap>(lowercase);
}
std::unique_ptr<Normalizer> make_strip_accents() {
  return std::make_unique<CharacterMap>(drop_marks);
}
std::unique_ptr<Normalizer> make_nmt() {
  return std::make_unique<CharacterMap>(clean_nmt);
}
std::unique_ptr<Normalizer> make_strip(bool left, bool right) {
  return std::make_unique<Strip>(left, right);
}
std::unique_ptr<Normalizer> make_prepend(std::string prefix) {
  return std::make_unique<Prepend>(std::move(prefix));
}
std::unique_ptr<Normalizer> make_byte_level_normalizer() {
  return std::make_unique<ByteLevelNormalizer>();
}

std::unique_ptr<Normalizer> make_replace(std::string literal, std::string content) {
  if (literal.size() == 1) return std::make_unique<ReplaceByte>(literal[0], std::move(content));
  return make_replace(make_literal_matcher(std::move(literal)), std::move(content));
}

std::unique_ptr<Normalizer> make_replace(std::unique_ptr<Matcher> matcher, std::string content) {
  return std::make_unique<Replace>(std::move(matcher), std::move(content));
}

std::string_view NormalizerChain::normalize(std::string_view text, std::string (&buffers)[2]) const {
  size_t next = 0;
  for (const auto& stage : stages_) {
    const std::string_view result = stage->normalize(text, buffers[next]);
    // Strip returns a part of its input, which may lie in the other buffer: only a result in this one uses it up.
    if (result.data() == buffers[next].data() && !result.empty()) next = 1 - next;
    text = result;
  }
  return text;
}

bool NormalizerChain::normalize_aligned(AlignedText& text) const {
  AlignedText next;
  for (const auto& stage : stages_) {
    if (!stage->normalize_aligned(text.bytes, next.bytes, next.sources)) return false;
    for (uint32_t& source : next.sources) source = text.sources[source];
    std::swap(text, next);
  }
  return true;
}

}  // namespace weft
