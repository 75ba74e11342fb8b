#include "tokenizer/word_segmenter.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

// The time for a byte of text grows with it; jieba's longest word has 48 bytes.
constexpr size_t kMaxWordBytes = 256;
// The trie counts its nodes in 24 bits; jieba's words have 4.5 MB.
constexpr size_t kMaxDictionaryBytes = 12'000'000;
constexpr int64_t kMaxFrequency = int64_t{1} << 40;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_ascii_word_character(char32_t character) {
  return character < 128 && character_class(character) != CharacterClass::space &&
         character_class(character) != CharacterClass::other;
}

/// jieba's re_han_default.
bool is_in_run(char32_t character) {
  constexpr std::string_view kMarks = "+#&._%-";
  if (character >= 128) return character >= 0x4E00 && character <= 0x9FD5;
  return is_ascii_word_character(character) || kMarks.find(static_cast<char>(character)) != std::string_view::npos;
}

size_t length_at(std::string_view text, size_t position) {
  const char* end = text.data() + position;
  next_character(end);
  return static_cast<size_t>(end - text.data()) - position;
}

size_t end_of_run(std::string_view text, size_t begin) {
  const char* position = text.data() + begin;
  const char* end = text.data() + text.size();
  while (position < end) {
    const char* next = position;
    if (!is_in_run(next_character(next))) break;
    position = next;
  }
  return static_cast<size_t>(position - text.data());
}

struct DictionaryLine {
  std::string_view word;
  int64_t frequency = 0;
};

DictionaryLine read_line(std::string_view line, size_t number, const std::string& where) {
  const size_t space = line.find(' ');
  DictionaryLine entry{.word = line.substr(0, space)};
  const std::string_view rest = space == std::string_view::npos ? "" : line.substr(space + 1);
  const std::string_view digits = rest.substr(0, rest.find(' '));
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), entry.frequency);
  const bool is_number = !digits.empty() && error == std::errc() && end == digits.data() + digits.size();
  if (entry.word.empty() || !is_number || entry.frequency < 0 || entry.frequency > kMaxFrequency) {
    fail_input("{}: line {} should be WORD FREQUENCY, found '{}'", where, number, printable(line, 40));
  }
  if (entry.word.size() > kMaxWordBytes || !is_valid_utf8(entry.word)) {
    fail_input("{}: line {}: a word of {} bytes, expected at most {} of UTF-8",
               where,
               number,
               entry.word.size(),
               kMaxWordBytes);
  }
  return entry;
}

}  // namespace

WordSegmenter WordSegmenter::from_dictionary(std::string_view text, const std::string& where) {
  WordSegmenter segmenter;
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  double total = 0;
  size_t num_bytes = 0;
  for (size_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const DictionaryLine entry = read_line(line, number, where);
    num_bytes += entry.word.size();
    if (num_bytes > kMaxDictionaryBytes) fail_input("{}: more than {} bytes of words", where, kMaxDictionaryBytes);
    total += static_cast<double>(entry.frequency);
    segmenter.add_word(entry.word, static_cast<double>(entry.frequency));
  }
  if (total <= 0) fail_input("{}: no words with frequencies; expected WORD FREQUENCY a line", where);
  segmenter.log_total_ = std::log(total);
  return segmenter;
}

WordSegmenter WordSegmenter::from_words(const std::vector<std::string_view>& words) {
  WordSegmenter segmenter;
  for (const std::string_view word : words) {
    if (word.size() <= kMaxWordBytes) segmenter.add_word(word, 1);
  }
  segmenter.log_total_ = 1;
  segmenter.offers_single_characters_ = true;
  return segmenter;
}

void WordSegmenter::add_word(std::string_view word, double frequency) {
  words_.insert(0, word, static_cast<int32_t>(log_frequencies_.size()));
  log_frequencies_.push_back(std::log(frequency));
}

void WordSegmenter::offer(size_t end, double log_frequency, const std::vector<Path>& paths, Path& best) const {
  // The order of additions is jieba's, so that near ties fall the same way; of equals the longest word wins.
  const double log_probability = log_frequency - log_total_ + paths[end].log_probability;
  if (best.next == 0 || log_probability >= best.log_probability) best = {log_probability, end};
}

void WordSegmenter::find_paths(std::string_view run, std::vector<Path>& paths) const {
  paths.assign(run.size() + 1, {});
  for (size_t begin = run.size(); begin > 0;) {
    begin = static_cast<size_t>(previous_character(run.data(), run.data() + begin) - run.data());
    Path best;
    if (offers_single_characters_) offer(begin + length_at(run, begin), 0, paths, best);
    uint32_t node = 0;
    for (size_t end = begin + 1; end <= run.size(); ++end) {
      node = words_.child(node, static_cast<unsigned char>(run[end - 1]));
      if (node == 0) break;
      const int32_t word = words_.value(node);
      if (word >= 0 && std::isfinite(log_frequencies_[static_cast<size_t>(word)])) {
        offer(end, log_frequencies_[static_cast<size_t>(word)], paths, best);
      }
    }
    if (best.next == 0) offer(begin + length_at(run, begin), 0, paths, best);
    paths[begin] = best;
  }
}

void WordSegmenter::cut(std::string_view text, const std::function<void(size_t, size_t)>& on_word) const {
  std::vector<Path> paths;
  for (size_t run_begin = 0; run_begin < text.size();) {
    const size_t run_end = end_of_run(text, run_begin);
    if (run_end == run_begin) {
      const size_t end = run_begin + length_at(text, run_begin);
      on_word(run_begin, end);
      run_begin = end;
      continue;
    }
    find_paths(text.substr(run_begin, run_end - run_begin), paths);
    size_t joined = run_begin;  // where letters and digits outside words begin
    for (size_t begin = run_begin; begin < run_end;) {
      const size_t end = run_begin + paths[begin - run_begin].next;
      const bool joins = end == begin + 1 && is_ascii_word_character(static_cast<unsigned char>(text[begin]));
      if (!joins) {
        if (joined < begin) on_word(joined, begin);
        on_word(begin, end);
        joined = end;
      }
      begin = end;
    }
    if (joined < run_end) on_word(joined, run_end);
    run_begin = run_end;
  }
}

}  // namespace weft
