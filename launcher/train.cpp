// weft train: an experiment from its config file.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <functional>
#include <memory>

#include "checkpoint/reader.h"
#include "config/check_run_config.h"
#include "config/run.pb.h"
#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/interrupt.h"
#include "launcher/mpi_session.h"
#include "launcher/train_checks.h"
#include "launcher/train_data.h"
#include "launcher/train_options.h"
#include "launcher/train_run_directory.h"
#include "models/adapter_file.h"
#include "models/weight_match.h"
#include "plan/speed_bounds.h"
#include "tokenizer/tokenizer.h"
#include "train/trainer.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft train configs/smollm2-full.textproto
  weft launch -n 2 -- train configs/smollm2-lora.textproto --set train.steps=200 --set output.directory=runs/lora
  mpirun --bind-to none -n 4 weft train run.textproto --set parallel.tensor=2 --set parallel.zero_stage=3
  weft train configs/minilm-classifier.textproto --set evaluation.every_steps=50 --set checkpoint.best_metric=f1 \
    --set train.patience=5

Started again with the same output.directory it goes on from the latest whole checkpoint. SIGINT, SIGTERM and SIGUSR1
save everything and end the run with code 130. `weft config --explain` documents every field of a config.)";

struct TrainCommand {
  CommonOptions common;
  std::string config;
  std::vector<std::string> overrides;
  bool starts_over = false;
};

/// All that a run holds, destroyed in a working order.
struct TrainingRun {
  std::unique_ptr<Mesh> mesh;
  Context context;
  std::unique_ptr<LabelledTask> labelled;  // null for tasks on token files
  OpenedModel opened;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Adapter> adapter;
  TrainingDataSets data;
};

/// Reads (or makes up) the weights of one block of the model.
std::function<void(int64_t)> block_loader(const config::RunConfig& config,
                                          const TrainCommand& options,
                                          TrainingRun& run) {
  return [&config, &run, quiet = options.common.quiet || run.mesh->world().rank() != 0](int64_t block) {
    LoadOptions load{.dtype = compute_dtype(config),
                     .for_training = true,
                     .quantization = quantization_of(config),
                     .show_progress = !quiet,
                     .num_threads = run.context.num_threads,
                     .seed = config.train().seed(),
                     .block = block,
                     .allow_missing = config.model().allow_missing()};
    if (config.model().initialise()) {
      initialise_parameters(run.context, *run.model, load, config.train().seed());
    } else {
      load_parameters(run.context, run.opened, *run.model, load);
    }
    if (run.adapter) run.adapter->replace_parameters(block);
  };
}

/// Once, and as an error where nothing would be read: those weights are another model's.
void report_missing(const TrainingRun& run) {
  WeightMatch match = match_weights(run.opened, *run.model);
  if (match.missing.empty()) return;
  if (match.num_matched == 0) {
    fail_input("{}: none of its tensors is one of a {}; wrong family for these weights?",
               run.opened.path,
               run.model->info().family);
  }
  if (run.mesh->world().rank() != 0) return;
  log::warning("{}: {} of the model's tensors are missing and begin at random: {}",
               run.opened.path,
               match.missing.size(),
               fmt::join(match.missing, ", "));
}

/// What `action` returns; an error in what the config names begins with where it names it.
template <typename Action>
auto at_place(const RunConfig& source, const std::string& field, const Action& action) {
  try {
    return action();
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}: {}", source.location(field), field, error.what()));
  }
}

void make_model(const RunConfig& source, TrainingRun& run) {
  const config::RunConfig& config = source.message();
  DType dtype = compute_dtype(config);
  run.model = run.opened.make({run.mesh->tensor_parallel().rank(), run.mesh->tensor_parallel().size()});
  if (config.model().allow_missing()) report_missing(run);
  if (config.has_state_tuning() && run.model->info().initial_state == InitialState::zeros) {
    fail_input("{}: state_tuning needs a recurrent model, such as rwkv6, and {} is none",
               source.location("state_tuning"),
               run.model->info().family);
  }
  if (config.has_state_tuning() && !config.has_lora()) {
    run.adapter = std::make_unique<Adapter>(*run.model, LoraOptions{.rank = 0});
    return;
  }
  if (!config.has_lora()) return;
  if (config.lora().has_adapter()) {
    run.adapter = at_place(source, "lora.adapter", [&] {
      OpenedAdapter opened = open_adapter(config.lora().adapter());
      if (config.lora().has_dropout()) opened.options.dropout = config.lora().dropout();
      return read_adapter(run.context, *run.model, opened, dtype);
    });
  } else {
    run.adapter = at_place(source, "lora", [&] { return std::make_unique<Adapter>(*run.model, lora_options(config)); });
    run.adapter->initialise(run.context, dtype, config.train().seed());
  }
  run.adapter->attach();
}

