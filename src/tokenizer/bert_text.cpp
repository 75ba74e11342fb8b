#include "tokenizer/bert_text.h"

#include <utf8proc.h>

#include <array>

#include "core/error.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kCapitalSigma = 0x3A3;
constexpr char32_t kFinalSigma = 0x3C2;
constexpr char32_t kSmallSigma = 0x3C3;
constexpr char32_t kCapitalIWithDot = 0x130;

utf8proc_category_t category(char32_t character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(character));
}

/// The unified ideographs of the basic plane: no property of theirs changes with any option, and most Chinese text is
/// made of them.
bool is_common_ideograph(char32_t character) {
  return character >= 0x4E00 && character <= 0x9FFF;
}

/// Unicode's Cased and Case_Ignorable as far as general categories tell.
bool is_cased(char32_t character) {
  const utf8proc_category_t kind = category(character);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LT;
}
bool is_case_ignorable(char32_t character) {
  switch (category(character)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return std::u32string_view(
                 U"'.:\u00B7\u0387\u055F\u05F4\u2018\u2019\u2024\u2027\uFE13\uFE52\uFE55\uFF07\uFF0E\uFF1A")
                 .find(character) != std::u32string_view::npos;
  }
}

/// Unicode 3.13, Final_Sigma: a sigma that ends a word. Linear over a text: a sigma ends the search of the next one.
bool is_final_sigma(std::string_view text, const char* begin, const char* end) {
  bool follows_cased = false;
  for (const char* position = begin; position > text.data() && !follows_cased;) {
    position = previous_character(text.data(), position);
    const char* next = position;
    const char32_t character = next_character(next);
    if (is_case_ignorable(character)) continue;
    follows_cased = is_cased(character);
    if (!follows_cased) return false;
  }
  if (!follows_cased) return false;
  for (const char* position = end; position < text.data() + text.size();) {
    const char32_t character = next_character(position);
    if (!is_case_ignorable(character)) return !is_cased(character);
  }
  return true;
}

/// Where the normalizer writes; the second kind also keeps, for each byte, where its character began.
struct PlainOutput {
  std::string& bytes;
  void set_source(size_t) const {}
  void put(char byte) const { bytes.push_back(byte); }
  void put(char32_t character) const { append_utf8(character, bytes); }
};

struct AlignedOutput {
  std::string& bytes;
  std::vector<uint32_t>& sources;
  uint32_t source = 0;
  void set_source(size_t begin) { source = static_cast<uint32_t>(begin); }
  void put(char byte) {
    bytes.push_back(byte);
    sources.push_back(source);
  }
  void put(char32_t character) {
    append_utf8(character, bytes);
    sources.resize(bytes.size(), source);
  }
};

class BertNormalizer : public Normalizer {
 public:
  explicit BertNormalizer(const BertNormalizerOptions& options) : options_(options) {
    for (char32_t c = 0; c < 128; ++c) {
      const auto byte = static_cast<unsigned char>(c);
      const bool is_upper = c >= 'A' && c <= 'Z';
      const int kept = options_.lowercase && is_upper ? byte + ('a' - 'A') : byte;
      ascii_[c] = static_cast<int16_t>(options_.clean_text ? cleaned(c, kept) : kept);
    }
  }

  std::string_view normalize(std::string_view text, std::string& buffer) const override {
    buffer.clear();
    buffer.reserve(text.size() + text.size() / 2);
    run(text, PlainOutput{buffer});
    return buffer;
  }

  bool normalize_aligned(std::string_view text, std::string& buffer, std::vector<uint32_t>& sources) const override {
    buffer.clear();
    sources.clear();
    run(text, AlignedOutput{buffer, sources});
    return true;
  }

 private:
  static constexpr int kDropped = -1;

  static int cleaned(char32_t ascii, int kept) {
    if (ascii == '\t' || ascii == '\n' || ascii == '\r') return ' ';
    return ascii < 0x20 || ascii == 0x7F ? kDropped : kept;
  }

  bool is_dropped(char32_t character) const {
    if (character == kReplacement) return true;
    const utf8proc_category_t kind = category(character);
    return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF ||
           (kind == UTF8PROC_CATEGORY_CO && options_.rules == BertRules::tokenizer_json);
  }

  template <typename Output>
  void run(std::string_view text, Output output) const {
    const char* end = text.data() + text.size();
    for (const char* position = text.data(); position < end;) {
      output.set_source(static_cast<size_t>(position - text.data()));
      const auto byte = static_cast<unsigned char>(*position);
      if (byte < 0x80) {
        if (ascii_[byte] != kDropped) output.put(static_cast<char>(ascii_[byte]));
        ++position;
        continue;
      }
      const char* begin = position;
      const char32_t character = next_character(position);
      if (character == kCapitalSigma && options_.lowercase && options_.rules == BertRules::vocabulary_txt) {
        output.put(is_final_sigma(text, begin, position) ? kFinalSigma : kSmallSigma);
      } else {
        put_wide(character, output);
      }
    }
  }

