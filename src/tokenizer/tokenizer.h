// Text to token ids and back, for every tokenizer format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/token_span.h"

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

/// What becomes of special tokens written in a text.
enum class SpecialsInText : uint8_t {
  as_in_file,  // recognised by a tokenizer.json or .gguf, plain text for a vocab.txt or a sentencepiece model
  recognised,
  plain_text,  // text from outside cannot forge them
};

/// Which tokens go when a text is too long: the last ones, the first ones, or, one after the other, the one at an index
/// of the list with its special tokens (0 is [CLS]; negative ones count from the end). Special tokens stay.
struct TruncateFrom {
  enum class Side : uint8_t { right, left, index };
  Side side = Side::right;
  int32_t index = 0;
};

struct EncodePairOptions {
  size_t max_length = 0;  // of the whole with its special tokens; 0: no limit
  TruncateFrom truncate_from = {};
  SpecialsInText specials = SpecialsInText::as_in_file;
  bool adds_special_tokens = true;  // false: the texts' own tokens, those of a second one in segment 1
  bool finds_places = false;
};

/// Where a token of one text or two comes from.
struct TokenPlace {
  int32_t text = -1;  // 0 the first, 1 the second; −1: a special token that was added
  TokenSpan span;     // of that text
};

/// All of the same length.
struct PairEncoding {
  std::vector<int32_t> ids;
  std::vector<int32_t> segment_ids;
  std::vector<TokenPlace> places = {};  // where asked for
};

/// One place of what is put round texts: a special token or a text.
struct TemplatePiece {
  enum class Kind : uint8_t { special_token, first_text, second_text };
  Kind kind = Kind::special_token;
  int32_t id = -1;  // of a special token
  int32_t segment = 0;
};
using TextTemplate = std::vector<TemplatePiece>;

/// Immutable once loaded; all methods may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// "byte_level_bpe", "bpe", "unigram", "wordpiece", "rwkv", …
  virtual std::string_view type() const = 0;
  /// One more than the largest id.
  virtual int32_t vocab_size() const = 0;

  /// Ids of a text: any bytes; what is not valid UTF-8 becomes U+FFFD first, as in the reference implementations
  /// (RWKV's takes bytes as they are). With `add_special_tokens` the post-processor's tokens (bos, [CLS] … [SEP]) are
  /// added.
  virtual std::vector<int32_t> encode(std::string_view text,
                                      bool add_special_tokens,
                                      SpecialsInText specials) const = 0;
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const {
    return encode(text, add_special_tokens, SpecialsInText::as_in_file);
  }
  /// Ids of a text that something is to follow: with the special tokens that stand before a text, without those that
  /// close it ([SEP], </s>).
  std::vector<int32_t> encode_beginning(std::string_view text) const;
  /// One text or two with their special tokens and segment ids: [CLS] first [SEP] second [SEP] for BERT, with segment 1
  /// from the second text on. While it is too long the longer text loses a token (the first one on a tie). Throws
  /// Error(bad_input) when max_length cannot hold the special tokens alone, and as encode_with_offsets where places are
  /// asked for.
  PairEncoding encode_pair(std::string_view first,
                           std::optional<std::string_view> second = std::nullopt,
                           const EncodePairOptions& options = {}) const;
  /// As encode() without special tokens added; also says where each token comes from, in whole characters (RWKV's in
  /// bytes): a space that is spelled in a token belongs to it, one that the text lacks comes from the first character,
  /// and tokens that share a character's bytes each span it. A token for what the vocabulary lacks spans its whole
  /// word, or all such characters that follow each other. Throws Error(bad_input) for tokenizers that cannot say.
  virtual std::vector<TokenSpan> encode_with_offsets(std::string_view text,
                                                     std::vector<int32_t>& ids,
                                                     SpecialsInText specials = SpecialsInText::as_in_file) const;
  /// Text of the ids, always valid UTF-8: bytes that form no character become U+FFFD. Ids without a token are left out.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;
  virtual std::unique_ptr<TokenDecoder> start_decoding(bool skip_special_tokens) const = 0;

  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  virtual std::string id_to_token(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;

  /// The tokens of these roles by their usual names: [PAD] or <pad>, [UNK] or <unk>, and so on.
  virtual std::optional<int32_t> pad_id() const;
  std::optional<int32_t> unk_id() const;
  std::optional<int32_t> mask_id() const;
  std::optional<int32_t> cls_id() const;
  std::optional<int32_t> sep_id() const;

  virtual std::optional<int32_t> bos_id() const = 0;
  /// Ids that end an answer: the end-of-text token and, for instruct models, the end-of-turn token.
  virtual const std::vector<int32_t>& end_ids() const = 0;
  /// The Jinja chat template that came with the tokenizer; empty when none did.
  virtual const std::string& chat_template() const = 0;

 protected:
  /// What encode_pair puts round one text or two.
  virtual TextTemplate text_template(bool is_pair) const;
};

/// A folder (tokenizer.json with tokenizer_config.json beside it, vocab.txt, tokenizer.model / spiece.model, vocab.json
/// with merges.txt, or rwkv_vocab….txt), a tokenizer.json, a vocabulary .txt of WordPiece or RWKV, a sentencepiece
/// .model, a .gguf file, or weights with one of these beside them. Throws Error(bad_input) naming the file and what in
/// it cannot be used.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path);

/// The spans of encode_with_offsets in characters (code points) instead of bytes; bytes that are not valid UTF-8 count
/// as the U+FFFD that stands for them.
std::vector<TokenSpan> to_characters(std::string_view text, const std::vector<TokenSpan>& spans);

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
