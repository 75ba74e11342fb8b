// weft evaluate: how good a trained model is on data.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "checkpoint/output_file.h"
#include "config/check_run_config.h"
#include "config/run.pb.h"
#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/evaluate_choices.h"
#include "launcher/evaluation_report.h"
#include "launcher/labelled_tasks.h"
#include "launcher/mpi_session.h"
#include "launcher/prediction_lines.h"
#include "launcher/train_checks.h"
#include "launcher/train_data.h"
#include "launcher/train_options.h"
#include "parallel/agreement.h"
#include "report/run_record.h"
#include "tasks/rank_values.h"
#include "tokenizer/tokenizer.h"
#include "train/evaluation.h"
#include "train/generated_answers.h"
#include "train/step_batches.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFooter = R"(Examples:
  weft evaluate --model runs/reviews/checkpoints/step-00000400 --data test.tsv
  weft evaluate --model bert-base --adapter runs/lora/checkpoints/step-00000400 --data test.jsonl --predictions out.jsonl
  weft evaluate --model flan-t5-small --data test.jsonl --generate --beams 4 --json
  weft evaluate --model SmolLM2-135M --data wiki.txt
  weft evaluate --model SmolLM2-135M --task choices --data arc.jsonl
  weft launch -n 4 -- evaluate --model tuned --data test.tsv

The task is that of the model's layer, or of the run whose checkpoint the model or adapter is, or --task: classification,
tagging, entities, question_answering, similarity, language_model, masked_language_model, sequence_to_sequence and
span_corruption read the data that training reads (docs/data.md) and report the metrics of its evaluations. choices reads lines
such as {"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0} and gives the model's choice by the
likelihood of each (acc), and by that divided by its bytes (acc_norm).

With several ranks each evaluates its share; --tensor-parallel N lets N of them share the weights.)";

constexpr std::string_view kChoices = "choices";

struct EvaluateCommand {
  CommonOptions common;
  std::vector<std::string> data;
  std::string task;
  std::vector<std::string> overrides;
  std::string predictions;
  int64_t batch_rows = 8;
  int64_t max_rows = 0;
  int64_t sequence_length = 0;
  bool generates = false;
  GenerationOptions generation{.max_rows = 0};
  std::string unit = "words";
  ChoiceOptions choices;
  bool prints_json = false;
};

