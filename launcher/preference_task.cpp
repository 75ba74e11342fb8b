#include "launcher/preference_task.h"

#include "core/log.h"
#include "data/preference_data.h"
#include "launcher/text_task.h"
#include "tasks/preference.h"

namespace weft {
namespace {

PreferenceLoss preference_loss_of(config::TaskConfig::PreferenceLoss kind) {
  switch (kind) {
    case config::TaskConfig::SIGMOID:
      return PreferenceLoss::sigmoid;
    case config::TaskConfig::HINGE:
      return PreferenceLoss::hinge;
    case config::TaskConfig::IPO:
      return PreferenceLoss::ipo;
  }
  WEFT_ASSERT(false, "preference loss {}", static_cast<int>(kind));
  return PreferenceLoss::sigmoid;
}

class PreferenceTask final : public TextTask<PreferenceTexts> {
 public:
  explicit PreferenceTask(const RunConfig& config) : TextTask(config, read_preference_texts) {}

  TaskHead head() const override { return {}; }

  std::unique_ptr<Objective> objective(const ModelInfo& /*model*/) const override {
    return make_preference_objective({.loss = preference_loss_of(task().preference_loss()),
                                      .beta = task().beta(),
                                      .label_smoothing = task().label_smoothing(),
                                      .sft_weight = task().sft_weight(),
                                      .reference = reference(),
                                      .num_pairs = static_cast<int64_t>(training().size() + held_out().size())});
  }

 protected:
  std::unique_ptr<TrainingData> make(const std::vector<PreferenceTexts>& texts,
                                     const Tokenizer& tokenizer,
                                     const ModelInfo& /*model*/,
                                     const MemoryRowOptions& options,
                                     bool is_held_out) const override {
    auto first_label = is_held_out ? static_cast<int64_t>(training().size()) : 0;
    PreferenceRows rows = make_preference_rows(texts, tokenizer, first_label, options);
    if (rows.cut + rows.left_out > 0) {
      log::info(
          "of {} {} pairs, {} answers are cut at data.sequence_length {}, and {} pairs are left out, whose prompts are "
          "as long",
          texts.size(),
          is_held_out ? "held-out" : "training",
          rows.cut,
          options.max_length,
          rows.left_out);
    }
    return std::move(rows.data);
  }

 private:
  /// A new adapter changes nothing yet: without it the model is the one that training starts from.
  PreferenceReference reference() const {
    const config::RunConfig& message = config().message();
    bool is_new_adapter = message.has_lora() && !message.lora().has_adapter() && !message.lora().train_norms() &&
                          !message.has_state_tuning();
    return is_new_adapter ? PreferenceReference::without_adapter : PreferenceReference::computed_first;
  }
};

}  // namespace

std::unique_ptr<LabelledTask> make_preference_task(const RunConfig& config) {
  return std::make_unique<PreferenceTask>(config);
}

}  // namespace weft
