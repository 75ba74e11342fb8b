// Cutting a segment into the words that the model encodes on their own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/split_pattern.h"

namespace weft {

/// A part of valid UTF-8. Memory up to `readable_end` >= text.end() may be read.
struct Piece {
  std::string_view text;
  const char* readable_end = nullptr;
  bool is_text_start = false;         // nothing of the input lies before it
  const uint32_t* sources = nullptr;  // where each byte's character begins in the input; null: not known

  Piece part(size_t begin, size_t end) const {
    return {text.substr(begin, end - begin),
            readable_end,
            is_text_start && begin == 0,
            sources == nullptr ? nullptr : sources + begin};
  }
};

class PieceSink {
 public:
  virtual ~PieceSink() = default;
  /// The piece's memory is valid during the call only. Never called with an empty text.
  virtual void accept(const Piece& piece) = 0;
};

/// A stage: hands the parts of a piece, in order, to the next stage. Immutable.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void split(const Piece& piece, PieceSink& next) const = 0;
};

using PreTokenizers = std::vector<std::unique_ptr<PreTokenizer>>;

/// Runs the stages from `stage` on; with none left the piece goes to `sink`.
void run_pre_tokenizers(const PreTokenizers& stages, const Piece& piece, PieceSink& sink, size_t stage = 0);

/// What becomes of the matches of a split pattern and of the gaps between them (the reference's names).
enum class SplitBehavior : uint8_t { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Finds the next delimiter.
class Matcher {
 public:
  virtual ~Matcher() = default;
  virtual std::optional<TextSpan> find(std::string_view text, size_t from) const = 0;
};

std::unique_ptr<Matcher> make_literal_matcher(std::string literal);
std::unique_ptr<Matcher> make_regex_matcher(std::string_view pattern, const std::string& where);
/// Matches each single character of a class.
std::unique_ptr<Matcher> make_class_matcher(bool (*is_member)(char32_t));

std::unique_ptr<PreTokenizer> make_split(std::unique_ptr<Matcher> matcher, SplitBehavior behavior, bool invert);
/// Split by a regular expression with isolated matches: by hand-written code where there is some for it.
std::unique_ptr<PreTokenizer> make_pattern_split(std::string_view pattern, const std::string& where);
/// Digits cut off one by one, or run by run.
std::unique_ptr<PreTokenizer> make_digit_split(bool individual_digits);
/// Words and runs of neither words nor white space; white space is dropped.
std::unique_ptr<PreTokenizer> make_whitespace_split();

/// ByteLevel: a space before a piece that has none, GPT-2's pattern, bytes spelled in the byte alphabet.
struct ByteLevelOptions {
  bool add_prefix_space = true;
  bool use_regex = true;
  bool spell_bytes = true;  // false when the model itself works on bytes
};
void append_byte_level(const ByteLevelOptions& options, PreTokenizers& stages);

enum class PrependScheme : uint8_t { always, first, never };

struct MetaspaceOptions {
  std::string replacement = "\xE2\x96\x81";  // U+2581
  PrependScheme prepend = PrependScheme::always;
  bool split = true;
};
std::unique_ptr<PreTokenizer> make_metaspace(MetaspaceOptions options);

}  // namespace weft
