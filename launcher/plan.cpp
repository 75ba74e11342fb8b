// weft plan: the memory of a launch, before anything is loaded.
#include "launcher/command_line.h"
#include "plan/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "generate/request_support.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/model_summary.h"
#include "launcher/mpi_session.h"
#include "launcher/plan_training.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft plan --model configs/models/gemma2-27b.json --tensor-parallel 8
  weft plan --model SmolLM2-135M-Instruct.Q4_1.gguf --batch 8 --context 8192 --json
  weft plan --model configs/models/llama3-8b.json --memory-per-rank 12GB
  weft plan --train configs/smollm2-full.textproto --ranks 2
  weft plan --train run.textproto --set parallel.tensor=2 --devices 8 --memory-per-device 24GB
  weft plan --model configs/models/gemma2-27b.json --train --lora 16 --tensor 8 --recompute block

Prints what the rank with the largest share needs: weights, key/value cache, activations at their highest, buffers (scratch
and communication). The numbers are those that --memory reports after a run.

With --train, of training: as a config says, or as the options do, which stand in for (or change) the config's fields. The
kinds are highest at different moments; the sum counts at its own, which is named. With --devices and --memory-per-device
also the mesh, ZeRO stage, recomputation and micro-batch that fit with the least extra work, as fields of a config.)";

struct PlanCommand {
  CommonOptions common;
  Workload workload;
  int64_t context_tokens = 0;
  std::string memory_per_rank;
  bool prints_json = false;
  TrainingPlanOptions training;
};

Workload resolve_workload(const PlanCommand& options, const ModelInfo& info, int num_threads) {
  Workload workload = options.workload;
  workload.num_threads = num_threads;
  int64_t context = options.context_tokens;
  if (context == 0) context = std::min<int64_t>(4096, info.max_positions > 0 ? info.max_positions : 4096);
  if (info.max_positions > 0 && context > info.max_positions) {
    fail_input("--context {}: this model was made for {} tokens", context, info.max_positions);
  }
  if (!writes_texts(info)) workload.new_tokens = 0;
  if (workload.new_tokens >= context) workload.new_tokens = std::max<int64_t>(1, context / 2);
  workload.prompt_tokens = std::max<int64_t>(1, context - workload.new_tokens);
  return workload;
}

Json plan_json(const MemoryPlan& plan) {
  return {{"weights", plan.weights},
          {"kv_cache", plan.kv_cache},
          {"activations", plan.activations},
          {"buffers", plan.buffers()},
          {"total", plan.total()}};
}

void print_line(const char* what, int64_t bytes) {
  fmt::print("  {:<12} {:>12}\n", what, format_bytes(bytes));
}

void print_suggestion(const std::string& memory_per_rank, int degree) {
  if (degree == 0) {
    fmt::print("no tensor-parallel degree up to 64 fits {} a rank\n", memory_per_rank);
  } else {
    fmt::print("smallest tensor-parallel degree that fits {} a rank: {}\n", memory_per_rank, degree);
  }
}

ExitCode run_plan(const PlanCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.rank() != 0) return ExitCode::ok;
  if (options.training.is_wanted) {
    refuse_quantization(options.common, "training");
    print_training_plan(options.common, options.training, session, options.prints_json);
    return ExitCode::ok;
  }
  if (options.common.model.path.empty()) fail(ExitCode::usage, "--model is required");
  OpenedModel opened = open_model(options.common.model);
  int num_ranks = options.common.tensor_parallel > 0 ? options.common.tensor_parallel : session.size();
  LoadOptions weights = load_options(options.common, 0, 1);
  Workload workload = resolve_workload(options, opened.info(), resolve_threads(options.common, session));
  LargestRank largest = plan_largest_rank(opened, num_ranks, weights, workload);
  const MemoryPlan& plan = largest.plan;
  Json result = {{"model", opened.path},
                 {"tensor_parallel", num_ranks},
                 {"dtype", dtype_name(weights.dtype)},
                 {"quantize", quantization_name(weights.quantization)},
                 {"batch", workload.batch},
                 {"context", workload.context()},
                 {"bytes_per_rank", plan_json(plan)},
                 {"largest_rank", largest.rank}};
  int degree = 0;
  if (!options.memory_per_rank.empty()) {
    degree = smallest_fitting_degree(opened, weights, workload, parse_bytes(options.memory_per_rank));
    result["smallest_tensor_parallel"] = degree == 0 ? Json(nullptr) : Json(degree);
  }
  if (options.prints_json) {
    fmt::print("{}\n", result.dump(-1, ' ', false, Json::error_handler_t::replace));
    return ExitCode::ok;
  }
  bool is_quantized = weights.quantization != Quantization::none;
  fmt::print("{}: {} rank(s), {}{}, batch {}, {} tokens of context; each rank at most\n",
             model_name(opened.path),
             num_ranks,
             dtype_name(weights.dtype),
             is_quantized ? fmt::format(" with {} weights", quantization_name(weights.quantization)) : std::string(),
             workload.batch,
             workload.context());
  print_line("weights", plan.weights);
  print_line("kv cache", plan.kv_cache);
  print_line("activations", plan.activations);
  print_line("buffers", plan.buffers());
  print_line("total", plan.total());
  if (!options.memory_per_rank.empty()) print_suggestion(options.memory_per_rank, degree);
  return ExitCode::ok;
}

}  // namespace

void add_plan_command(Command program, CommandContext& context) {
  auto options = std::make_shared<PlanCommand>();
  Command command = program.add_subcommand("plan", "Says what memory a launch would need, before anything is loaded");
  command.footer(kFooter);
  add_model_options(command, options->common);
  command.get_option("--model").required(false);  // a config of --train names its own
  command.add_option("--batch", options->workload.batch, "Answers at a time")
      .check_range(1, int64_t{1} << 20)
      .show_default();
  command
      .add_option(
          "--context", options->context_tokens, "Tokens of prompt and answer (0: the model's context, at most 4096)")
      .check_range(0, int64_t{1} << 30);
  command.add_option("--new-tokens", options->workload.new_tokens, "How many of them the answer has")
      .check_range(1, int64_t{1} << 30)
      .show_default();
  command.add_option(
      "--memory-per-rank", options->memory_per_rank, "Also says the smallest degree that fits, e.g. 24GB");
  command.add_flag("--json", options->prints_json, "Prints a JSON object");
  add_compute_options(command, options->common);
  add_training_plan_options(command, options->training);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_plan(*options, session); }; });
}

}  // namespace weft