/// Of formats with a checksum a tensor, each rank some of them; before the run's folder is touched.
void check_weights(const config::RunConfig& config, const TrainingRun& run) {
  if (config.model().initialise() || run.opened.reader == nullptr) return;
  Communicator& world = run.mesh->world();
  run.opened.reader->verify_checksums(world.rank(), world.size());
  world.barrier();
}

/// The one that the config names, else the model's; null when that has none, which token files do without.
std::shared_ptr<const Tokenizer> find_tokenizer(const RunConfig& source) {
  const config::RunConfig& config = source.message();
  if (config.model().has_tokenizer()) {
    return at_place(source, "model.tokenizer", [&] { return load_tokenizer(config.model().tokenizer()); });
  }
  try {
    return load_tokenizer(config.model().path());
  } catch (const Error& error) {
    // One that is there and cannot be read is no missing one.
    for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json"}) {
      if (path_exists(config.model().path() + "/" + name)) throw;
    }
    log::debug("{}", error.what());
    return nullptr;
  }
}

CheckpointOptions checkpoint_options(const config::RunConfig& config) {
  const config::CheckpointConfig& checkpoint = config.checkpoint();
  return {.directory = config.output().directory() + "/checkpoints",
          .keep_last = checkpoint.keep_last(),
          .keep_best = checkpoint.keep_best(),
          .background = checkpoint.background(),
          .optimizer_state = checkpoint.optimizer_state()};
}

std::optional<GenerationOptions> generation_options(const config::RunConfig& config) {
  if (!config.evaluation().has_generation()) return std::nullopt;
  const config::GenerationConfig& generation = config.evaluation().generation();
  bool is_characters = generation.unit() == config::GenerationConfig::CHARACTERS;
  return GenerationOptions{.max_rows = generation.max_rows(),
                           .max_new_tokens = generation.max_new_tokens(),
                           .num_beams = generation.beams(),
                           .unit = is_characters ? TextUnit::characters : TextUnit::words};
}

RunLogOptions log_options(const config::RunConfig& config, const TrainCommand& options) {
  const config::OutputConfig& output = config.output();
  RunLogOptions log;
  log.directory = output.directory();
  log.log_every_steps = output.log_every_steps();
  log.writes_tensorboard = output.tensorboard();
  log.writes_report = output.report();
  log.shows_progress = !options.common.quiet;
  return log;
}

int64_t count_elements(const std::vector<Parameter*>& parameters) {
  int64_t count = 0;
  for (const Parameter* parameter : parameters) count += parameter->full_shape.num_elements();
  return count;
}

/// What the machine would need for a token at best, all ranks together; measured on rank 0.
double seconds_per_token_bound(const config::RunConfig& config, const TrainingRun& run) {
  DType dtype = compute_dtype(config);
  Communicator& world = run.mesh->world();
  Tensor seconds = run.context.host_zeros({1}, DType::f64);
  if (world.rank() == 0) {
    double flops = training_flops_per_token(
        *run.model,
        config.data().sequence_length(),
        run.adapter ? count_elements(choose_parameters(*run.model, run.adapter.get(), {}).trained) : 0);
    MachinePeaks peaks = measure_machine_peaks(dtype, run.context.stream());
    *seconds.data<double>() = flops / peaks.matmul_flops_per_second / world.size();
  }
  world.broadcast(seconds, 0);
  return *seconds.data<double>();
}

TrainerOptions trainer_options(const config::RunConfig& config,
                               const TrainCommand& options,
                               TrainingRun& run,
                               const RankLayout& layout) {
  const config::TrainConfig& train = config.train();
  TrainerOptions result;
  result.engine = engine_options(config);
  result.engine.load_block = block_loader(config, options, run);
  result.engine.dtype = compute_dtype(config);
  result.engine.objective = task_objective(config, run.labelled.get(), run.opened.info());
  result.steps = total_steps(config, run.data.training->rows_per_epoch());
  result.schedule = schedule_options(config, result.steps);
  result.batch_size = train.batch_size();
  result.micro_batch_size = layout.micro_batch_size;
  result.seed = train.seed();
  result.max_bad_steps = train.max_bad_steps();
  result.save_every = config.checkpoint().every_steps();
  result.checkpoint = checkpoint_options(config);
  result.evaluate_every = config.evaluation().every_steps();
  result.max_evaluation_rows = config.evaluation().max_rows();
  result.patience = train.patience();
  result.generation = generation_options(config);
  result.evaluates_averages = config.evaluation().use_ema();
  result.sample_prompts = {config.samples().prompts().begin(), config.samples().prompts().end()};
  result.sample_every = config.samples().every_steps();
  result.max_sample_tokens = config.samples().max_new_tokens();
  result.log = log_options(config, options);
  result.seconds_per_token_bound = seconds_per_token_bound(config, run);
  return result;
}

