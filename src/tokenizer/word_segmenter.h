// Words of Chinese text, which writes none: the most probable cut into words of a dictionary, as jieba makes it without
// its hidden Markov model (github.com/fxsjy/jieba, cut(text, HMM=False)).
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/byte_trie.h"

namespace weft {

/// Immutable.
class WordSegmenter {
 public:
  /// From jieba's dict.txt: "WORD FREQUENCY [TAG]" a line, UTF-8. Throws Error(bad_input) naming file and line.
  static WordSegmenter from_dictionary(std::string_view text, const std::string& where);
  /// All words as likely as each single character: the fewest words, the longest first among equals.
  static WordSegmenter from_words(const std::vector<std::string_view>& words);

  /// Calls on_word(begin, end) for each word of valid UTF-8, in order; together they are the whole text. Words of the
  /// dictionary lie within runs of common ideographs and of ASCII letters, digits and "+#&._%-"; there, letters and
  /// digits outside words stay together. Any other character is a word of its own.
  void cut(std::string_view text, const std::function<void(size_t begin, size_t end)>& on_word) const;

 private:
  /// The best cut from a byte of a run to its end.
  struct Path {
    double log_probability = 0;
    size_t next = 0;  // where the first word ends
  };

  void add_word(std::string_view word, double frequency);
  void find_paths(std::string_view run, std::vector<Path>& paths) const;
  void offer(size_t end, double log_frequency, const std::vector<Path>& paths, Path& best) const;

  ByteTrie words_;
  std::vector<double> log_frequencies_;  // of the words, by their values in the trie
  double log_total_ = 0;
  bool offers_single_characters_ = false;  // also where words begin; jieba does not unless they are words themselves
};

}  // namespace weft
