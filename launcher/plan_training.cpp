#include "launcher/plan_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "config/check_run_config.h"
#include "config/run.pb.h"
#include "core/error.h"
#include "launcher/command_line.h"
#include "launcher/labelled_tasks.h"
#include "launcher/model_summary.h"
#include "launcher/mpi_session.h"
#include "launcher/planned_rows.h"
#include "launcher/train_checks.h"
#include "launcher/train_data.h"
#include "launcher/train_options.h"
#include "models/adapter_file.h"
#include "plan/training_suggestion.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDefaultSequenceLength = 1024;
/// Of data that options do not name.
constexpr std::string_view kNoPath = "planned";

/// What a model of its kind is trained for from texts alone.
std::string default_task(const ModelInfo& info) {
  if (info.has_source) return "SEQUENCE_TO_SEQUENCE";
  if (info.attention == AttentionPattern::causal) return "LANGUAGE_MODEL";
  if (info.attention == AttentionPattern::prefix) return "SEQUENCE_TO_SEQUENCE";
  return info.has_language_model_head ? "MASKED_LANGUAGE_MODEL" : "CLASSIFICATION";
}

/// A config that the options stand in for, complete enough to be checked as any other.
RunConfig config_of_options(const CommonOptions& common, const TrainingPlanOptions& options) {
  if (common.model.path.empty()) fail(ExitCode::usage, "--train needs a config file, or --model and options");
  std::vector<std::string> fields = {fmt::format("data.sources[0].path={}", kNoPath),
                                     "output.directory=planned",
                                     "train.steps=1",
                                     fmt::format("precision.compute={}", common.dtype)};
  for (const std::string& field : model_fields(common.model)) fields.push_back(field);
  if (common.tensor_parallel > 0) fields.push_back(fmt::format("parallel.tensor={}", common.tensor_parallel));
  fields.emplace_back("train.micro_batch_size=1");
  ModelInfo info = open_model(common.model).info();
  fields.push_back("task.kind=" + default_task(info));
  fields.insert(fields.end(), options.fields.begin(), options.fields.end());
  RunConfig described = parse_run_config("", "--train", fields);
  const config::RunConfig& message = described.message();
  int64_t ranks = std::max<int64_t>(1, message.parallel().data());
  fields.push_back(fmt::format("train.batch_size={}", ranks * message.train().micro_batch_size()));
  if (!message.data().has_sequence_length()) {
    int64_t length =
        info.max_positions > 0 ? std::min(info.max_positions, kDefaultSequenceLength) : kDefaultSequenceLength;
    fields.push_back(fmt::format("data.sequence_length={}", length));
  }
  fields.insert(fields.end(), options.overrides.begin(), options.overrides.end());
  return parse_run_config("", "--train", fields);
}

RunConfig resolve_config(const CommonOptions& common, const TrainingPlanOptions& options) {
  if (options.config.empty()) return config_of_options(common, options);
  std::vector<std::string> fields = model_fields(common.model);
  fields.insert(fields.end(), options.fields.begin(), options.fields.end());
  fields.insert(fields.end(), options.overrides.begin(), options.overrides.end());
  return load_run_config(options.config, fields);
}

int resolve_num_ranks(const config::RunConfig& config, const TrainingPlanOptions& options, const MpiSession& session) {
  if (options.num_ranks > 0) return options.num_ranks;
  if (session.size() > 1) return session.size();
  return static_cast<int>(config.parallel().tensor() * std::max<int64_t>(1, config.parallel().data()));
}

std::optional<LoraOptions> planned_lora(const config::RunConfig& config) {
  if (!config.has_lora()) {
    return config.has_state_tuning() ? std::optional(LoraOptions{.rank = 0}) : std::nullopt;
  }
  return config.lora().has_adapter() ? open_adapter(config.lora().adapter()).options : lora_options(config);
}

TrainingSetup planned_setup(const config::RunConfig& config, const RankLayout& layout, int num_threads) {
  TrainingSetup setup;
  setup.dtype = compute_dtype(config);
  setup.quantization = quantization_of(config);
  setup.engine = engine_options(config);
  setup.data = layout.data;
  setup.tensor = layout.tensor;
  setup.sequence_parallel = config.parallel().sequence_parallel();
  setup.micro_batch_rows = layout.micro_batch_size;
  setup.num_micro_batches = layout.num_micro_batches;
  setup.sequence_length = config.data().sequence_length();
  setup.num_threads = num_threads;
  setup.writes_samples = !config.samples().prompts().empty();
  return setup;
}

/// The labels of a task, which size its layer, are those of the data.
std::unique_ptr<LabelledTask> read_task(const RunConfig& source, const TrainingPlanOptions& options) {
  const config::RunConfig& config = source.message();
  if (options.config.empty() && config.data().sources(0).path() == kNoPath && is_labelled_task(config)) {
    fail(ExitCode::usage,
         "--train plans {} with the labels of its data; give a config, or --set data.sources[0].path=FILE",
         config::TaskConfig::Kind_Name(config.task().kind()));
  }
  return read_labelled_task(source);
}

