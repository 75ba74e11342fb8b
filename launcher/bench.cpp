// weft bench: how fast, and what part of what the machine allows.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "launcher/bench_runs.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/model_summary.h"
#include "launcher/mpi_session.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft bench decode --model SmolLM2-135M-Instruct --batch 8 --json
  weft bench decode --model configs/models/gemma2-2b.json --temperature 0.8 --top-p 0.95
  weft bench prefill --model configs/models/qwen2-0.5b.json --prompt-tokens 2048     (random weights)
  mpirun -n 2 weft bench decode --model SmolLM2-135M-Instruct
  weft bench load --model gemma-2-27b --as-rank 3/8
  weft bench tokenize --model SmolLM2-135M-Instruct --text book.txt
  weft bench encode --model all-MiniLM-L6-v2 --batch 256 --sequence 32
  weft bench encode --model all-MiniLM-L6-v2 --text sentences.txt
  weft bench seq2seq --model configs/models/flan-t5-small.json --batch 8 --beams 4
  weft bench train --model SmolLM2-135M-Instruct --batch 4 --sequence 256 --lora 8

Prints one line: the median, the bound measured on this machine in the same run, and the part of it that was reached.
docs/benchmarks.md says what is timed.)";

struct BenchKind {
  const char* name;
  BenchResult (*run)(const BenchOptions& options, MpiSession& session);
  int64_t prompt_tokens;  // defaults
  int64_t new_tokens;
  int repetitions;
};

constexpr BenchKind kKinds[] = {{"load", bench_load, 0, 0, 1},
                                {"prefill", bench_prefill, 512, 1, 3},
                                {"decode", bench_decode, 32, 128, 3},
                                {"tokenize", bench_tokenize, 0, 0, 3},
                                {"encode", bench_encode, 0, 0, 5},
                                {"seq2seq", bench_seq2seq, 0, 64, 5},
                                {"train", bench_train, 0, 0, 5}};

struct BenchCommand {
  std::string kind;
  BenchOptions options;
  std::string as_rank;
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  bool prints_json = false;
};

const BenchKind& find_kind(const std::string& name) {
  return *std::find_if(std::begin(kKinds), std::end(kKinds), [&](const BenchKind& kind) { return name == kind.name; });
}

/// "3/8": rank 3 of 8.
TensorParallelPlace parse_place(const std::string& text) {
  TensorParallelPlace place{.rank = -1, .size = 0};
  size_t slash = text.find('/');
  if (slash != std::string::npos) {
    const char* middle = text.data() + slash;
    const char* end = text.data() + text.size();
    bool is_rank = std::from_chars(text.data(), middle, place.rank).ptr == middle;
    bool is_size = std::from_chars(middle + 1, end, place.size).ptr == end;
    if (is_rank && is_size && place.rank >= 0 && place.rank < place.size) return place;
  }
  fail(ExitCode::usage, "--as-rank '{}': write RANK/SIZE with RANK from 0, for example 3/8", printable(text));
}

nlohmann::ordered_json to_json(const BenchCommand& command, const BenchResult& result, int num_ranks, int num_threads) {
  const BenchOptions& options = command.options;
  nlohmann::ordered_json line = {{"bench", command.kind},
                                 {"model", model_name(options.common.model.path)},
                                 {"value", result.median()},
                                 {"unit", result.unit},
                                 {"bound", result.bound},
                                 {"bound_fraction", result.median() / result.bound},
                                 {"formula", result.formula},
                                 {"values", result.values},
                                 {"ranks", num_ranks},
                                 {"threads", num_threads},
                                 {"dtype", options.common.dtype},
                                 {"quantize", options.common.quantize}};
  if (!command.as_rank.empty()) line["as_rank"] = command.as_rank;
  if (command.kind == "encode" && options.text_file.empty()) {
    line["batch"] = options.workload.batch;
    line["sequence"] = options.training.sequence_length;
  }
  if (command.kind == "seq2seq") {
    line["batch"] = options.workload.batch;
    line["source_tokens"] = options.source_tokens;
    line["new_tokens"] = options.workload.new_tokens;
    line["beams"] = options.num_beams;
  }
  if (command.kind == "train") {
    line["batch"] = options.workload.batch;
    line["sequence"] = options.training.sequence_length;
    line["lora"] = options.training.lora_rank;
    line["recompute"] = options.training.recompute;
    line["zero"] = options.training.zero_stage;
    line["masters"] = options.training.has_masters;
  }
  if (command.kind == "decode") {
    line["temperature"] = options.sampling.temperature;
    line["top_k"] = options.sampling.top_k;
    line["top_p"] = options.sampling.top_p;
    line["penalty"] = options.sampling.penalty;
  }
  if (options.workload.prompt_tokens > 0) {
    line["batch"] = options.workload.batch;
    line["prompt_tokens"] = options.workload.prompt_tokens;
    line["new_tokens"] = options.workload.new_tokens;
  }
  for (const auto& [name, value] : result.details) {
    bool is_count = value == std::floor(value) && std::abs(value) < 1e15;
    line[name] = is_count ? nlohmann::ordered_json(static_cast<int64_t>(value)) : nlohmann::ordered_json(value);
  }
  return line;
}

