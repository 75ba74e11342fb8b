#include "launcher/train_checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/nearest_name.h"
#include "config/run.pb.h"
#include "core/error.h"
#include "generate/request_support.h"
#include "optimizer/name_patterns.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

/// The names of parameters, and the config whose patterns they must match.
class PatternCheck {
 public:
  explicit PatternCheck(const RunConfig& config) : config_(config) {}

  void add(const ParameterStore& store) {
    for (const Parameter& parameter : store.all()) names_.push_back(parameter.name);
  }

  /// Throws unless the pattern is found in a name: it is misspelt else.
  void operator()(const std::string& field, const std::string& pattern) const {
    NamePatterns patterns({pattern}, field.c_str());
    if (std::any_of(names_.begin(), names_.end(), [&](const std::string& name) { return patterns.match(name); }))
      return;
    std::string nearest = nearest_name(pattern, names_);
    fail_input("{}: {} '{}' matches no parameter; the names are those of `weft inspect`, such as {}",
               config_.location(field),
               field,
               printable(pattern),
               nearest.empty() ? names_[names_.size() / 2] : nearest);
  }

 private:
  const RunConfig& config_;
  std::vector<std::string> names_;
};

}  // namespace

void check_sequence_length(const RunConfig& config, const ModelInfo& model) {
  int64_t length = config.message().data().sequence_length();
  if (model.max_positions == 0 || length <= model.max_positions) return;
  fail_input("{}: data.sequence_length is {}, {} was made for {} positions; use a shorter one",
             config.location("data.sequence_length"),
             length,
             config.message().model().path(),
             model.max_positions);
}

void check_name_patterns(const RunConfig& config, const LanguageModel& model, const Adapter* adapter) {
  PatternCheck check(config);
  check.add(model.parameters());
  if (adapter != nullptr) check.add(adapter->parameters());
  const config::OptimizerConfig& optimizer = config.message().train().optimizer();
  const std::string prefix = "train.optimizer.";
  for (int i = 0; i < optimizer.learning_rate_factors_size(); ++i) {
    check(fmt::format("{}learning_rate_factors[{}].pattern", prefix, i), optimizer.learning_rate_factors(i).pattern());
  }
  for (int i = 0; i < optimizer.weight_decay_exclude_size(); ++i) {
    check(fmt::format("{}weight_decay_exclude[{}]", prefix, i), optimizer.weight_decay_exclude(i));
  }
  for (int i = 0; i < optimizer.layer_adaptation_exclude_size(); ++i) {
    check(fmt::format("{}layer_adaptation_exclude[{}]", prefix, i), optimizer.layer_adaptation_exclude(i));
  }
}

void check_freeze(const RunConfig& config, LanguageModel& model, const EngineOptions& options) {
  if (options.freeze.empty()) return;
  PatternCheck check(config);
  check.add(model.parameters());
  for (size_t i = 0; i < options.freeze.size(); ++i) check(fmt::format("train.freeze[{}]", i), options.freeze[i]);
  TrainedAndFrozen chosen = choose_parameters(model, nullptr, options);
  if (chosen.trained.empty()) {
    fail_input("{}: train.freeze leaves no parameter to train; remove a pattern", config.location("train.freeze"));
  }
  const Parameter* embedding = &model.embedding_table();
  bool is_fixed = std::find(chosen.frozen.begin(), chosen.frozen.end(), embedding) != chosen.frozen.end();
  if (options.adversarial == Adversarial::fgm && is_fixed) {
    fail_input("{}: FGM moves {} along its own gradient, but train.freeze keeps it; use GRADIENT_PENALTY",
               config.location("train.adversarial.kind"),
               embedding->name);
  }
}

void check_warmup(const RunConfig& config, const TrainerOptions& options) {
  if (options.schedule.warmup_steps <= options.steps) return;
  fail_input("{}: train.schedule.warmup_steps is {}, the whole run has {} steps; use fewer",
             config.location("train.schedule.warmup_steps"),
             options.schedule.warmup_steps,
             options.steps);
}

void check_samples(const RunConfig& config, const ModelInfo& model, const Tokenizer* tokenizer) {
  const config::SampleConfig& samples = config.message().samples();
  if (samples.prompts_size() > 0 && !writes_texts(model)) {
    fail_input("{}: {} {} and cannot write texts; remove samples.prompts",
               config.location("samples.prompts"),
               model.family,
               model.has_language_model_head ? "sees a whole text at once" : "has no language model's output layer");
  }
  int64_t positions = model.max_positions;
  for (int i = 0; tokenizer != nullptr && i < samples.prompts_size(); ++i) {
    auto tokens = static_cast<int64_t>(encode_prompt(*tokenizer, model, samples.prompts(i)).size());
    bool fits = positions == 0 || tokens + samples.max_new_tokens() <= positions;
    if (tokens > 0 && fits) continue;
    fail_input("{}: {} tokens and samples.max_new_tokens {} do not fit the model's {} positions",
               config.location(fmt::format("samples.prompts[{}]", i)),
               tokens,
               samples.max_new_tokens(),
               positions);
  }
}

void check_generation(const RunConfig& config, const TrainerOptions& options, const Tokenizer* tokenizer) {
  if (!options.generation || tokenizer != nullptr) return;
  fail_input("{}: {} has no tokenizer to write answers with; set model.tokenizer",
             config.location("evaluation.generation"),
             config.message().model().path());
}

MetricKind find_best_metric(const RunConfig& config, const TrainerOptions& options) {
  const std::string& name = config.message().checkpoint().best_metric();
  std::string known;
  for (const MetricKind& kind : evaluation_metric_kinds(options)) {
    if (kind.name == name) return kind;
    known += (known.empty() ? "" : ", ") + kind.name;
  }
  fail_input("{}: checkpoint.best_metric is '{}'; this task's evaluations report {}",
             config.location("checkpoint.best_metric"),
             printable(name),
             known);
}

}  // namespace weft