std::string_view recompute_name(Recompute recompute) {
  switch (recompute) {
    case Recompute::none:
      return "KEEP";
    case Recompute::selective:
      return "SELECTIVE";
    case Recompute::block:
      return "BLOCK";
  }
  return "KEEP";
}

Json bytes_json(const BytesByTag& bytes) {
  Json result = Json::object();
  for (size_t tag = 0; tag < kNumMemoryTags; ++tag) {
    if (static_cast<MemoryTag>(tag) == MemoryTag::kv_cache) continue;
    result[std::string(memory_tag_name(static_cast<MemoryTag>(tag)))] = bytes[tag];
  }
  return result;
}

Json plan_json(const TrainingSetup& setup, const TrainingMemory& memory) {
  return {{"data", setup.data},
          {"tensor", setup.tensor},
          {"zero_stage", setup.engine.zero_stage},
          {"gradient_checkpointing", recompute_name(setup.engine.recompute)},
          {"checkpoint_every", setup.engine.recompute_every},
          {"micro_batch_size", setup.micro_batch_rows},
          {"micro_batches", setup.num_micro_batches},
          {"sequence_length", setup.sequence_length},
          {"bytes_per_rank", bytes_json(memory.peaks)},
          {"bytes_at_peak", bytes_json(memory.at_peak)},
          {"peak_total", memory.peak_total},
          {"peak_moment", memory.moment},
          {"largest_rank", memory.place.rank}};
}

void print_plan(const TrainingSetup& setup, const TrainingMemory& memory) {
  fmt::print(
      "{} data × {} tensor ranks, ZeRO stage {}, {}, gradient checkpointing {}, {} × {} rows of {} tokens; each "
      "rank at most\n",
      setup.data,
      setup.tensor,
      setup.engine.zero_stage,
      dtype_name(setup.dtype),
      recompute_name(setup.engine.recompute),
      setup.num_micro_batches,
      setup.micro_batch_rows,
      setup.sequence_length);
  fmt::print("  {:<12} {:>12} {:>14}\n", "", "highest", "in the sum");
  for (size_t tag = 0; tag < kNumMemoryTags; ++tag) {
    if (memory.peaks[tag] == 0) continue;
    fmt::print("  {:<12} {:>12} {:>14}\n",
               memory_tag_name(static_cast<MemoryTag>(tag)),
               format_bytes(memory.peaks[tag]),
               format_bytes(memory.at_peak[tag]));
  }
  fmt::print("  {:<12} {:>12} {:>14}   highest at: {}\n", "sum", "", format_bytes(memory.peak_total), memory.moment);
}

/// What differs from setup to setup, as a config has it.
std::string config_fields(const TrainingSetup& setup) {
  std::string every = setup.engine.recompute == Recompute::block
                          ? fmt::format(" checkpoint_every: {}", setup.engine.recompute_every)
                          : "";
  return fmt::format(
      "train {{ batch_size: {} micro_batch_size: {} gradient_checkpointing: {}{} }}\n"
      "parallel {{ tensor: {} data: {} zero_stage: {}{} }}\n",
      setup.data * setup.micro_batch_rows * setup.num_micro_batches,
      setup.micro_batch_rows,
      recompute_name(setup.engine.recompute),
      every,
      setup.tensor,
      setup.data,
      setup.engine.zero_stage,
      setup.sequence_parallel ? " sequence_parallel: true" : "");
}

/// One line: what would do.
std::string describe_lack(const OpenedModel& opened, const SuggestionRequest& request) {
  TrainingSuggestion least = least_training(opened, request);
  int devices = smallest_device_count(opened, request);
  return fmt::format(
      "nothing fits {} devices of {}: the least is {} each (tensor {}, data {}, ZeRO {}, gradient "
      "checkpointing {}, {} row(s) at a time); {}",
      request.num_devices,
      format_bytes(request.device_bytes),
      format_bytes(least.memory.peak_total),
      least.setup.tensor,
      least.setup.data,
      least.setup.engine.zero_stage,
      recompute_name(least.setup.engine.recompute),
      least.setup.micro_batch_rows,
      devices > 0 ? fmt::format("{} devices of this size would do", devices)
                  : "shorter rows, LoRA or an optimizer with less state are left");
}

Json suggest(const OpenedModel& opened, const SuggestionRequest& request, bool as_json) {
  std::optional<TrainingSuggestion> found = suggest_training(opened, request);
  if (as_json) {
    if (!found) return nullptr;
    Json result = plan_json(found->setup, found->memory);
    result["config"] = config_fields(found->setup);
    return result;
  }
  if (!found) {
    fmt::print("{}\n", describe_lack(opened, request));
    return nullptr;
  }
  fmt::print("# Suggested for {} devices of {}: at most {} a rank, highest at {}.\n{}",
             request.num_devices,
             format_bytes(request.device_bytes),
             format_bytes(found->memory.peak_total),
             found->memory.moment,
             config_fields(found->setup));
  return nullptr;
}

