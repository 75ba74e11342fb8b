#include "train/trainer.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cmath>
#include <limits>

#include "checkpoint/checksum.h"
#include "core/error.h"
#include "core/log.h"
#include "generate/generator.h"
#include "generate/request_support.h"
#include "parallel/agreement.h"
#include "tokenizer/tokenizer.h"
#include "train/step_batches.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

bool is_due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

class Trainer {
 public:
  Trainer(const TrainerParts& parts, const TrainerOptions& options)
      : parts_(parts),
        options_(options),
        engine_(parts.context, parts.mesh, parts.model, parts.adapter, options.engine),
        store_(parts.mesh,
               {.base = parts.base,
                .tokenizer = parts.tokenizer_path,
                .model = parts.model,
                .adapter = parts.adapter,
                .optimizer = engine_.optimizer(),
                .frozen = engine_.frozen_pieces()},
               options.checkpoint) {
    engine_.set_before_update([this] { note_save(store_.finish_save()); });
    if (!options_.generation || parts_.held_out == nullptr) return;
    WEFT_ASSERT(parts_.tokenizer != nullptr);
    answers_.emplace(*parts_.held_out, num_held_out_rows(), *parts_.tokenizer, *options_.generation, place());
  }

  TrainingEnd run() {
    if (!compute_reference()) return TrainingEnd::stopped;
    resume();
    if (parts_.on_begin) parts_.on_begin();
    if (is_speaker()) log_ = std::make_unique<RunLog>(log_options());
    if (resumed_) event("resume", fmt::format("from {}", *resumed_));
    if (resumed_ && is_finished()) {
      event("resume", fmt::format("nothing is left to do: step {} of {}{}", state_.step, options_.steps, why_early()));
    }
    if (!resumed_) evaluate();
    while (!is_finished()) {
      if (parts_.on_step) parts_.on_step(state_.step, saved_step_);
      if (agreed_to_stop()) return stop();
      train_step();
      after_step();
    }
    finish();
    return TrainingEnd::finished;
  }

 private:
  bool is_speaker() const { return parts_.mesh.world().rank() == 0; }
  bool is_out_of_patience() const {
    return options_.patience > 0 && state_.evaluations_since_best >= options_.patience;
  }
  bool is_finished() const { return state_.step >= options_.steps || is_out_of_patience(); }
  DataParallelPlace place() const { return {parts_.mesh.data_parallel().rank(), parts_.mesh.data_parallel().size()}; }

  void event(std::string_view kind, const std::string& text) {
    if (log_ != nullptr) log_->add_event(state_.step, kind, text);
  }

  RunLogOptions log_options() const {
    RunLogOptions options = options_.log;
    options.total_steps = options_.steps;
    if (resumed_) options.resumed_step = state_.step;
    return options;
  }

  /// Of every row that will be trained or evaluated on, by the weights of the start: a resumed run's are read after.
  /// Whether the run goes on.
  bool compute_reference() {
    const Objective* objective = options_.engine.objective.get();
    if (objective == nullptr || !objective->needs_reference()) return true;
    int64_t rows = parts_.data.rows_per_epoch();
    if (options_.steps < rows / options_.batch_size) rows = options_.steps * options_.batch_size;
    if (is_speaker()) log::info("computing the reference's log probabilities of {} rows", rows);
    if (!add_reference(parts_.data, rows)) return false;
    if (parts_.held_out != nullptr && !add_reference(*parts_.held_out, num_held_out_rows())) return false;
    engine_.share_reference();
    return true;
  }

  bool add_reference(const TrainingData& data, int64_t num_rows) {
    for (int64_t begin = 0; begin < num_rows; begin += options_.batch_size) {
      if (agreed_to_stop()) return false;
      int64_t rows = std::min(options_.batch_size, num_rows - begin);
      engine_.add_reference(deal_out(data, begin, rows, options_.micro_batch_size, place()).micro_batches);
    }
    return true;
  }

  void resume() {
    state_.seed = options_.seed;
    state_.data_fingerprint = parts_.data.fingerprint();
    state_.base_fingerprint = base_fingerprint();
    state_.optimizer = optimizer_name(options_.engine.optimizer.kind);
    forget_best();
    if (!options_.may_resume) return;
    resumed_ = store_.find_latest();
    if (!resumed_) return;
    const TrainState begun = state_;
    state_ = store_.restore(*resumed_);
    saved_step_ = state_.step;
    engine_.set_updates(state_.has_optimizer_state ? state_.updates : 0);
    engine_.share_weights();
    if (state_.seed != options_.seed) {
      fail_input("{}: was trained with seed {}, the config says {}; the data would come in another order",
                 *resumed_,
                 state_.seed,
                 options_.seed);
    }
    check_optimizer_and_base(begun);
    check_data();
    if (state_.best_metric != options_.checkpoint.best_metric.name) forget_best();
  }

