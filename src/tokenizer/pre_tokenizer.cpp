#include "tokenizer/pre_tokenizer.h"

#include <utility>

#include "tokenizer/byte_alphabet.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

class LiteralMatcher : public Matcher {
 public:
  explicit LiteralMatcher(std::string literal) : literal_(std::move(literal)) {}
  std::optional<TextSpan> find(std::string_view text, size_t from) const override {
    const size_t begin = text.find(literal_, from);
    if (begin == std::string_view::npos) return std::nullopt;
    return TextSpan{.begin = begin, .end = begin + literal_.size()};
  }

 private:
  std::string literal_;
};

class RegexMatcher : public Matcher {
 public:
  RegexMatcher(std::string_view pattern, const std::string& where) : regex_(pattern, where) {}
  std::optional<TextSpan> find(std::string_view text, size_t from) const override { return regex_.find(text, from); }

 private:
  Regex regex_;
};

class ClassMatcher : public Matcher {
 public:
  explicit ClassMatcher(bool (*is_member)(char32_t)) : is_member_(is_member) {
    for (char32_t c = 0; c < 128; ++c) is_ascii_member_[c] = is_member_(c);
  }
  std::optional<TextSpan> find(std::string_view text, size_t from) const override {
    const char* position = text.data() + from;
    const char* end = text.data() + text.size();
    while (position < end) {
      const char* begin = position;
      const char32_t character = next_character(position);
      if (character < 128 ? is_ascii_member_[character] : is_member_(character)) {
        return TextSpan{.begin = static_cast<size_t>(begin - text.data()),
                        .end = static_cast<size_t>(position - text.data())};
      }
    }
    return std::nullopt;
  }

 private:
  bool (*is_member_)(char32_t);
  bool is_ascii_member_[128] = {};
};

/// Turns the alternation of matches and gaps into pieces.
class PieceJoiner {
 public:
  PieceJoiner(const Piece& piece, SplitBehavior behavior, PieceSink& next)
      : piece_(piece), behavior_(behavior), next_(next) {}

  void add(TextSpan span, bool is_match) {
    switch (behavior_) {
      case SplitBehavior::removed:
        if (!is_match) emit(span);
        return;
      case SplitBehavior::isolated:
        emit(span);
        return;
      case SplitBehavior::merged_with_previous:
        join(span, is_match && !previous_is_match_);
        break;
      case SplitBehavior::merged_with_next:
        join(span, !is_match && previous_is_match_);
        break;
      case SplitBehavior::contiguous:
        join(span, is_match == previous_is_match_);
        break;
    }
    previous_is_match_ = is_match;
  }

  void finish() {
    if (pending_) emit(*pending_);
  }

 private:
  void join(TextSpan span, bool joins_pending) {
    if (pending_ && joins_pending) {
      pending_->end = span.end;
      return;
    }
    finish();
    pending_ = span;
  }
  void emit(TextSpan span) {
    if (span.begin < span.end) next_.accept(piece_.part(span.begin, span.end));
  }

  const Piece& piece_;
  SplitBehavior behavior_;
  PieceSink& next_;
  std::optional<TextSpan> pending_;
  bool previous_is_match_ = false;
};

class Split : public PreTokenizer {
 public:
  Split(std::unique_ptr<Matcher> matcher, SplitBehavior behavior, bool invert)
      : matcher_(std::move(matcher)), behavior_(behavior), invert_(invert) {}

  void split(const Piece& piece, PieceSink& next) const override {
    PieceJoiner joiner(piece, behavior_, next);
    const std::string_view text = piece.text;
    size_t gap_begin = 0;
    size_t from = 0;
    while (from <= text.size()) {
      const std::optional<TextSpan> match = matcher_->find(text, from);
      if (!match) break;
      if (match->begin > gap_begin) joiner.add({gap_begin, match->begin}, invert_);
      const bool is_empty = match->begin == match->end;
      if (!is_empty) joiner.add(*match, !invert_);
      gap_begin = match->end;
      from = is_empty ? after_character(text, match->end) : match->end;
    }
    if (gap_begin < text.size()) joiner.add({gap_begin, text.size()}, invert_);
    joiner.finish();
  }