/// Rows that a rank has in a step are kept where the batch came from options alone: 8, or what one was given.
int64_t suggested_batch_rows(const config::RunConfig& config, const TrainingPlanOptions& options) {
  if (!options.config.empty()) return config.train().batch_size();
  return std::max<int64_t>(config.train().batch_size(), options.num_devices);
}

}  // namespace

void add_training_plan_options(Command command, TrainingPlanOptions& options) {
  Option train = command
                     .add_option_function(
                         "--train",
                         [&options](const std::string& config) {
                           options.is_wanted = true;
                           options.config = config;
                         },
                         "Plans training: of this config, or, with --model, as the options say")
                     .expected(0, 1)
                     .trigger_on_parse()
                     .group("Training");
  auto add_field = [&](const char* flag, std::string field, const char* help) {
    return command
        .add_option_function(
            flag,
            [&options, field = std::move(field)](const std::string& value) {
              options.fields.push_back(field + "=" + value);
            },
            help)
        .needs(train)
        .group("Training");
  };
  command.add_option("--set", options.overrides, "FIELD=VALUE in place of the config's")
      .take_all()
      .one_value_each()
      .needs(train)
      .group("Training");
  command.add_option("--ranks", options.num_ranks, "Ranks to be started (default: as few as the config allows)")
      .check_range(1, 1 << 16)
      .needs(train)
      .group("Training");
  constexpr int64_t kMostCounted = int64_t{1} << 30;
  add_field("--batch-rows", "train.micro_batch_size", "Rows that a rank computes at a time")
      .check_range(1, kMostCounted);
  add_field("--sequence-length", "data.sequence_length", "Tokens a row").check_range(1, kMostCounted);
  add_field("--lora", "lora.rank", "Adapters of this rank instead of all weights").check_range(1, kMostCounted);
  add_field("--recompute-every", "train.checkpoint_every", "With --recompute block: every k-th block")
      .check_range(1, kMostCounted);
  add_field("--zero", "parallel.zero_stage", "What data-parallel ranks share out").check_range(0, 3);
  add_field("--data", "parallel.data", "Ranks with rows of their own").check_range(1, kMostCounted);
  add_field("--tensor", "parallel.tensor", "Ranks that share the weights").check_range(1, kMostCounted);
  add_field("--optimizer", "train.optimizer.kind", "The update rule")
      .check_one_of({"adamw", "lamb", "lion", "adafactor", "muon", "sgd"});
  command
      .add_option_function(
          "--recompute",
          [&options](const std::string& value) {
            options.fields.push_back("train.gradient_checkpointing=" + (value == "none" ? "keep" : value));
          },
          "What is computed again in backward")
      .check_one_of({"none", "selective", "block"})
      .needs(train)
      .group("Training");
  command
      .add_option(
          "--devices", options.num_devices, "Also suggests a configuration for so many devices of --memory-per-device")
      .check_range(1, 1 << 12)
      .needs(train)
      .group("Training");
  command.add_option("--memory-per-device", options.memory_per_device, "e.g. 24GB").needs(train).group("Training");
}

void print_training_plan(const CommonOptions& common,
                         const TrainingPlanOptions& options,
                         const MpiSession& session,
                         bool as_json) {
  if ((options.num_devices > 0) != !options.memory_per_device.empty()) {
    fail(ExitCode::usage, "--devices and --memory-per-device go together; give both");
  }
  RunConfig source = resolve_config(common, options);
  check_run_config(source);
  const config::RunConfig& config = source.message();
  std::unique_ptr<LabelledTask> labelled = read_task(source, options);
  CommonOptions threads = common;
  if (threads.threads == 0) threads.threads = static_cast<int>(config.parallel().threads());
  OpenedModel opened = open_model(task_model_options(source, labelled.get()));
  check_task(source, opened.info());
  check_sequence_length(source, opened.info());
  std::optional<LoraOptions> lora = planned_lora(config);
  SuggestionRequest request{.setup = {},
                            .lora = lora,
                            .num_devices = options.num_devices,
                            .device_bytes = options.num_devices > 0 ? parse_bytes(options.memory_per_device) : 0,
                            .batch_rows = suggested_batch_rows(config, options)};
  RankLayout layout = check_against_ranks(source, resolve_num_ranks(config, options, session));
  TrainingSetup setup = planned_setup(config, layout, resolve_threads(threads, session));
  setup.engine.objective = task_objective(config, labelled.get(), opened.info());
  setup.rows = planned_rows(source, opened.info());
  request.setup = setup;
  TrainingMemory memory = TrainingPlanner(opened, lora, setup.tensor).plan(setup);
  if (as_json) {
    Json result = {{"model", opened.path}, {"dtype", dtype_name(setup.dtype)}};
    result.update(plan_json(setup, memory));
    if (options.num_devices > 0) result["suggestion"] = suggest(opened, request, true);
    fmt::print("{}\n", result.dump(-1, ' ', false, Json::error_handler_t::replace));
    return;
  }
  fmt::print("{}: ", model_name(opened.path));
  print_plan(setup, memory);
  if (options.num_devices > 0) suggest(opened, request, false);
}

}  // namespace weft