  void forget_best() {
    state_.best_metric = options_.checkpoint.best_metric.name;
    state_.best_value = std::numeric_limits<double>::quiet_NaN();
    state_.evaluations_since_best = 0;
  }

  /// An adapter's checkpoint holds no weights of its base.
  uint64_t base_fingerprint() const {
    if (parts_.adapter == nullptr || parts_.base.reader == nullptr) return 0;
    std::string text = is_speaker() ? fmt::format("{}", weights_fingerprint(*parts_.base.reader)) : std::string();
    return std::stoull(gather_texts(parts_.mesh.world(), text)[0]);
  }

  /// `begun` is what a new run of this config would be.
  void check_optimizer_and_base(const TrainState& begun) {
    if (state_.has_optimizer_state && !state_.optimizer.empty() && state_.optimizer != begun.optimizer) {
      fail_input("{}: its optimizer was {}, the config says {}; go on with the former, or start a run from its weights",
                 *resumed_,
                 state_.optimizer,
                 begun.optimizer);
    }
    if (state_.base_fingerprint != 0 && begun.base_fingerprint != 0 &&
        state_.base_fingerprint != begun.base_fingerprint) {
      fail_input(
          "{}: this adapter was trained on other weights than those of {}; go on with the model that it began on",
          *resumed_,
          parts_.base.path);
    }
    state_.optimizer = begun.optimizer;
    state_.base_fingerprint = begun.base_fingerprint;
  }

  /// Rows are numbered: other data go on where the former ones ended.
  void check_data() {
    uint64_t fingerprint = parts_.data.fingerprint();
    if (state_.data_fingerprint != 0 && state_.data_fingerprint != fingerprint && is_speaker()) {
      log::warning("{}: was trained on other data, or on the same cut into other rows; going on with row {} of these",
                   *resumed_,
                   state_.next_row);
    }
    state_.data_fingerprint = fingerprint;
  }

  /// One yes is enough. The same exchange tells the memory of the rank that uses most.
  bool agreed_to_stop() {
    bool wants = parts_.should_stop && parts_.should_stop();
    auto bytes = static_cast<double>(parts_.context.allocator->memory().peak_total());
    Tensor values = parts_.context.host_empty({2}, DType::f64, MemoryTag::comm);
    values.data<double>()[0] = wants ? 1 : 0;
    values.data<double>()[1] = bytes;
    if (parts_.mesh.world().size() > 1) parts_.mesh.world().all_reduce(values, ReduceOp::max);
    peak_bytes_ = static_cast<int64_t>(values.data<double>()[1]);
    return values.data<double>()[0] > 0;
  }

  void train_step() {
    Clock::time_point begin = Clock::now();
    StepBatches batches =
        deal_out(parts_.data, state_.next_row, options_.batch_size, options_.micro_batch_size, place());
    StepMetrics metrics;
    metrics.learning_rate = learning_rate_at(options_.schedule, state_.step);
    bool has_targets = batches.is_scored();
    RandomKey random{.seed = options_.seed, .step = static_cast<uint32_t>(state_.step)};
    StepResult result =
        has_targets ? engine_.step(batches.micro_batches, metrics.learning_rate, random) : StepResult{.skipped = true};
    // The engine does it before updates only.
    if (result.skipped) note_save(store_.finish_save());
    ++state_.step;
    state_.updates = engine_.updates();
    state_.next_row += options_.batch_size;
    state_.tokens_seen += batches.tokens;
    metrics.step = state_.step;
    metrics.loss = result.loss;
    metrics.grad_norm = result.grad_norm;
    metrics.tokens = batches.tokens;
    metrics.tokens_seen = state_.tokens_seen;
    metrics.seconds = seconds_since(begin);
    metrics.memory_bytes = peak_bytes_;
    metrics.skipped = result.skipped;
    for (const Metric& metric : result.metrics) metrics.metrics.emplace_back(metric.name, metric.value);
    metrics.bound_fraction = bound_fraction(batches.tokens, metrics.seconds);
    if (log_ != nullptr) log_->add_step(metrics);
    if (!has_targets) {
      event("skip", "no token of the step's rows is scored");
    } else {
      count_bad_steps(result);
    }
  }

  double bound_fraction(int64_t tokens, double seconds) {
    const double bound = seconds_per_token_bound_ * static_cast<double>(tokens);
    if (seconds <= 0 || bound <= seconds) return seconds > 0 ? bound / seconds : 0;
    seconds_per_token_bound_ = 0;
    event("bound",
          "this step was faster than the bound measured at the start, while the machine was busy; it is left out from "
          "here on");
    return 0;
  }