 private:
  static size_t after_character(std::string_view text, size_t position) {
    if (position >= text.size()) return text.size() + 1;
    const char* next = text.data() + position;
    next_character(next);
    return static_cast<size_t>(next - text.data());
  }

  std::unique_ptr<Matcher> matcher_;
  SplitBehavior behavior_;
  bool invert_;
};

class ScannerSplit : public PreTokenizer {
 public:
  explicit ScannerSplit(std::unique_ptr<WordScanner> scanner) : scanner_(std::move(scanner)) {}
  void split(const Piece& piece, PieceSink& next) const override {
    const char* begin = piece.text.data();
    const char* end = begin + piece.text.size();
    bool is_text_start = piece.is_text_start;
    const uint32_t* sources = piece.sources;
    while (begin < end) {
      const char* word_end = scanner_->next_word(begin, end);
      next.accept({{begin, static_cast<size_t>(word_end - begin)}, piece.readable_end, is_text_start, sources});
      if (sources != nullptr) sources += word_end - begin;
      begin = word_end;
      is_text_start = false;
    }
  }

 private:
  std::unique_ptr<WordScanner> scanner_;
};

/// A text made of a piece; `sources` are of its bytes, none where the piece's are not known.
void accept_copy(const std::string& text, const std::vector<uint32_t>& sources, bool is_text_start, PieceSink& next) {
  if (text.empty()) return;
  next.accept({text, text.data() + text.size(), is_text_start, sources.empty() ? nullptr : sources.data()});
}

class PrefixSpace : public PreTokenizer {
 public:
  void split(const Piece& piece, PieceSink& next) const override {
    if (piece.text.starts_with(' ')) {
      next.accept(piece);
      return;
    }
    std::vector<uint32_t> sources;
    if (piece.sources != nullptr) {
      sources.assign(1, piece.sources[0]);
      sources.insert(sources.end(), piece.sources, piece.sources + piece.text.size());
    }
    accept_copy(" " + std::string(piece.text), sources, piece.is_text_start, next);
  }
};

class SpellBytes : public PreTokenizer {
 public:
  void split(const Piece& piece, PieceSink& next) const override {
    std::string spelled;
    std::vector<uint32_t> sources;
    if (piece.sources == nullptr) {
      append_alphabet(piece.text, spelled);
    } else {
      for (size_t i = 0; i < piece.text.size(); ++i) {
        append_alphabet(piece.text.substr(i, 1), spelled);
        sources.resize(spelled.size(), piece.sources[i]);
      }
    }
    accept_copy(spelled, sources, piece.is_text_start, next);
  }
};

class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(MetaspaceOptions options) : options_(std::move(options)) {
    if (options_.split) {
      splitter_ = make_split(make_literal_matcher(options_.replacement), SplitBehavior::merged_with_next, false);
    }
  }

  void split(const Piece& piece, PieceSink& next) const override {
    std::string text;
    const bool has_prefix = piece.text.starts_with(options_.replacement) || piece.text.starts_with(' ');
    const bool wants_prefix =
        options_.prepend == PrependScheme::always || (options_.prepend == PrependScheme::first && piece.is_text_start);
    if (wants_prefix && !has_prefix) text = options_.replacement;
    for (const char c : piece.text) {
      if (c == ' ') {
        text += options_.replacement;
      } else {
        text.push_back(c);
      }
    }
    std::vector<uint32_t> sources;
    if (piece.sources != nullptr) sources = spread_sources(piece, wants_prefix && !has_prefix);
    const Piece changed{
        text, text.data() + text.size(), piece.is_text_start, piece.sources == nullptr ? nullptr : sources.data()};
    if (splitter_) {
      splitter_->split(changed, next);
    } else {
      next.accept(changed);
    }
  }

 private:
  /// Those of the changed piece. What is put first comes from the first character.
  std::vector<uint32_t> spread_sources(const Piece& piece, bool has_new_prefix) const {
    std::vector<uint32_t> sources(has_new_prefix ? options_.replacement.size() : 0, piece.sources[0]);
    for (size_t i = 0; i < piece.text.size(); ++i) {
      sources.insert(sources.end(), piece.text[i] == ' ' ? options_.replacement.size() : 1, piece.sources[i]);
    }
    return sources;
  }

  MetaspaceOptions options_;
  std::unique_ptr<PreTokenizer> splitter_;
};

