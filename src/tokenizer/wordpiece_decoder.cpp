// Word pieces back to text, in the two ways that programs have.
#include <utf8proc.h>

#include <tuple>
#include <utility>

#include "tokenizer/bert_text.h"
#include "tokenizer/decoder.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

/// `tokenizers`: a space before each word, a few English rules within each token.
class WordPieceStage : public DecodeStage {
 public:
  WordPieceStage(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}

  void push(std::string&& token, std::vector<std::string>& out) override {
    if (!is_first_) token = token.starts_with(prefix_) ? token.substr(prefix_.size()) : " " + token;
    is_first_ = false;
    if (cleanup_) clean(token);
    out.push_back(std::move(token));
  }

 private:
  static void clean(std::string& token) {
    static constexpr std::pair<std::string_view, std::string_view> kRules[] = {{" .", "."},
                                                                               {" ?", "?"},
                                                                               {" !", "!"},
                                                                               {" ,", ","},
                                                                               {" ' ", "'"},
                                                                               {" n't", "n't"},
                                                                               {" 'm", "'m"},
                                                                               {" do not", " don't"},
                                                                               {" 's", "'s"},
                                                                               {" 've", "'ve"},
                                                                               {" 're", "'re"}};
    for (const auto& [from, to] : kRules) {
      for (size_t found = token.find(from); found != std::string::npos; found = token.find(from, found + to.size())) {
        token.replace(found, from.size(), to);
      }
    }
  }

  std::string prefix_;
  bool cleanup_;
  bool is_first_ = true;
};

/// Characters on their way out; a link rewrites what it sees and hands it on.
class CharacterLink {
 public:
  virtual ~CharacterLink() = default;
  virtual void push(char32_t character) = 0;
  virtual void finish() {}
};

bool is_decimal_digit(char32_t character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(character)) == UTF8PROC_CATEGORY_ND;
}

/// White space at the ends goes.
class StripLink : public CharacterLink {
 public:
  explicit StripLink(std::string& out) : out_(out) {}
  void push(char32_t character) override {
    if (is_space(character)) {
      if (has_text_) append_utf8(character, held_);
      return;
    }
    has_text_ = true;
    out_ += held_;
    held_.clear();
    append_utf8(character, out_);
  }

 private:
  std::string& out_;
  std::string held_;
  bool has_text_ = false;
};

/// "1. 5" becomes "1.5". A digit takes part in one such place only.
class DecimalLink : public CharacterLink {
 public:
  explicit DecimalLink(CharacterLink& next) : next_(next) {}
  void push(char32_t character) override {
    const bool is_digit = is_decimal_digit(character);
    if (state_ == State::space) {
      state_ = State::other;
      if (!is_digit) next_.push(' ');
      return push_other(character, false);
    }
    if (state_ == State::dot && character == ' ') {
      state_ = State::space;
      return;
    }
    state_ = state_ == State::digit && character == '.' ? State::dot : State::other;
    push_other(character, is_digit);
  }
  void finish() override {
    if (state_ == State::space) next_.push(' ');
    next_.finish();
  }

 private:
  enum class State : uint8_t { other, digit, dot, space };
  void push_other(char32_t character, bool may_begin) {
    if (may_begin) state_ = State::digit;
    next_.push(character);
  }
  CharacterLink& next_;
  State state_ = State::other;
};

/// No space behind opening brackets, joining signs and Chinese punctuation.
class PunctuationLink : public CharacterLink {
 public:
  explicit PunctuationLink(CharacterLink& next) : next_(next) {}
  void push(char32_t character) override {
    const bool is_dropped = drops_space_ && character == ' ';
    drops_space_ = binds_what_follows(character);
    if (!is_dropped) next_.push(character);
  }
  void finish() override { next_.finish(); }

 private:
  static bool binds_what_follows(char32_t c) {
    const auto is_in = [&](char32_t first, char32_t last) { return c >= first && c <= last; };
    if (c < 0x80) return std::string_view("+-/={(<[").find(static_cast<char>(c)) != std::string_view::npos;
    return c == 0xB7 || is_in(0x2013, 0x2014) || is_in(0x2018, 0x2019) || is_in(0x201B, 0x201F) ||
           is_in(0x2026, 0x2027) || is_in(0x3000, 0x3003) || is_in(0x3008, 0x3011) || is_in(0x3014, 0x301F) ||
           c == 0x3030 || is_in(0x303E, 0x303F) || c == 0xFE4F || c == 0xFE51 || c == 0xFE54 || is_in(0xFF01, 0xFF0D) ||
           c == 0xFF0F || is_in(0xFF1A, 0xFF20) || is_in(0xFF3B, 0xFF40) || is_in(0xFF5B, 0xFF64);
  }
  CharacterLink& next_;
  bool drops_space_ = false;
};

