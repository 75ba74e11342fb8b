#include "tokenizer/decoder.h"

#include <functional>
#include <optional>

#include "tokenizer/byte_alphabet.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

class ByteLevelStage : public DecodeStage {
 public:
  void push(std::string&& token, std::vector<std::string>& out) override {
    std::string bytes;
    append_alphabet_bytes(token, bytes);
    std::string text;
    joiner_.push(bytes, text);
    if (!text.empty()) out.push_back(std::move(text));
  }
  void finish(std::vector<std::string>& out) override {
    std::string text;
    joiner_.finish(text);
    if (!text.empty()) out.push_back(std::move(text));
  }

 private:
  Utf8Joiner joiner_;
};

/// The byte of "<0xXX>"; -1 for other tokens.
int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const bool is_digit = c >= '0' && c <= '9';
    const bool is_upper = c >= 'A' && c <= 'F';
    if (!is_digit && !is_upper && !(c >= 'a' && c <= 'f')) return -1;
    value = value * 16 + (is_digit ? c - '0' : is_upper ? c - 'A' + 10 : c - 'a' + 10);
  }
  return value;
}

class ByteFallbackStage : public DecodeStage {
 public:
  void push(std::string&& token, std::vector<std::string>& out) override {
    const int byte = byte_of_token(token);
    if (byte >= 0) {
      bytes_.push_back(static_cast<char>(byte));
      return;
    }
    finish(out);
    out.push_back(std::move(token));
  }
  void finish(std::vector<std::string>& out) override {
    if (bytes_.empty()) return;
    if (is_valid_utf8(bytes_)) {
      out.push_back(bytes_);
    } else {
      for (size_t i = 0; i < bytes_.size(); ++i) out.emplace_back(kReplacementCharacter);
    }
    bytes_.clear();
  }

 private:
  std::string bytes_;
};

class ReplaceStage : public DecodeStage {
 public:
  ReplaceStage(std::shared_ptr<const Matcher> matcher, std::string content)
      : matcher_(std::move(matcher)), content_(std::move(content)) {}
  void push(std::string&& token, std::vector<std::string>& out) override {
    std::string replaced;
    size_t copied = 0;
    for (std::optional<TextSpan> match = matcher_->find(token, 0); match && match->end > match->begin;
         match = matcher_->find(token, copied)) {
      replaced.append(token, copied, match->begin - copied);
      replaced.append(content_);
      copied = match->end;
    }
    replaced.append(token, copied);
    out.push_back(std::move(replaced));
  }

 private:
  std::shared_ptr<const Matcher> matcher_;
  std::string content_;
};

class TokenStripStage : public DecodeStage {
 public:
  TokenStripStage(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void push(std::string&& token, std::vector<std::string>& out) override {
    std::string_view rest = token;
    for (size_t i = 0; i < start_ && rest.starts_with(content_); ++i) rest.remove_prefix(content_.size());
    for (size_t i = 0; i < stop_ && rest.ends_with(content_); ++i) rest.remove_suffix(content_.size());
    out.emplace_back(rest);
  }

 private:
  std::string content_;
  size_t start_;
  size_t stop_;
};

class TextStripStage : public DecodeStage {
 public:
  TextStripStage(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), num_start_(start), stop_(stop) {}
  void push(std::string&& token, std::vector<std::string>& out) override {
    std::string_view rest = token;
    for (; num_start_ > 0 && rest.starts_with(content_); --num_start_) rest.remove_prefix(content_.size());
    if (rest.empty()) return;
    num_start_ = 0;
    size_t num_trailing = 0;
    std::string_view body = rest;
    for (; stop_ > 0 && body.ends_with(content_); ++num_trailing) body.remove_suffix(content_.size());
    if (!body.empty()) {
      give(num_held_, out);
      num_held_ = 0;
      out.emplace_back(body);
    }
    num_held_ += num_trailing;
    if (num_held_ > stop_) {
      give(num_held_ - stop_, out);
      num_held_ = stop_;
    }
  }

