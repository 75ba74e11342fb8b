#include <algorithm>

#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

/// The likeliest token of every place, whose tokens before it are the right ones: where all of a sequence are right,
/// greedy generation writes just that sequence.
class SequenceObjective final : public Objective {
 public:
  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    if (!context.training) count(context, input);
    return language_->loss(context, input);
  }

  std::vector<MetricKind> metric_kinds() const override { return {{"exact_match"}, {"accuracy"}}; }

  void begin_evaluation() override { counts_.assign(kCounts, 0); }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    sum_over_ranks(context, data_parallel, counts_);
    if (counts_[kSequences] == 0) return {};
    return {{"exact_match", counts_[kExactSequences] / counts_[kSequences]},
            {"accuracy", counts_[kRightTokens] / counts_[kTokens]}};
  }

 private:
  static constexpr size_t kRightTokens = 0, kTokens = 1, kExactSequences = 2, kSequences = 3, kCounts = 4;

  void count(Context& context, const ObjectiveInput& input) {
    const std::vector<int32_t>& targets = input.micro_batch.targets;
    std::vector<bool> is_right = right_tokens(context, input);
    for (const BatchSequence& sequence : input.batch.sequences) {
      double scored = 0, right = 0;
      for (auto i = static_cast<size_t>(sequence.begin); i < static_cast<size_t>(sequence.begin + sequence.length);
           ++i) {
        if (targets[i] < 0) continue;
        ++scored;
        right += is_right[i] ? 1 : 0;
      }
      counts_[kTokens] += scored;
      counts_[kRightTokens] += right;
      counts_[kSequences] += scored > 0 ? 1 : 0;
      counts_[kExactSequences] += scored > 0 && right == scored ? 1 : 0;
    }
  }

  /// The vocabulary is large: some rows at a time.
  static std::vector<bool> right_tokens(Context& context, const ObjectiveInput& input) {
    constexpr size_t kRows = 256;
    const std::vector<int32_t>& targets = input.micro_batch.targets;
    std::vector<int32_t> rows;
    for (size_t i = 0; i < targets.size(); ++i) {
      if (targets[i] >= 0) rows.push_back(static_cast<int32_t>(i));
    }
    std::vector<bool> is_right(targets.size(), false);
    for (size_t begin = 0; begin < rows.size(); begin += kRows) {
      std::span<const int32_t> some = std::span(rows).subspan(begin, std::min(kRows, rows.size() - begin));
      Tensor logits = logits_of_tokens(context, input.model, input.hidden, input.batch, some);
      std::vector<float> values = to_floats(logits);
      auto width = static_cast<std::ptrdiff_t>(logits.size(1));
      for (size_t r = 0; r < some.size(); ++r) {
        auto row = values.begin() + static_cast<std::ptrdiff_t>(r) * width;
        auto best = std::max_element(row, row + width) - row;
        auto at = static_cast<size_t>(some[r]);
        is_right[at] = best == targets[at];
      }
    }
    return is_right;
  }

  std::unique_ptr<Objective> language_ = make_language_objective();
  std::vector<double> counts_ = std::vector<double>(kCounts);
};

}  // namespace

std::unique_ptr<Objective> make_sequence_objective() {
  return std::make_unique<SequenceObjective>();
}

}  // namespace weft