/// "' re " and its like become "'re ".
class ContractionLink : public CharacterLink {
 public:
  explicit ContractionLink(CharacterLink& next) : next_(next) {}
  void push(char32_t character) override {
    if (character < 0x80) {
      std::string longer = held_ + static_cast<char>(character);
      for (const std::string_view whole : kWholes) {
        if (!whole.starts_with(longer)) continue;
        held_ = std::move(longer);
        if (held_ == whole) {
          held_.erase(1, 1);
          release();
        }
        return;
      }
    }
    release();
    if (character == '\'') {
      held_ = "'";
    } else {
      next_.push(character);
    }
  }
  void finish() override {
    release();
    next_.finish();
  }

 private:
  static constexpr std::string_view kWholes[] = {"' re ", "' m ", "' s ", "' t ", "' ve ", "' d ", "' ll "};
  void release() {
    for (const char byte : std::exchange(held_, {})) next_.push(static_cast<unsigned char>(byte));
  }
  CharacterLink& next_;
  std::string held_;  // the beginning of one of kWholes
};

/// Runs of spaces become one.
class SpaceRunLink : public CharacterLink {
 public:
  explicit SpaceRunLink(CharacterLink& next) : next_(next) {}
  void push(char32_t character) override {
    if (character == ' ' && follows_space_) return;
    follows_space_ = character == ' ';
    next_.push(character);
  }
  void finish() override { next_.finish(); }

 private:
  CharacterLink& next_;
  bool follows_space_ = false;
};

/// bert4keras3: tokens joined by spaces, which then go where Chinese or English has none.
class BertStage : public DecodeStage {
 public:
  void push(std::string&& token, std::vector<std::string>& out) override {
    if (token.empty()) return;
    join(token);
    is_first_ = false;
    give(out);
  }
  void finish(std::vector<std::string>& out) override {
    spaces_.finish();
    give(out);
  }

 private:
  void join(std::string_view token) {
    const char* position = token.data();
    const char32_t character = next_character(position);
    const bool is_single = position == token.data() + token.size();
    if (token.starts_with("##")) return append(token.substr(2));
    if (is_single && is_chinese_character(character)) return append(token);
    if (is_single && is_punctuation(character)) {
      append(token);
      return append(" ");
    }
    if (is_first_ || !follows_chinese_) append(" ");
    append(token);
  }
  void append(std::string_view text) {
    const char* end = text.data() + text.size();
    for (const char* position = text.data(); position < end;) {
      const char32_t character = next_character(position);
      follows_chinese_ = is_chinese_character(character);
      spaces_.push(character);
    }
  }
  void give(std::vector<std::string>& out) {
    if (!text_.empty()) out.push_back(std::exchange(text_, {}));
  }

  std::string text_;
  StripLink strip_{text_};
  DecimalLink decimals_{strip_};
  PunctuationLink punctuation_{decimals_};
  ContractionLink contractions_{punctuation_};
  SpaceRunLink spaces_{contractions_};
  bool is_first_ = true;
  bool follows_chinese_ = false;
};

template <typename Stage, typename... Args>
class Step : public DecoderStep {
 public:
  explicit Step(Args... args) : args_(std::move(args)...) {}
  std::unique_ptr<DecodeStage> start() const override {
    return std::apply([](const auto&... args) { return std::make_unique<Stage>(args...); }, args_);
  }

 private:
  std::tuple<Args...> args_;
};

}  // namespace

std::unique_ptr<DecoderStep> make_wordpiece_decoder(std::string prefix, bool cleanup) {
  return std::make_unique<Step<WordPieceStage, std::string, bool>>(std::move(prefix), cleanup);
}

std::unique_ptr<DecoderStep> make_bert_decoder() {
  return std::make_unique<Step<BertStage>>();
}

}  // namespace weft