/// Where token files are made of texts; nobody needs them afterwards.
class WorkFolder {
 public:
  explicit WorkFolder(Communicator& world) : world_(world) {
    std::string own = (fs::temp_directory_path() / fmt::format("weft-evaluate-{}", ::getpid())).string();
    path_ = gather_texts(world, own).front();
  }
  ~WorkFolder() {
    std::error_code ignored;
    if (world_.rank() == 0) fs::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  Communicator& world_;
  std::string path_;
};

/// The config of the run whose checkpoint lies there; nothing for other models.
std::optional<RunConfig> find_run_config(const std::string& model) {
  fs::path folder = fs::path(model).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  fs::path config = folder.parent_path().parent_path() / kRunConfigFile;
  if (folder.parent_path().filename() != "checkpoints" || !path_exists(config)) return std::nullopt;
  return load_run_config(config.string());
}

std::optional<RunConfig> find_run_config(const CommonOptions& common) {
  for (const std::string& named : common.adapters) {
    size_t equals = named.find('=');
    std::optional<RunConfig> found = find_run_config(equals == std::string::npos ? named : named.substr(equals + 1));
    if (found) return found;
  }
  return find_run_config(common.model.path);
}

/// What the model is for, as far as it says.
std::string task_of(const ModelInfo& info) {
  switch (info.task_head.kind) {
    case TaskHead::Kind::sequence_classification:
      return "CLASSIFICATION";
    case TaskHead::Kind::token_classification:
    case TaskHead::Kind::crf:
      return "TAGGING";
    case TaskHead::Kind::global_pointer:
      return "ENTITIES";
    case TaskHead::Kind::relations:
      return "RELATIONS";
    case TaskHead::Kind::question_answering:
      return "QUESTION_ANSWERING";
    case TaskHead::Kind::none:
      break;
  }
  if (info.has_source || info.attention == AttentionPattern::prefix) return "SEQUENCE_TO_SEQUENCE";
  if (info.attention == AttentionPattern::causal) return "LANGUAGE_MODEL";
  return info.has_language_model_head ? "MASKED_LANGUAGE_MODEL" : "SIMILARITY";
}

bool has_records(const std::vector<std::string>& files) {
  return std::none_of(files.begin(), files.end(), [](const std::string& file) { return file.ends_with(".txt"); });
}

/// A whole config, as training's, with the data as what is held out.
RunConfig make_config(const EvaluateCommand& options,
                      const std::optional<RunConfig>& run,
                      const ModelInfo& info,
                      const std::string& work_folder) {
  constexpr int64_t kDefaultLength = 1024;
  std::vector<std::string> fields = model_fields(options.common.model);
  fields.insert(fields.end(), {"train.steps=1", "data.shuffle=false", "output.directory=" + work_folder});
  for (size_t i = 0; i < options.data.size(); ++i) {
    fields.push_back(fmt::format("data.sources[{}].path={}", i, options.data[i]));
    fields.push_back(fmt::format("evaluation.sources[{}].path={}", i, options.data[i]));
  }
  int64_t length = info.max_positions > 0 ? std::min(info.max_positions, kDefaultLength) : kDefaultLength;
  bool has_pairs = run && run->message().task().kind() == config::TaskConfig::PREFERENCE;
  if (has_pairs && options.task.empty()) {
    fail(
        ExitCode::usage,
        "{}: was trained on preferences, whose margins need the model that it started from: its run's evaluations have "
        "them; for other measures give --task, such as language_model or choices",
        options.common.model.path);
  }
  if (run && !has_pairs) {
    fields.push_back("task={" + run->message().task().ShortDebugString() + "}");
    length = run->message().data().sequence_length();
  }
  if (!options.task.empty()) {
    fields.push_back("task.kind=" + options.task);
  } else if (!run) {
    fields.push_back("task.kind=" + task_of(info));
  }
  if (info.task_head.multilabel) fields.emplace_back("task.multilabel=true");
  if (info.condition.is_there() && !run) {
    fields.emplace_back(info.condition.labels.empty() ? "task.condition=VECTOR" : "task.condition=LABEL");
  }
  fields.push_back(
      fmt::format("data.sequence_length={}", options.sequence_length > 0 ? options.sequence_length : length));
  fields.push_back(fmt::format("data.packing={}", has_records(options.data) ? "NONE" : "SPLIT"));
  fields.insert(fields.end(), options.overrides.begin(), options.overrides.end());
  RunConfig config = parse_run_config("", "evaluate", fields);
  check_run_config(config);
  return config;
}

/// With the data's labels for those that the checkpoint does not name.
ModelOptions named_model(const CommonOptions& common, const RunConfig& source, const LabelledTask* labelled) {
  ModelOptions model = with_adapters(common);
  config::TaskConfig::Kind kind = source.message().task().kind();
  if (labelled == nullptr || labelled->head().kind == TaskHead::Kind::none) return model;
  OpenedModel opened = open_model(model);
  TaskHead head = opened.info().task_head;
  if (head.kind == TaskHead::Kind::none || task_of(opened.info()) != config::TaskConfig::Kind_Name(kind)) {
    fail_input("{}: has {}{}, and {} needs one of its own; train it, or name an adapter that has it",
               opened.path,
               head.kind == TaskHead::Kind::none ? "no task's layer" : "a layer for ",
               head.kind == TaskHead::Kind::none ? "" : task_head_name(head.kind),
               config::TaskConfig::Kind_Name(kind));
  }
  if (!has_placeholder_labels(head)) return model;
  head.labels = fit_task_head(source, labelled->head(), opened).labels;
  model.overrides = task_head_overrides(head);
  return model;
}

/// All that an evaluation works with.
struct Evaluation {
  const EvaluateCommand& options;
  const RunConfig& source;
  InferenceModel& loaded;
  const LabelledTask* labelled;
  const TrainingData& data;
  Objective& objective;