 private:
  void give(size_t count, std::vector<std::string>& out) const {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += content_;
    if (!text.empty()) out.push_back(std::move(text));
  }

  std::string content_;
  size_t num_start_;  // characters that may still be removed at the start
  size_t stop_;
  size_t num_held_ = 0;  // trailing characters that vanish if nothing follows
};

class MetaspaceStage : public DecodeStage {
 public:
  MetaspaceStage(std::string replacement, bool drops_first_space)
      : replacement_(std::move(replacement)), drops_space_(drops_first_space) {}
  void push(std::string&& token, std::vector<std::string>& out) override {
    std::string text;
    for (size_t position = 0; position < token.size();) {
      if (std::string_view(token).substr(position).starts_with(replacement_)) {
        if (!drops_space_) text.push_back(' ');
        position += replacement_.size();
      } else {
        text.push_back(token[position++]);
      }
    }
    drops_space_ = false;  // of the first token alone
    out.push_back(std::move(text));
  }

 private:
  std::string replacement_;
  bool drops_space_;
};

/// Holds the last token back, since the last one of all is treated otherwise.
class BpeSuffixStage : public DecodeStage {
 public:
  explicit BpeSuffixStage(std::string suffix) : suffix_(std::move(suffix)) {}
  void push(std::string&& token, std::vector<std::string>& out) override {
    give(" ", out);
    held_ = std::move(token);
  }
  void finish(std::vector<std::string>& out) override { give("", out); }

 private:
  void give(std::string_view content, std::vector<std::string>& out) {
    if (!held_) return;
    std::string text;
    size_t copied = 0;
    for (size_t found = held_->find(suffix_); !suffix_.empty() && found != std::string::npos;
         found = held_->find(suffix_, copied)) {
      text.append(*held_, copied, found - copied);
      text.append(content);
      copied = found + suffix_.size();
    }
    text.append(*held_, copied);
    out.push_back(std::move(text));
    held_.reset();
  }

  std::string suffix_;
  std::optional<std::string> held_;
};

class SpaceJoinerStage : public DecodeStage {
 public:
  void push(std::string&& token, std::vector<std::string>& out) override {
    out.push_back(is_first_ ? std::move(token) : " " + token);
    is_first_ = false;
  }

 private:
  bool is_first_ = true;
};

class Step : public DecoderStep {
 public:
  using Function = std::function<std::unique_ptr<DecodeStage>()>;
  explicit Step(Function start) : start_(std::move(start)) {}
  std::unique_ptr<DecodeStage> start() const override { return start_(); }

 private:
  Function start_;
};

template <typename Stage, typename... Args>
std::unique_ptr<DecoderStep> make_step(Args... args) {
  return std::make_unique<Step>([=] { return std::make_unique<Stage>(args...); });
}

}  // namespace

std::unique_ptr<DecoderStep> make_byte_level_decoder() {
  return make_step<ByteLevelStage>();
}
std::unique_ptr<DecoderStep> make_byte_fallback_decoder() {
  return make_step<ByteFallbackStage>();
}
std::unique_ptr<DecoderStep> make_space_joiner() {
  return make_step<SpaceJoinerStage>();
}
std::unique_ptr<DecoderStep> make_bpe_decoder(std::string suffix) {
  return make_step<BpeSuffixStage>(std::move(suffix));
}

std::unique_ptr<DecoderStep> make_replace_decoder(std::shared_ptr<const Matcher> matcher, std::string content) {
  return make_step<ReplaceStage>(std::move(matcher), std::move(content));
}

std::unique_ptr<DecoderStep> make_metaspace_decoder(std::string replacement, bool drops_first_space) {
  return make_step<MetaspaceStage>(std::move(replacement), drops_first_space);
}

std::unique_ptr<DecoderStep> make_strip_decoder(std::string content, size_t start, size_t stop, bool of_whole_text) {
  if (of_whole_text) return make_step<TextStripStage>(std::move(content), start, stop);
  return make_step<TokenStripStage>(std::move(content), start, stop);
}

}  // namespace weft