void print_text(const BenchCommand& command, const BenchResult& result) {
  fmt::print("{} {}: {:.4g} {}, {:.1f} % of the bound {:.4g} ({})",
             command.kind,
             model_name(command.options.common.model.path),
             result.median(),
             result.unit,
             100 * result.median() / result.bound,
             result.bound,
             result.formula);
  const char* separator = "; ";
  for (const auto& [name, value] : result.details) {
    fmt::print("{}{} {:.4g}", separator, name, value);
    separator = ", ";
  }
  fmt::print("\n");
}

ExitCode run_bench(BenchCommand command, MpiSession& session) {
  BenchOptions& options = command.options;
  configure_log(options.common, session);
  const BenchKind& kind = find_kind(command.kind);
  options.workload.prompt_tokens = command.prompt_tokens > 0 ? command.prompt_tokens : kind.prompt_tokens;
  options.workload.new_tokens = command.new_tokens > 0 ? command.new_tokens : kind.new_tokens;
  if (options.repetitions == 0) options.repetitions = kind.repetitions;
  options.as_rank = command.as_rank.empty() ? TensorParallelPlace{.rank = 0, .size = 0} : parse_place(command.as_rank);
  BenchResult result = kind.run(options, session);
  if (session.rank() != 0) return ExitCode::ok;
  if (command.prints_json) {
    int num_threads = command.kind == "tokenize" ? 1 : resolve_threads(options.common, session);
    fmt::print("{}\n",
               to_json(command, result, session.size(), num_threads)
                   .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print_text(command, result);
  }
  return ExitCode::ok;
}

void add_sampling_options(Command command, SamplerOptions& sampling) {
  command.add_option("--temperature", sampling.temperature, "decode: tokens are drawn, as in generate (0: greedy)")
      .show_default();
  command.add_option("--top-k", sampling.top_k, "decode, with a temperature: among the K likeliest (0: all)")
      .show_default();
  command.add_option("--top-p", sampling.top_p, "decode, with a temperature: among those that sum to more than P")
      .show_default();
  command.add_option("--penalty", sampling.penalty, "decode: on the logits of past tokens").show_default();
}

void add_training_options(Command command, TrainingWorkload& training) {
  command.add_option("--sequence", training.sequence_length, "encode, train: tokens a row")
      .check_range(2, int64_t{1} << 24)
      .show_default();
  command.add_option("--lora", training.lora_rank, "train: rank of adapters on all layers (0: all weights are trained)")
      .check_range(0, int64_t{1} << 16)
      .show_default();
  command.add_option("--recompute", training.recompute, "train: what is computed again in backward")
      .check_one_of({"none", "selective", "block"})
      .show_default();
  command.add_flag("!--no-masters", training.has_masters, "train: bf16 weights without f32 masters, rounded at random");
  command.add_option("--zero", training.zero_stage, "train: ZeRO stage over the data-parallel ranks")
      .check_range(0, 3)
      .show_default();
}

}  // namespace

void add_bench_command(Command program, CommandContext& context) {
  auto options = std::make_shared<BenchCommand>();
  Command command = program.add_subcommand("bench", "Measures speed against what the machine allows");
  command.footer(kFooter);
  command
      .add_option("KIND", options->kind, "What to measure: load, prefill, decode, tokenize, encode, seq2seq or train")
      .required()
      .check_one_of({"load", "prefill", "decode", "tokenize", "encode", "seq2seq", "train"});
  add_model_options(command, options->options.common);
  command.add_option("--batch", options->options.workload.batch, "Sequences at a time")
      .check_range(1, int64_t{1} << 16)
      .show_default();
  command.add_option("--prompt-tokens", options->prompt_tokens, "Of random ids (0: 512 for prefill, 32 for decode)")
      .check_range(0, int64_t{1} << 24);
  command.add_option("--new-tokens", options->new_tokens, "Of each answer (0: 128 in decode, 64 in seq2seq)")
      .check_range(0, int64_t{1} << 24);
  command.add_option("--source", options->options.source_tokens, "seq2seq: tokens of each source, of random ids")
      .check_range(1, int64_t{1} << 20)
      .show_default();
  command.add_option("--beams", options->options.num_beams, "seq2seq: beams a source (1: greedy)")
      .check_range(1, int64_t{1} << 10)
      .show_default();
  command
      .add_option("--repetitions",
                  options->options.repetitions,
                  "The median counts (0: 1 for load, 5 for encode, seq2seq and train, else 3)")
      .check_range(0, 1000);
  command.add_option("--as-rank", options->as_rank, "load: as rank R of N would, R/N; also checks what it promises");
  add_sampling_options(command, options->options.sampling);
  add_training_options(command, options->options.training);
  command.add_option(
      "--text",
      options->options.text_file,
      "tokenize: the text (default: 1 MB of random tokens); encode: texts, one a line (default: random ids)");
  command.add_flag("--json", options->prints_json, "Prints a JSON object");
  add_compute_options(command, options->options.common);
  add_output_options(command, options->options.common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_bench(*options, session); }; });
}

}  // namespace weft
