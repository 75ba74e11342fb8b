#include "tasks/preference.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "models/adapter.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

/// log(1 + eˣ) without overflow.
double softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

/// The model as it is without its adapter, for as long as this lives.
class AdapterOff {
 public:
  explicit AdapterOff(Adapter& adapter) : adapter_(adapter) { adapter_.detach(); }
  ~AdapterOff() { adapter_.attach(); }
  AdapterOff(const AdapterOff&) = delete;
  AdapterOff& operator=(const AdapterOff&) = delete;

 private:
  Adapter& adapter_;
};

/// What is neither recorded nor dropped out.
Context silent(const Context& context) {
  Context result = context;
  result.tape = nullptr;
  result.training = false;
  return result;
}

/// A sequence's scored tokens: how many, and Σ −log p.
struct AnswerLoss {
  double tokens = 0, sum = 0;
};

class PreferenceObjective final : public Objective {
 public:
  explicit PreferenceObjective(const PreferenceOptions& options) : options_(options) {
    if (needs_reference()) reference_.resize(static_cast<size_t>(2 * options.num_pairs));
  }

  /// The gradient by a token's −log p is the same for all tokens of an answer and known only when the whole answer's
  /// probability is: the output layer runs once without being recorded, then with these gradients as weights.
  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    const MicroBatch& micro_batch = input.micro_batch;
    Context apart = silent(context);
    std::vector<AnswerLoss> answers = answer_losses(apart, input, input.hidden.detach());
    std::vector<double> reference = reference_of(apart, input, answers);
    std::vector<float> weights(micro_batch.targets.size());
    double value = 0;
    for (size_t chosen = 0; chosen + 1 < answers.size(); chosen += 2) {
      if (micro_batch.labels[chosen] < 0) continue;
      size_t rejected = chosen + 1;
      double chosen_gain = score_of(answers[chosen]) - reference[chosen];
      double rejected_gain = score_of(answers[rejected]) - reference[rejected];
      count(chosen_gain, rejected_gain);
      PreferenceLossValue pair = preference_loss(chosen_gain - rejected_gain, options_);
      // Of a pair: label_weight is that of one of its two answers.
      double weight = 2.0 * micro_batch.label_weight * input.factor;
      double mean_loss = answers[chosen].sum / answers[chosen].tokens;
      value += weight * (pair.value + options_.sft_weight * mean_loss);
      double per_token = options_.sft_weight / answers[chosen].tokens;
      set_weights(input, chosen, weight * (per_token - pair.slope / length_of(answers[chosen])), weights);
      set_weights(input, rejected, weight * pair.slope / length_of(answers[rejected]), weights);
    }
    if (context.tape == nullptr) {
      Tensor loss = context.host_empty({1}, DType::f64);
      loss.set_values(&value, DType::f64);
      return {.loss = loss};
    }
    LanguageModelLoss result = language_model_loss(
        context, input.model, input.hidden, micro_batch.targets, weights, LossReduction::sum, &input.batch);
    // It has the gradient, and gets the value.
    result.loss.set_values(&value, DType::f64);
    return {.loss = result.loss, .token_loss = result.token_loss};
  }

  bool needs_reference() const override { return options_.reference == PreferenceReference::computed_first; }

  void add_reference(Context& context, const ObjectiveInput& input) override {
    std::vector<AnswerLoss> answers = answer_losses(context, input, input.hidden);
    for (size_t i = 0; i < answers.size(); ++i) {
      int32_t label = input.micro_batch.labels[i];
      if (label >= 0) reference_[place_of(label, i)] = score_of(answers[i]);
    }
  }

  void share_reference(Context& context, Communicator& data_parallel) override {
    sum_over_ranks(context, data_parallel, reference_);
    has_reference_ = true;
  }

  bool measures_steps() const override { return true; }

  std::vector<MetricKind> metric_kinds() const override {
    return {{"accuracy"}, {"margin"}, {"chosen_reward"}, {"rejected_reward"}};
  }

  void begin_evaluation() override { sums_.assign(kSums, 0); }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    sum_over_ranks(context, data_parallel, sums_);
    double pairs = sums_[kPairs];
    if (pairs == 0) return {};
    return {{"accuracy", sums_[kRight] / pairs},
            {"margin", (sums_[kChosen] - sums_[kRejected]) / pairs},
            {"chosen_reward", sums_[kChosen] / pairs},
            {"rejected_reward", sums_[kRejected] / pairs}};
  }

 private:
  static constexpr size_t kPairs = 0, kRight = 1, kChosen = 2, kRejected = 3, kSums = 4;

  static size_t place_of(int32_t label, size_t sequence) { return 2 * static_cast<size_t>(label) + sequence % 2; }

  double length_of(const AnswerLoss& answer) const { return options_.loss == PreferenceLoss::ipo ? answer.tokens : 1; }
  double score_of(const AnswerLoss& answer) const { return -answer.sum / length_of(answer); }

  static std::vector<AnswerLoss> answer_losses(Context& context, const ObjectiveInput& input, const Tensor& hidden) {
    const std::vector<int32_t>& targets = input.micro_batch.targets;
    Tensor losses =
        language_model_loss(context, input.model, hidden, targets, {}, LossReduction::sum, &input.batch).token_loss;
    std::vector<float> values = to_floats(losses);
    std::vector<AnswerLoss> answers;
    for (const BatchSequence& sequence : input.batch.sequences) {
      AnswerLoss& answer = answers.emplace_back();
      for (int64_t t = sequence.begin; t < sequence.begin + sequence.length; ++t) {
        if (targets[static_cast<size_t>(t)] < 0) continue;
        ++answer.tokens;
        answer.sum += static_cast<double>(values[static_cast<size_t>(t)]);
      }
    }
    return answers;
  }

  /// The reference's scores of the sequences.
  std::vector<double> reference_of(Context& context, const ObjectiveInput& input, std::vector<AnswerLoss> answers) {
    std::vector<double> scores(answers.size());
    if (needs_reference()) {
      WEFT_ASSERT(has_reference_, "the reference was not computed");
      for (size_t i = 0; i < scores.size(); ++i) {
        int32_t label = input.micro_batch.labels[i];
        if (label >= 0) scores[i] = reference_[place_of(label, i)];
      }
      return scores;
    }
    WEFT_ASSERT(input.adapter != nullptr, "the reference is the model without its adapter, and there is none");
    AdapterOff off(*input.adapter);
    Tensor hidden = input.model.hidden(context, input.micro_batch.batch, nullptr);
    answers = answer_losses(context, input, hidden);
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = score_of(answers[i]);
    return scores;
  }

  static void set_weights(const ObjectiveInput& input, size_t sequence, double weight, std::vector<float>& weights) {
    const BatchSequence& one = input.batch.sequences[sequence];
    std::fill_n(weights.begin() + one.begin, one.length, static_cast<float>(weight));
  }

  void count(double chosen_gain, double rejected_gain) {
    sums_[kPairs] += 1;
    sums_[kRight] += chosen_gain > rejected_gain ? 1 : 0;
    sums_[kChosen] += options_.beta * chosen_gain;
    sums_[kRejected] += options_.beta * rejected_gain;
  }

  PreferenceOptions options_;
  std::vector<double> reference_;  // two a pair
  bool has_reference_ = false;
  std::vector<double> sums_ = std::vector<double>(kSums);
};

}  // namespace

PreferenceLossValue preference_loss(double margin, const PreferenceOptions& options) {
  double beta = options.beta, scaled = beta * margin, smoothing = options.label_smoothing;
  switch (options.loss) {
    case PreferenceLoss::sigmoid:
      return {.value = (1 - smoothing) * softplus(-scaled) + smoothing * softplus(scaled),
              .slope = beta * (smoothing * sigmoid(scaled) - (1 - smoothing) * sigmoid(-scaled))};
    case PreferenceLoss::hinge:
      return {.value = std::max(0.0, 1 - scaled), .slope = scaled < 1 ? -beta : 0};
    case PreferenceLoss::ipo: {
      double distance = margin - 1 / (2 * beta);
      return {.value = distance * distance, .slope = 2 * distance};
    }
  }
  WEFT_ASSERT(false, "preference loss {}", static_cast<int>(options.loss));
  return {};
}

std::unique_ptr<Objective> make_preference_objective(const PreferenceOptions& options) {
  return std::make_unique<PreferenceObjective>(options);
}

}  // namespace weft
