// Rewriting a segment before it is cut: Unicode forms, replacements, case.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/token_span.h"

namespace weft {

class Charsmap;

/// Valid UTF-8 in, valid UTF-8 out. Immutable.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Returns `text` itself when nothing changes, else the result, written to `buffer`.
  virtual std::string_view normalize(std::string_view text, std::string& buffer) const = 0;
  /// Writes the result to `buffer` and, for each of its bytes, a byte of the character in `text` (shorter than 4 GiB)
  /// that it comes from. False where a normalizer cannot say.
  virtual bool normalize_aligned(std::string_view /*text*/,
                                 std::string& /*buffer*/,
                                 std::vector<uint32_t>& /*sources*/) const {
    return false;
  }
};

/// A text and where each of its bytes comes from.
struct AlignedText {
  std::string bytes;
  std::vector<uint32_t> sources;
};

/// What bytes [begin, end), of which there are some, come from in the original, in whole characters. Sources are places
/// where characters begin.
TokenSpan original_span(std::string_view original, const uint32_t* sources, size_t begin, size_t end);

enum class UnicodeForm : uint8_t { nfc, nfd, nfkc, nfkd };

std::unique_ptr<Normalizer> make_unicode_normalizer(UnicodeForm form);
std::unique_ptr<Normalizer> make_lowercase();
/// Removes marks (category M).
std::unique_ptr<Normalizer> make_strip_accents();
/// Removes white space at the ends.
std::unique_ptr<Normalizer> make_strip(bool left, bool right);
/// Puts `prefix` before any text that is not empty.
std::unique_ptr<Normalizer> make_prepend(std::string prefix);
std::unique_ptr<Normalizer> make_replace(std::string literal, std::string content);
std::unique_ptr<Normalizer> make_replace(std::unique_ptr<Matcher> matcher, std::string content);
/// Sentencepiece's clean-up of control characters and exotic spaces.
std::unique_ptr<Normalizer> make_nmt();
/// Sentencepiece's table as `tokenizers` applies it, which is not how sentencepiece does. The table is not empty.
std::unique_ptr<Normalizer> make_precompiled(Charsmap charsmap);
/// Bytes spelled in the byte alphabet.
std::unique_ptr<Normalizer> make_byte_level_normalizer();

using Normalizers = std::vector<std::unique_ptr<Normalizer>>;

/// The stages one after the other.
class NormalizerChain {
 public:
  NormalizerChain() = default;
  explicit NormalizerChain(Normalizers stages) : stages_(std::move(stages)) {}
  /// The result lies in `text` or in one of the buffers, which must outlive it.
  std::string_view normalize(std::string_view text, std::string (&buffers)[2]) const;
  /// Replaces the text by the result; its sources stay those of the text it once was. False when a stage cannot say.
  bool normalize_aligned(AlignedText& text) const;
  bool empty() const { return stages_.empty(); }

 private:
  Normalizers stages_;
};

}  // namespace weft
