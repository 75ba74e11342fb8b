#include "launcher/conditional_task.h"

#include "data/conditional_data.h"
#include "data/task_rows.h"
#include "launcher/text_task.h"
#include "ops/activation.h"

namespace weft {
namespace {

/// Texts that are written under a label or a list of numbers, which the encoder's norms take.
class ConditionalTask final : public TextTask<ConditionalText> {
 public:
  explicit ConditionalTask(const RunConfig& config)
      : TextTask(config,
                 config.message().task().condition() == config::TaskConfig::LABEL ? read_label_conditions
                                                                                  : read_vector_conditions) {}

  TaskHead head() const override { return {}; }

  std::string model_overrides() const override {
    ConditionConfig wanted{.width = takes_labels() ? task().condition_size() : std::ssize(training().front().values),
                           .hidden_width = task().condition_hidden_size(),
                           .activation = wanted_activation()};
    ConditionConfig condition = open_model(model_options(config().message())).info().condition;
    if (condition.is_there()) {
      check_present(condition, wanted);
    } else {
      condition = wanted;
    }
    condition.is_new = true;
    if (takes_labels() && condition.labels.empty()) condition.labels = condition_labels_of(training());
    return condition_overrides(condition);
  }

  std::unique_ptr<Objective> objective(const ModelInfo& /*model*/) const override {
    return is_pair() ? make_sequence_objective() : make_language_objective();
  }

 protected:
  std::unique_ptr<TrainingData> make(const std::vector<ConditionalText>& texts,
                                     const Tokenizer& tokenizer,
                                     const ModelInfo& model,
                                     const MemoryRowOptions& options,
                                     bool /*is_held_out*/) const override {
    if (!model.condition.is_there()) {
      fail_input("{}: task.condition needs an encoder whose norms have weights, such as bert, and {} is none",
                 config().location("task.condition"),
                 model.family);
    }
    // Of the caller, for as long as rows are made.
    std::shared_ptr<const Tokenizer> shared(std::shared_ptr<const Tokenizer>(), &tokenizer);
    DocumentEncoder encoder(shared, {.separate_texts = is_pair()});
    for (const ConditionalText& text : texts) check_width(model, text);
    auto rows = make_conditional_data(texts, model.condition.labels, encoder, options);
    return is_pair() ? make_prefix_data(std::move(rows)) : std::move(rows);
  }

 private:
  bool is_pair() const { return task().kind() == config::TaskConfig::SEQUENCE_TO_SEQUENCE; }
  bool takes_labels() const { return task().condition() == config::TaskConfig::LABEL; }

  Activation wanted_activation() const {
    try {
      return parse_activation(task().condition_activation());
    } catch (const Error& error) {
      fail_input("{}: task.condition_activation: {}", config().location("task.condition_activation"), error.what());
    }
  }

  /// The checkpoint's norms stay as they are.
  void check_present(const ConditionConfig& present, const ConditionConfig& wanted) const {
    if (!takes_labels() && !present.labels.empty()) {
      fail_input("{}: is VECTOR, but the checkpoint's conditions are labels; say LABEL",
                 config().location("task.condition"));
    }
    // What is the default may not have been asked for: a printed config names it.
    const config::TaskConfig& defaults = config::TaskConfig::default_instance();
    bool wants_size = !takes_labels() || task().condition_size() != defaults.condition_size();
    bool is_other_size = wants_size && wanted.width != present.width;
    bool is_other_hidden =
        wanted.hidden_width != defaults.condition_hidden_size() && wanted.hidden_width != present.hidden_width;
    if (!is_other_size && !is_other_hidden) return;
    fail_input(
        "{}: the checkpoint's norms take conditions of {} numbers with a hidden layer of {}, this task has {} and {}",
        config().location("task.condition"),
        present.width,
        present.hidden_width,
        wanted.width,
        wanted.hidden_width);
  }

  void check_width(const ModelInfo& model, const ConditionalText& text) const {
    if (takes_labels() || std::ssize(text.values) == model.condition.width) return;
    fail_input(
        "{}: has a condition of {} numbers, the model takes {}", text.place, text.values.size(), model.condition.width);
  }
};

}  // namespace

std::unique_ptr<LabelledTask> make_conditional_task(const RunConfig& config) {
  return std::make_unique<ConditionalTask>(config);
}

}  // namespace weft
