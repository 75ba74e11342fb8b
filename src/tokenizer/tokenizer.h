// Text to token ids and back, for every tokenizer format.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

/// A decoding under way. Not thread-safe; the tokenizer must outlive it.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  /// Appends the text that became certain with this id.
  virtual void push(int32_t id, std::string& out) = 0;
  /// Appends what was held back. Nothing may be pushed afterwards.
  virtual void finish(std::string& out) = 0;
};

/// Immutable once loaded; all methods may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// "byte_level_bpe", "bpe", "unigram", "wordpiece", …
  virtual std::string_view type() const = 0;
  /// One more than the largest id.
  virtual int32_t vocab_size() const = 0;

  /// Ids of a text: any bytes; what is not valid UTF-8 becomes U+FFFD first, as in the reference implementations.
  /// Special tokens written in the text are recognised (not by a sentencepiece model, whose control pieces never come
  /// from text). With `add_special_tokens` the post-processor's tokens (bos, [CLS] … [SEP]) are added.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const = 0;
  /// Text of the ids, always valid UTF-8: bytes that form no character become U+FFFD. Ids without a token are left out.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;
  virtual std::unique_ptr<TokenDecoder> start_decoding(bool skip_special_tokens) const = 0;

  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  virtual std::string id_to_token(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;

  virtual std::optional<int32_t> bos_id() const = 0;
  /// Ids that end an answer: the end-of-text token and, for instruct models, the end-of-turn token.
  virtual const std::vector<int32_t>& end_ids() const = 0;
  /// The Jinja chat template that came with the tokenizer; empty when none did.
  virtual const std::string& chat_template() const = 0;
};

/// A folder (tokenizer.json with tokenizer_config.json beside it, or tokenizer.model / spiece.model), a tokenizer.json,
/// a sentencepiece .model or a .gguf file. Throws Error(bad_input) naming the file and what in it cannot be used.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path);

/// Turns ids into text as they come, in constant time each, holding back bytes that end inside a UTF-8 character.
class StreamingDecoder {
 public:
  /// The tokenizer must outlive it.
  StreamingDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  /// The text that became certain with this id (may be empty). Concatenated over all calls plus finish() it equals
  /// decode() of all ids.
  std::string push(int32_t id);
  std::string finish();

 private:
  std::unique_ptr<TokenDecoder> decoder_;
};

}  // namespace weft