  Communicator& ranks() const { return loaded.mesh->data_parallel(); }
  DataParallelPlace place() const { return {ranks().rank(), ranks().size()}; }
  int64_t num_rows() const {
    int64_t rows = data.rows_per_epoch();
    return options.max_rows > 0 ? std::min(rows, options.max_rows) : rows;
  }
  bool keeps_predictions() const { return !options.predictions.empty(); }
};

std::string labelled_lines(const Evaluation& of, const std::vector<ExamplePrediction>& predictions) {
  std::string lines;
  auto first = static_cast<size_t>(of.num_rows() * of.place().rank / of.place().size);
  for (size_t i = 0; i < predictions.size(); ++i) {
    lines += of.labelled->prediction_line(first + i, predictions[i], *of.loaded.tokenizer, of.loaded.model->info());
    lines += "\n";
  }
  return lines;
}

/// Adds what the model writes to the report; the lines are of what it wrote.
std::string add_answers(const Evaluation& of, EvaluationReport& report) {
  GeneratedAnswers answers(of.data, of.num_rows(), *of.loaded.tokenizer, of.options.generation, of.place());
  std::vector<WrittenAnswer> written = answers.write(of.loaded.context, *of.loaded.model);
  for (const Metric& metric : answers.score(written).metrics(of.loaded.context, of.ranks())) {
    report.metrics.push_back(metric);
  }
  std::string lines;
  for (const WrittenAnswer& answer : written) {
    lines += answer_line(answer);
  }
  return lines;
}

void name_labels(const ModelInfo& info, EvaluationDetails& details) {
  if (details.names.empty()) details.names = info.task_head.labels;
}

/// The report, the same on every rank, and lines of this rank's examples.
ChoiceScores evaluate_task(const Evaluation& of) {
  Context& context = of.loaded.context;
  StepBatches batches = deal_out(of.data, 0, of.num_rows(), of.options.batch_rows, of.place());
  if (!batches.is_scored()) fail_input("{}: nothing in it is scored", printable(of.options.data.front()));
  ChoiceScores result;
  EvaluationReport& report = result.report;
  std::vector<ExamplePrediction> predictions;
  MicroBatchHook hook;
  bool predicts = of.labelled != nullptr && of.labelled->predicts();
  if (of.keeps_predictions() && predicts) of.objective.keep_predictions(&predictions);
  if (of.keeps_predictions() && !predicts && !of.options.generates) {
    hook = [&](const MicroBatch& micro_batch, const ObjectiveLoss& loss) {
      result.predictions += loss_lines(*of.loaded.tokenizer, micro_batch, loss);
    };
  }
  std::vector<double> loss = {
      evaluate_objective(context, *of.loaded.model, of.objective, batches.micro_batches, of.ranks(), hook)};
  sum_over_ranks(context, of.ranks(), loss);
  std::string task = config::TaskConfig::Kind_Name(of.source.message().task().kind());
  std::transform(task.begin(), task.end(), task.begin(), [](unsigned char c) { return std::tolower(c); });
  report.task = std::move(task);
  report.examples = of.num_rows();
  report.loss = loss[0];
  report.tokens = of.labelled == nullptr ? batches.scored_tokens : 0;
  report.metrics = of.objective.metrics(context, of.ranks());
  report.details = of.objective.details(context, of.ranks());
  name_labels(of.loaded.model->info(), report.details);
  if (predicts) result.predictions = labelled_lines(of, predictions);
  if (of.options.generates) result.predictions = add_answers(of, report);
  return result;
}

/// Of all data-parallel ranks, in the order of the data.
void write_predictions(const EvaluateCommand& options, const InferenceModel& loaded, const std::string& own) {
  if (options.predictions.empty()) return;
  std::string all;
  for (const std::string& part : gather_texts(loaded.mesh->data_parallel(), own)) all += part;
  std::string failure;
  try {
    if (loaded.mesh->world().rank() == 0) write_whole_file(options.predictions, all);
  } catch (const Error& error) {
    failure = error.what();
  }
  agree(loaded.mesh->world(), failure, ExitCode::bad_input);
}

ChoiceScores evaluate_config(EvaluateCommand options, MpiSession& session, std::unique_ptr<InferenceModel>& loaded) {
  WorkFolder folder(*session.world());
  std::optional<RunConfig> run = find_run_config(options.common);
  if (run && options.common.model.application.empty()) {
    options.common.model.application = run->message().model().application();
  }
  RunConfig source = make_config(options, run, open_model(with_adapters(options.common)).info(), folder.path());
  std::unique_ptr<LabelledTask> labelled = read_labelled_task(source);
  CommonOptions common = options.common;
  common.model = named_model(options.common, source, labelled.get());
  loaded = load_model_for_inference(common, session, TokenizerUse::all_ranks);
  const ModelInfo& info = loaded->model->info();
  check_sequence_length(source, info);
  TrainingDataSets sets = open_data(source, *session.world(), loaded->context, loaded->tokenizer, info, labelled.get());
  std::shared_ptr<Objective> objective = task_objective(source.message(), labelled.get(), info);
  return evaluate_task({.options = options,
                        .source = source,
                        .loaded = *loaded,
                        .labelled = labelled.get(),
                        .data = *sets.held_out,
                        .objective = *objective});
}

ExitCode run_evaluate(const EvaluateCommand& given, MpiSession& session) {
  EvaluateCommand options = given;
  configure_log(options.common, session);
  if (options.common.tensor_parallel == 0) options.common.tensor_parallel = 1;
  options.generation.unit = options.unit == "characters" ? TextUnit::characters : TextUnit::words;
  std::unique_ptr<InferenceModel> loaded;
  ChoiceScores result;
  if (options.task == kChoices) {
    loaded = load_model_for_inference(options.common, session, TokenizerUse::all_ranks);
    result = evaluate_choices(*loaded,
                              options.data,
                              options.choices,
                              !options.predictions.empty(),
                              session.rank() == 0 && !options.common.quiet);
  } else {
    result = evaluate_config(options, session, loaded);
  }
  write_predictions(options, *loaded, result.predictions);
  result.report.model = loaded->opened.path;
  if (session.rank() == 0) {
    fmt::print("{}", options.prints_json ? report_json(result.report) : report_text(result.report));
  }
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

void add_generation_options(Command command, EvaluateCommand& options) {
  Option generate = command.add_flag(
      "--generate", options.generates, "Lets the model write answers to the prompts, and scores them: BLEU, ROUGE");
  GenerationOptions& generation = options.generation;
  command.add_option("--max-new-tokens", generation.max_new_tokens, "The longest answer in tokens")
      .check_positive()
      .show_default()
      .needs(generate);
  command.add_option("--beams", generation.num_beams, "Beams of a search; 1: the likeliest token each time")
      .check_positive()
      .show_default()
      .needs(generate);
  command.add_option("--unit", options.unit, "What scores count: words or characters")
      .check_one_of({"words", "characters"})
      .show_default()
      .needs(generate);
}

}  // namespace

void add_evaluate_command(Command program, CommandContext& context) {
  auto options = std::make_shared<EvaluateCommand>();
  options->common.shares_out_inputs = true;
  Command command = program.add_subcommand("evaluate", "Measures how good a model is on data");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("--data", options->data, "Files of the task's data").required().take_all();
  command.add_option("--task", options->task, "What is measured, where the model or its run does not say")
      .check_one_of({"classification",
                     "tagging",
                     "entities",
                     "question_answering",
                     "similarity",
                     "language_model",
                     "masked_language_model",
                     "sequence_to_sequence",
                     "span_corruption",
                     kChoices});
  command.add_option("--set", options->overrides, "FIELD=VALUE of a training config, e.g. task.stride=128")
      .take_all()
      .one_value_each();
  command.add_option("--predictions", options->predictions, "File for a JSON object an example");
  command.add_option("--batch-rows", options->batch_rows, "Texts that a rank computes at a time")
      .check_positive()
      .show_default();
  command.add_option("--max-rows", options->max_rows, "Uses the first N rows of the data (0: all)")
      .check_not_negative()
      .show_default();
  command
      .add_option("--sequence-length",
                  options->sequence_length,
                  "Tokens of a row (0: as in training, else the model's context, at most 1024)")
      .check_not_negative()
      .show_default();
  add_generation_options(command, *options);
  command.add_option("--delimiter", options->choices.delimiter, "choices: what stands between prompt and choice")
      .show_default();
  command.add_flag("--raw", options->choices.is_raw, "choices: adds no special tokens before the prompt");
  command.add_flag("--json", options->prints_json, "Prints a JSON object");
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_evaluate(*options, session); };
  });
}

}  // namespace weft