class WhitespaceSplit : public PreTokenizer {
 public:
  void split(const Piece& piece, PieceSink& next) const override {
    const char* text = piece.text.data();
    const char* end = text + piece.text.size();
    for (const char* begin = text; begin < end;) {
      const char* position = begin;
      const Kind kind = kind_of(next_character(position));
      for (const char* following = position; following < end; position = following) {
        if (kind_of(next_character(following)) != kind) break;
      }
      if (kind != Kind::space) {
        next.accept(piece.part(static_cast<size_t>(begin - text), static_cast<size_t>(position - text)));
      }
      begin = position;
    }
  }

 private:
  enum class Kind : uint8_t { word, space, other };
  static Kind kind_of(char32_t character) {
    if (is_word_character(character)) return Kind::word;
    return is_space(character) ? Kind::space : Kind::other;
  }
};

class StageSink : public PieceSink {
 public:
  StageSink(const PreTokenizers& stages, size_t stage, PieceSink& sink) : stages_(stages), stage_(stage), sink_(sink) {}
  void accept(const Piece& piece) override { run_pre_tokenizers(stages_, piece, sink_, stage_); }

 private:
  const PreTokenizers& stages_;
  size_t stage_;
  PieceSink& sink_;
};

}  // namespace

void run_pre_tokenizers(const PreTokenizers& stages, const Piece& piece, PieceSink& sink, size_t stage) {
  if (stage == stages.size()) {
    sink.accept(piece);
  } else if (stage + 1 == stages.size()) {
    stages[stage]->split(piece, sink);
  } else {
    StageSink next(stages, stage + 1, sink);
    stages[stage]->split(piece, next);
  }
}

std::unique_ptr<Matcher> make_literal_matcher(std::string literal) {
  return std::make_unique<LiteralMatcher>(std::move(literal));
}

std::unique_ptr<Matcher> make_regex_matcher(std::string_view pattern, const std::string& where) {
  return std::make_unique<RegexMatcher>(pattern, where);
}

std::unique_ptr<Matcher> make_class_matcher(bool (*is_member)(char32_t)) {
  return std::make_unique<ClassMatcher>(is_member);
}

std::unique_ptr<PreTokenizer> make_split(std::unique_ptr<Matcher> matcher, SplitBehavior behavior, bool invert) {
  return std::make_unique<Split>(std::move(matcher), behavior, invert);
}

std::unique_ptr<PreTokenizer> make_pattern_split(std::string_view pattern, const std::string& where) {
  if (auto scanner = make_word_scanner(pattern)) return std::make_unique<ScannerSplit>(std::move(scanner));
  return make_split(make_regex_matcher(pattern, where), SplitBehavior::isolated, false);
}

std::unique_ptr<PreTokenizer> make_digit_split(bool individual_digits) {
  return make_split(
      make_class_matcher(is_number), individual_digits ? SplitBehavior::isolated : SplitBehavior::contiguous, false);
}

std::unique_ptr<PreTokenizer> make_whitespace_split() {
  return std::make_unique<WhitespaceSplit>();
}

void append_byte_level(const ByteLevelOptions& options, PreTokenizers& stages) {
  if (options.add_prefix_space) stages.push_back(std::make_unique<PrefixSpace>());
  if (options.use_regex) stages.push_back(make_pattern_split(kGpt2Pattern, "ByteLevel"));
  if (options.spell_bytes) stages.push_back(std::make_unique<SpellBytes>());
}

std::unique_ptr<PreTokenizer> make_metaspace(MetaspaceOptions options) {
  return std::make_unique<Metaspace>(std::move(options));
}

}  // namespace weft
