#include "tasks/text_scores.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "tasks/rank_values.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/unicode.h"

namespace weft {
namespace {

using Tokens = std::vector<std::string>;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_point(char c) {
  return c == '.' || c == ',';
}
/// ASCII punctuation that always stands alone: all but the apostrophe, point, comma and hyphen.
bool is_symbol(char c) {
  bool is_other = (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
  return is_other && c != '\'' && c != '-' && !is_point(c);
}

/// Puts spaces round pairs of characters, each found behind the end of the last one, as re.sub does.
template <typename IsPair>
std::string space_pairs(const std::string& text, std::string_view before, std::string_view after, IsPair is_pair) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i + 1 == text.size() || !is_pair(text[i], text[i + 1])) {
      result += text[i];
      continue;
    }
    result.append(before).append(1, text[i]).append(" ").append(1, text[i + 1]).append(after);
    ++i;
  }
  return result;
}

/// Bytes of other scripts are no digits and no punctuation: the rules need no characters.
std::string space_punctuation(std::string text) {
  replace_all(text, "<skipped>", "");
  replace_all(text, "-\n", "");
  replace_all(text, "\n", " ");
  replace_all(text, "&quot;", "\"");
  replace_all(text, "&amp;", "&");
  replace_all(text, "&lt;", "<");
  replace_all(text, "&gt;", ">");
  std::string spaced = " ";
  for (char c : text) {
    if (is_symbol(c)) {
      spaced.append(" ").append(1, c).append(" ");
    } else {
      spaced += c;
    }
  }
  spaced += " ";
  spaced = space_pairs(spaced, "", " ", [](char a, char b) { return !is_digit(a) && is_point(b); });
  spaced = space_pairs(spaced, " ", "", [](char a, char b) { return is_point(a) && !is_digit(b); });
  return space_pairs(spaced, "", " ", [](char a, char b) { return is_digit(a) && b == '-'; });
}

/// Runs of characters that `belongs` holds for; each by itself where they are to be single.
template <typename Belongs>
Tokens split(const std::string& text, bool single, Belongs belongs) {
  Tokens tokens;
  bool goes_on = false;
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const char* begin = at;
    bool is_part = belongs(next_character(at));
    if (is_part && (single || !goes_on)) tokens.emplace_back();
    if (is_part) tokens.back().append(begin, at);
    goes_on = is_part;
  }
  return tokens;
}

std::string valid_utf8(std::string_view text) {
  std::string valid;
  append_lossy_utf8(text, valid);
  return valid;
}

bool is_no_space(char32_t character) {
  return !is_space(character);
}

std::map<Tokens, double> count_ngrams(const Tokens& tokens, size_t order) {
  std::map<Tokens, double> counts;
  for (size_t i = 0; i + order <= tokens.size(); ++i) {
    ++counts[Tokens(tokens.begin() + static_cast<std::ptrdiff_t>(i),
                    tokens.begin() + static_cast<std::ptrdiff_t>(i + order))];
  }
  return counts;
}

/// N-grams of one text that the other has as well, each as often as in both.
double common_ngrams(const Tokens& a, const Tokens& b, size_t order) {
  std::map<Tokens, double> of_a = count_ngrams(a, order);
  double common = 0;
  for (const auto& [ngram, count] : count_ngrams(b, order)) {
    auto found = of_a.find(ngram);
    if (found != of_a.end()) common += std::min(count, found->second);
  }
  return common;
}

double num_ngrams(const Tokens& tokens, size_t order) {
  return tokens.size() < order ? 0 : static_cast<double>(tokens.size() - order + 1);
}

double longest_common_subsequence(const Tokens& a, const Tokens& b) {
  std::vector<double> row(b.size() + 1);
  for (const std::string& token : a) {
    double diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      double above = row[j + 1];
      row[j + 1] = token == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

double bleu_of(std::span<const double> matches, std::span<const double> ngrams, double answer, double reference) {
  double log_sum = 0, smoothing = 1;
  if (std::all_of(matches.begin(), matches.end(), [](double count) { return count == 0; })) return 0;
  for (size_t n = 0; n < matches.size(); ++n) {
    if (ngrams[n] == 0) return 0;
    if (matches[n] == 0) smoothing *= 2;
    log_sum += std::log(matches[n] == 0 ? 1 / (smoothing * ngrams[n]) : matches[n] / ngrams[n]);
  }
  double brevity = answer < reference ? std::exp(1 - reference / answer) : 1;
  return 100 * brevity * std::exp(log_sum / static_cast<double>(matches.size()));
}

}  // namespace

Tokens bleu_tokens(std::string_view text, TextUnit unit) {
  std::string valid = valid_utf8(text);
  bool is_words = unit == TextUnit::words;
  return split(is_words ? space_punctuation(valid) : valid, !is_words, is_no_space);
}

Tokens rouge_tokens(std::string_view text, TextUnit unit) {
  std::string valid = valid_utf8(text);
  if (unit == TextUnit::characters) return split(valid, true, is_no_space);
  std::string buffer;
  std::string lower(make_lowercase()->normalize(valid, buffer));
  return split(lower, false, [](char32_t character) { return is_word_character(character) && character != '_'; });
}

std::vector<MetricKind> TextScores::kinds() {
  return {{"rouge1"}, {"rouge2"}, {"rougeL"}, {"bleu"}, {"generated_exact_match"}};
}

void TextScores::add(std::string_view answer, std::string_view reference) {
  answers_ += 1;
  exact_ += answer == reference ? 1 : 0;
  Tokens written = rouge_tokens(answer, unit_), expected = rouge_tokens(reference, unit_);
  for (size_t order : {size_t{1}, size_t{2}}) {
    double common = common_ngrams(written, expected, order);
    rouge_[order - 1] += f1_of(common, num_ngrams(written, order), num_ngrams(expected, order)).f1;
  }
  rouge_[2] += f1_of(longest_common_subsequence(written, expected), num_ngrams(written, 1), num_ngrams(expected, 1)).f1;
  written = bleu_tokens(answer, unit_);
  expected = bleu_tokens(reference, unit_);
  for (size_t order = 1; order <= kOrders; ++order) {
    matches_[order - 1] += common_ngrams(written, expected, order);
    ngrams_[order - 1] += num_ngrams(written, order);
  }
  answer_tokens_ += static_cast<double>(written.size());
  reference_tokens_ += static_cast<double>(expected.size());
}

std::vector<Metric> TextScores::metrics(Context& context, Communicator& ranks) const {
  std::vector<double> sums = {answers_, exact_, rouge_[0], rouge_[1], rouge_[2], answer_tokens_, reference_tokens_};
  size_t first = sums.size();
  sums.insert(sums.end(), matches_.begin(), matches_.end());
  sums.insert(sums.end(), ngrams_.begin(), ngrams_.end());
  sum_over_ranks(context, ranks, sums);
  if (sums[0] == 0) return {};
  std::span<const double> counts(sums);
  double bleu = bleu_of(counts.subspan(first, kOrders), counts.subspan(first + kOrders, kOrders), sums[5], sums[6]);
  return {{"rouge1", sums[2] / sums[0]},
          {"rouge2", sums[3] / sums[0]},
          {"rougeL", sums[4] / sums[0]},
          {"bleu", bleu},
          {"generated_exact_match", sums[1] / sums[0]}};
}

}  // namespace weft