  void count_bad_steps(const StepResult& result) {
    if (!result.skipped) {
      bad_steps_ = 0;
      return;
    }
    ++bad_steps_;
    bad_step_ = std::isfinite(result.loss) ? fmt::format("gradient norm is {}", result.grad_norm)
                                           : fmt::format("loss is {}", result.loss);
    event("skip", bad_step_ + ": nothing was updated");
    if (bad_steps_ >= options_.max_bad_steps) give_up();
  }

  /// The weights may be broken since the last update: no checkpoint is written of them.
  [[noreturn]] void give_up() {
    note_save(store_.complete_save());
    if (log_ != nullptr) log_->finish();
    fail_input(
        "step {}: {} after {} steps in a row without an update; lower train.learning_rate, check the data, or compute "
        "in f32; {}",
        state_.step,
        bad_step_,
        bad_steps_,
        describe_saved());
  }

  std::string describe_saved() const {
    return saved_step_ < 0 ? std::string("no checkpoint was saved before, the run begins anew when it is started again")
                           : fmt::format("the last whole checkpoint is of step {}", saved_step_);
  }

  void after_step() {
    state_.held_out.clear();
    // After a bad step the weights may be broken already: the checkpoints before it must stay.
    bool saves = is_due(state_.step, options_.save_every) && bad_steps_ == 0;
    bool compares = saves && options_.checkpoint.keep_best;
    if (is_due(state_.step, options_.evaluate_every) || compares || is_finished()) evaluate();
    if (is_finished()) {
      if (log_ != nullptr) log_->keep_last_step();
      if (is_out_of_patience()) event("stop", "the end" + why_early());
      return;
    }
    if (saves) save();
    if (is_due(state_.step, options_.sample_every)) write_samples();
  }

  std::string why_early() const {
    if (!is_out_of_patience()) return {};
    return fmt::format(": {} evaluations without a better {} than {:.6g}",
                       state_.evaluations_since_best,
                       state_.best_metric,
                       state_.best_value);
  }

  void evaluate() {
    if (parts_.held_out == nullptr) return;
    if (!options_.evaluates_averages) return evaluate_weights();
    engine_.with_averages([this] { evaluate_weights(); });
  }

  void evaluate_weights() {
    // A few rows at a time: a batch's hidden states are all there is in memory.
    int64_t rows_at_a_time = options_.micro_batch_size > 0 ? options_.micro_batch_size : 1;
    StepBatches batches = deal_out(*parts_.held_out, 0, num_held_out_rows(), rows_at_a_time, place());
    if (!batches.is_scored()) fail_input("the held-out data have no token that is scored; hold out more");
    double loss = engine_.evaluate(batches.micro_batches);
    EvaluationMetrics metrics{.step = state_.step,
                              .loss = loss,
                              .tokens = batches.scored_tokens > 0 ? batches.scored_tokens : batches.scored_sequences,
                              .perplexity = std::exp(loss),
                              .metrics = {}};
    for (const Metric& metric : engine_.metrics()) metrics.metrics.emplace_back(metric.name, metric.value);
    for (const Metric& metric : generation_metrics()) metrics.metrics.emplace_back(metric.name, metric.value);
    note_held_out(metrics);
    if (log_ != nullptr) log_->add_evaluation(metrics);
  }

  /// What ends a run must not differ in the last bit from rank to rank.
  double of_rank_zero(double value) {
    Tensor shared = parts_.context.host_empty({1}, DType::f64, MemoryTag::comm);
    *shared.data<double>() = value;
    if (parts_.mesh.world().size() > 1) parts_.mesh.world().broadcast(shared, 0);
    return *shared.data<double>();
  }

  int64_t num_held_out_rows() const {
    int64_t rows = parts_.held_out->rows_per_epoch();
    return options_.max_evaluation_rows > 0 ? std::min(rows, options_.max_evaluation_rows) : rows;
  }

  std::vector<Metric> generation_metrics() {
    std::vector<Metric> metrics;
    if (!answers_) return metrics;
    engine_.with_whole_weights([&](Context& context) {
      metrics = answers_->score(answers_->write(context, parts_.model)).metrics(context, parts_.mesh.data_parallel());
    });
    return metrics;
  }

  void note_held_out(const EvaluationMetrics& metrics) {
    state_.held_out = {{"loss", metrics.loss}};
    state_.held_out.insert(metrics.metrics.begin(), metrics.metrics.end());
    const MetricKind& kind = options_.checkpoint.best_metric;
    auto found = state_.held_out.find(kind.name);
    double value = found == state_.held_out.end() ? std::numeric_limits<double>::quiet_NaN() : found->second;
    value = of_rank_zero(value);
    if (kind.is_better(value, state_.best_value)) {
      state_.best_value = value;
      state_.evaluations_since_best = 0;
    } else {
      ++state_.evaluations_since_best;
    }
  }