void log_start(const config::RunConfig& config, const TrainingRun& run, const TrainerOptions& options) {
  int64_t trained = count_elements(choose_parameters(*run.model, run.adapter.get(), options.engine).trained);
  log::info("{}: {} with {:.2f} M {} parameters; {} documents, {} tokens, {} rows an epoch; {} steps of {} × {} tokens",
            config.output().directory(),
            run.model->info().family,
            static_cast<double>(trained) / 1e6,
            run.adapter ? "adapter" : "trained",
            run.data.training->num_documents(),
            run.data.training->num_tokens(),
            run.data.training->rows_per_epoch(),
            options.steps,
            options.batch_size,
            config.data().sequence_length());
  if (run.data.held_out != nullptr && options.max_evaluation_rows > 0 &&
      options.max_evaluation_rows < run.data.held_out->rows_per_epoch()) {
    log::info("evaluations are over {} of {} held-out rows (evaluation.max_rows; 0: all)",
              options.max_evaluation_rows,
              run.data.held_out->rows_per_epoch());
  }
  log::info("ranks: {} data × {} tensor, ZeRO stage {}, {} threads each",
            run.mesh->data_parallel().size(),
            run.mesh->tensor_parallel().size(),
            options.engine.zero_stage,
            run.context.num_threads);
}

ExitCode run_train(const TrainCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  RunConfig source = load_run_config(options.config, options.overrides);
  check_run_config(source);
  const config::RunConfig& config = source.message();
  RankLayout layout = check_against_ranks(source, session.size());
  InterruptFlag interrupted(true, true);

  TrainingRun run;
  CommonOptions common = options.common;
  if (common.threads == 0) common.threads = static_cast<int>(config.parallel().threads());
  run.context = make_device_context(common.device, resolve_threads(common, session), session.local_rank());
  run.mesh = std::make_unique<Mesh>(communicator_for(run.context, session.world()), layout.tensor);
  if (layout.tensor > 1) run.context.tensor_parallel = &run.mesh->tensor_parallel();
  run.context.sequence_parallel = config.parallel().sequence_parallel() && layout.tensor > 1;
  run.labelled = read_labelled_task(source);
  run.opened =
      at_place(source, "model.path", [&] { return open_model(task_model_options(source, run.labelled.get())); });
  run.tokenizer = find_tokenizer(source);
  check_sequence_length(source, run.opened.info());
  RunDirectory directory(source, *session.world());
  run.data = open_data(source, *session.world(), run.context, run.tokenizer, run.opened.info(), run.labelled.get());
  make_model(source, run);
  check_name_patterns(source, *run.model, run.adapter.get());

  TrainerOptions trainer = trainer_options(config, options, run, layout);
  check_warmup(source, trainer);
  check_samples(source, run.model->info(), run.tokenizer.get());
  check_weights(config, run);
  check_generation(source, trainer, run.tokenizer.get());
  check_freeze(source, *run.model, trainer.engine);
  trainer.checkpoint.best_metric = find_best_metric(source, trainer);
  if (options.starts_over) directory.delete_checkpoints();
  log_start(config, run, trainer);
  TrainingEnd end = run_training({.context = run.context,
                                  .mesh = *run.mesh,
                                  .base = run.opened,
                                  .model = *run.model,
                                  .adapter = run.adapter.get(),
                                  .data = *run.data.training,
                                  .held_out = run.data.held_out.get(),
                                  .tokenizer = run.tokenizer.get(),
                                  .tokenizer_path = config.model().tokenizer(),
                                  .on_begin = [&] { directory.write_config(options.starts_over); },
                                  .on_step =
                                      [&](int64_t step, int64_t saved_step) {
                                        session.set_activity("training step", step);
                                        session.set_saved_step(saved_step);
                                      },
                                  .should_stop = [&] { return interrupted.is_set(); }},
                                 trainer);
  report_memory(options.common, session, run.context);
  return end == TrainingEnd::stopped ? ExitCode::interrupted : ExitCode::ok;
}

}  // namespace

void add_train_command(Command program, CommandContext& context) {
  auto options = std::make_shared<TrainCommand>();
  Command command = program.add_subcommand("train", "Trains a model as a config file says");
  command.footer(kFooter);
  command.add_option("config", options->config, "The experiment, Protobuf text or JSON (configs/*.textproto)")
      .required();
  command.add_option("--set", options->overrides, "FIELD=VALUE in place of the config's, e.g. train.learning_rate=1e-4")
      .take_all()
      .one_value_each();
  command.add_flag(
      "--start-over", options->starts_over, "Deletes the checkpoints of output.directory instead of going on");
  command.add_option("--device", options->common.device, "Where to compute: cpu, cuda or auto").show_default();
  command.add_flag("--memory", options->common.show_memory, "At the end, each rank's memory by kind on standard error");
  add_threads_option(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_train(*options, session); }; });
}

}  // namespace weft