  template <typename Output>
  void put_wide(char32_t character, Output& output) const {
    if (!is_common_ideograph(character) && options_.clean_text) {
      if (is_dropped(character)) return;
      if (is_space(character)) return output.put(' ');
    }
    const bool stands_alone = options_.handle_chinese_chars && is_chinese_character(character, options_.rules);
    if (stands_alone) output.put(' ');
    if (is_common_ideograph(character) || !options_.strip_accents) {
      put_lower(character, output);
    } else {
      put_without_accents(character, output);
    }
    if (stands_alone) output.put(' ');
  }

  template <typename Output>
  void put_lower(char32_t character, Output& output) const {
    if (!options_.lowercase || is_common_ideograph(character)) return output.put(character);
    if (character == kCapitalIWithDot) {  // the only one whose lower case has two characters
      output.put('i');
      return output.put(char32_t{0x307});
    }
    output.put(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character))));
  }

  template <typename Output>
  void put_without_accents(char32_t character, Output& output) const {
    std::array<utf8proc_int32_t, 64> parts{};
    int last_boundary_class = 0;
    const utf8proc_ssize_t size =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character),
                                parts.data(),
                                parts.size(),
                                static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE),
                                &last_boundary_class);
    WEFT_ASSERT(size >= 0 && size <= static_cast<utf8proc_ssize_t>(parts.size()));
    for (utf8proc_ssize_t i = 0; i < size; ++i) {
      const auto part = static_cast<char32_t>(parts[static_cast<size_t>(i)]);
      if (category(part) != UTF8PROC_CATEGORY_MN) put_lower(part, output);
    }
  }

  BertNormalizerOptions options_;
  std::array<int16_t, 128> ascii_{};  // what becomes of an ASCII character
};

class BertSplit : public PreTokenizer {
 public:
  explicit BertSplit(bool isolates_ideographs) : isolates_ideographs_(isolates_ideographs) {}

  void split(const Piece& piece, PieceSink& next) const override {
    const char* text = piece.text.data();
    const char* end = text + piece.text.size();
    const auto accept = [&](const char* from, const char* to) {
      if (from < to) next.accept(piece.part(static_cast<size_t>(from - text), static_cast<size_t>(to - text)));
    };
    const char* word = text;
    for (const char* position = text; position < end;) {
      const char* begin = position;
      const Kind kind = kind_of(next_character(position));
      if (kind == Kind::word) continue;
      accept(word, begin);
      if (kind == Kind::alone) accept(begin, position);
      word = position;
    }
    accept(word, end);
  }

 private:
  enum class Kind : uint8_t { word, space, alone };
  Kind kind_of(char32_t character) const {
    if (character < 128) return kAsciiKinds[character];
    if (isolates_ideographs_ && is_chinese_character(character)) return Kind::alone;
    if (is_common_ideograph(character)) return Kind::word;
    if (is_space(character)) return Kind::space;
    return is_punctuation(character) ? Kind::alone : Kind::word;
  }
  static const std::array<Kind, 128> kAsciiKinds;

  bool isolates_ideographs_;
};

const std::array<BertSplit::Kind, 128> BertSplit::kAsciiKinds = [] {
  std::array<Kind, 128> kinds{};
  for (char32_t c = 0; c < 128; ++c) {
    kinds[c] = is_space(c) ? Kind::space : is_punctuation(c) ? Kind::alone : Kind::word;
  }
  return kinds;
}();

class SegmentedSplit : public PreTokenizer {
 public:
  SegmentedSplit(WordSegmenter segmenter, const Vocabulary& vocabulary)
      : segmenter_(std::move(segmenter)), vocabulary_(vocabulary) {}

  void split(const Piece& piece, PieceSink& next) const override {
    segmenter_.cut(piece.text, [&](size_t begin, size_t end) {
      const Piece word = piece.part(begin, end);
      if (vocabulary_.find(word.text) >= 0) {
        next.accept(word);
      } else {
        characters_.split(word, next);
      }
    });
  }

 private:
  WordSegmenter segmenter_;
  const Vocabulary& vocabulary_;
  BertSplit characters_{/*isolates_ideographs=*/true};
};

}  // namespace

std::unique_ptr<Normalizer> make_bert_normalizer(const BertNormalizerOptions& options) {
  return std::make_unique<BertNormalizer>(options);
}

std::unique_ptr<PreTokenizer> make_bert_split() {
  return std::make_unique<BertSplit>(/*isolates_ideographs=*/false);
}

std::unique_ptr<PreTokenizer> make_segmented_split(WordSegmenter segmenter, const Vocabulary& vocabulary) {
  return std::make_unique<SegmentedSplit>(std::move(segmenter), vocabulary);
}

bool is_chinese_character(char32_t character, BertRules rules) {
  const auto is_in = [&](char32_t first, char32_t last) { return character >= first && character <= last; };
  if (is_in(0x4E00, 0x9FFF)) return true;
  if (character < 0x3400) return false;
  // `tokenizers` writes 2B920 where the originals have 2B820.
  return is_in(0x3400, 0x4DBF) || is_in(0xF900, 0xFAFF) || is_in(0x20000, 0x2A6DF) || is_in(0x2A700, 0x2B81F) ||
         is_in(rules == BertRules::tokenizer_json ? 0x2B920 : 0x2B820, 0x2CEAF) || is_in(0x2F800, 0x2FA1F);
}

}  // namespace weft
