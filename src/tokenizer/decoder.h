// From tokens back to text, a token at a time: stages that a token's text runs through.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/pre_tokenizer.h"

namespace weft {

/// The running state of a stage. What it gives out must not depend on how far the input has come.
class DecodeStage {
 public:
  using Stages = std::vector<std::unique_ptr<DecodeStage>>;

  virtual ~DecodeStage() = default;
  /// Takes a token and appends to `out` the tokens that became certain.
  virtual void push(std::string&& token, std::vector<std::string>& out) = 0;
  virtual void finish(std::vector<std::string>&) {}
};

/// Makes the stages of a new decoding; immutable itself.
class DecoderStep {
 public:
  virtual ~DecoderStep() = default;
  virtual std::unique_ptr<DecodeStage> start() const = 0;
};

using DecoderSteps = std::vector<std::unique_ptr<DecoderStep>>;

/// Bytes spelled in the byte alphabet; bytes that form no character become U+FFFD.
std::unique_ptr<DecoderStep> make_byte_level_decoder();
/// Runs of <0xXX> become the text that their bytes spell, or one U+FFFD a byte when they spell none.
std::unique_ptr<DecoderStep> make_byte_fallback_decoder();
std::unique_ptr<DecoderStep> make_replace_decoder(std::shared_ptr<const Matcher> matcher, std::string content);
/// Removes up to `start` and `stop` characters `content` at the ends of each token; of the whole text when
/// `of_whole_text`.
std::unique_ptr<DecoderStep> make_strip_decoder(std::string content, size_t start, size_t stop, bool of_whole_text);
std::unique_ptr<DecoderStep> make_metaspace_decoder(std::string replacement, bool drops_first_space);
/// The suffix that ends a word becomes a space, but not at the end of the text.
std::unique_ptr<DecoderStep> make_bpe_decoder(std::string suffix);
/// WordPiece of `tokenizers`: a space before each token but the first that does not begin with `prefix`; with `cleanup`
/// none before English punctuation and contractions.
std::unique_ptr<DecoderStep> make_wordpiece_decoder(std::string prefix, bool cleanup);
/// WordPiece as bert4keras3 writes it: no spaces between Chinese characters, behind Chinese punctuation or opening
/// brackets, or inside numbers.
std::unique_ptr<DecoderStep> make_bert_decoder();
/// A space between tokens: what happens without any decoder.
std::unique_ptr<DecoderStep> make_space_joiner();

}  // namespace weft
