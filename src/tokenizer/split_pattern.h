// Hand-written scanners for the pre-tokenizer patterns of the published byte-level BPE models.
#pragma once

#include <memory>
#include <string_view>

namespace weft {

/// Cuts valid UTF-8 into words, one after the other, without gaps. Immutable.
class WordScanner {
 public:
  virtual ~WordScanner() = default;
  /// End of the word that starts at `begin` < `end`; always beyond `begin`.
  virtual const char* next_word(const char* begin, const char* end) const = 0;
};

/// GPT-2's own pattern.
extern const std::string_view kGpt2Pattern;
/// Llama 3's (and cl100k_base's): words, numbers of up to three digits, punctuation with the line ends that follow it.
extern const std::string_view kLlama3Pattern;
/// Qwen's: the same with single digits.
extern const std::string_view kQwen2Pattern;

/// A scanner that cuts exactly as the regular expression does; null when the expression is none of the above.
std::unique_ptr<WordScanner> make_word_scanner(std::string_view pattern);

}  // namespace weft
