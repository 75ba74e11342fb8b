// How near written answers are to the right ones.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/context.h"
#include "tasks/objective.h"

namespace weft {

/// What scores count: words, or characters (all but white space), for scripts without spaces.
enum class TextUnit : uint8_t { words, characters };

/// What BLEU counts. Words are those of sacrebleu's tokenizer 13a (mteval-v13a.pl), characters those of its "char".
std::vector<std::string> bleu_tokens(std::string_view text, TextUnit unit);

/// What ROUGE counts. Words are runs of letters, marks and numbers in lower case: in English those of the package
/// rouge-score, which knows a to z only.
std::vector<std::string> rouge_tokens(std::string_view text, TextUnit unit);

/// Scores over all answers added: bleu, BLEU-4 of the whole with exponential smoothing as sacrebleu defines it, from 0
/// to 100 (Papineni et al., 2002; Post, 2018); rouge1, rouge2 and rougeL, means of each answer's F1 (Lin, 2004);
/// generated_exact_match, the part that is the right one to the letter.
class TextScores {
 public:
  explicit TextScores(TextUnit unit) : unit_(unit) {}
  static std::vector<MetricKind> kinds();

  void add(std::string_view answer, std::string_view reference);
  /// Of all ranks' answers together; none without answers. Collective.
  std::vector<Metric> metrics(Context& context, Communicator& ranks) const;

 private:
  static constexpr size_t kOrders = 4;  // n-grams of 1 to 4 tokens

  TextUnit unit_;
  double answers_ = 0, exact_ = 0;
  std::array<double, 3> rouge_ = {};                        // sums of F1
  std::array<double, kOrders> matches_ = {}, ngrams_ = {};  // of BLEU, by order
  double answer_tokens_ = 0, reference_tokens_ = 0;
};

}  // namespace weft