  /// A text that cannot be written costs neither the run nor its checkpoint.
  void write_samples() {
    if (options_.sample_prompts.empty() || parts_.tokenizer == nullptr) return;
    if (!options_.evaluates_averages) return write_samples_of_weights();
    engine_.with_averages([this] { write_samples_of_weights(); });
  }

  void write_samples_of_weights() {
    engine_.with_whole_weights([&](Context& context) {
      if (place().rank != 0) return;
      try {
        generate_samples(context);
      } catch (const Error& error) {
        event("sample", fmt::format("failed: {}; going on", error.what()));
      }
    });
  }

  void generate_samples(Context& context) {
    std::vector<GenerationRequest> requests;
    for (const std::string& prompt : options_.sample_prompts) {
      GenerationRequest& request = requests.emplace_back();
      set_text(request, parts_.model.info(), encode_prompt(*parts_.tokenizer, parts_.model.info(), prompt));
      request.max_new_tokens = options_.max_sample_tokens;
      request.end_ids = parts_.tokenizer->end_ids();
    }
    DType dtype = parts_.model.embedding_table().value.dtype();
    Generator generator(context, parts_.model, {.cache_dtype = dtype, .tokenizer = parts_.tokenizer});
    std::vector<GenerationResult> results = generator.run(requests);
    for (size_t i = 0; log_ != nullptr && i < results.size(); ++i) {
      log_->add_sample(state_.step, options_.sample_prompts[i], results[i].text);
    }
  }

  void save() {
    state_.data_parallel = parts_.mesh.data_parallel().size();
    state_.tensor_parallel = parts_.mesh.tensor_parallel().size();
    state_.zero_stage = options_.engine.zero_stage;
    if (saving_step_ >= 0) note_save(store_.complete_save());
    saving_step_ = state_.step;
    bool begun = store_.begin_save(state_);
    if (!begun || !options_.checkpoint.background) note_save(begun);
  }

  /// A save that ended, well or badly.
  void note_save(std::optional<bool> ended) {
    if (!ended || saving_step_ < 0) return;
    if (*ended) {
      saved_step_ = saving_step_;
      event("save", checkpoint_name(saving_step_));
    } else {
      event("save", fmt::format("{} failed", checkpoint_name(saving_step_)));
    }
    saving_step_ = -1;
  }

  TrainingEnd stop() {
    event("stop", "asked to stop");
    note_save(store_.complete_save());
    if (saved_step_ != state_.step && bad_steps_ == 0) write_last_checkpoint();
    if (log_ != nullptr) log_->finish();
    return TrainingEnd::stopped;
  }

  void finish() {
    if (bad_steps_ > 0) give_up();
    // Not where a run that had ended is started again.
    if (saved_step_ != state_.step) {
      write_last_checkpoint();
      write_samples();
    }
    if (log_ != nullptr) log_->finish();
  }

  void write_last_checkpoint() {
    if (saving_step_ != state_.step) save();
    int64_t step = saving_step_;
    bool whole = step < 0 ? saved_step_ == state_.step : store_.complete_save();
    note_save(whole);
    if (whole) return;
    if (log_ != nullptr) log_->finish();
    fail_input("the checkpoint of step {} could not be written to {}; {}; make room and start again",
               state_.step,
               options_.checkpoint.directory,
               describe_saved());
  }

  const TrainerParts& parts_;
  const TrainerOptions& options_;
  TrainingEngine engine_;
  CheckpointStore store_;
  std::unique_ptr<RunLog> log_;
  std::optional<GeneratedAnswers> answers_;
  TrainState state_;
  std::optional<std::string> resumed_;
  int64_t saving_step_ = -1;  // of the save under way
  int64_t saved_step_ = -1;   // of the latest whole checkpoint
  int64_t bad_steps_ = 0;     // in a row, up to now
  std::string bad_step_;      // what was wrong with the last of them
  int64_t peak_bytes_ = 0;
  double seconds_per_token_bound_ = options_.seconds_per_token_bound;  // 0: unknown
};

}  // namespace

std::vector<MetricKind> evaluation_metric_kinds(const TrainerOptions& options) {
  std::vector<MetricKind> kinds = {{.name = "loss", .higher_is_better = false}};
  std::vector<MetricKind> of_task;
  if (options.engine.objective != nullptr) of_task = options.engine.objective->metric_kinds();
  kinds.insert(kinds.end(), of_task.begin(), of_task.end());
  std::vector<MetricKind> of_texts;
  if (options.generation) of_texts = TextScores::kinds();
  kinds.insert(kinds.end(), of_texts.begin(), of_texts.end());
  return kinds;
}

TrainingEnd run_training(const TrainerParts& parts, const TrainerOptions& options) {
  return Trainer(parts, options).run();
}

}  // namespace weft
