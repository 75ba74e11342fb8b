// weft report: what training runs wrote, as numbers and as a page to look at.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/model_summary.h"
#include "launcher/mpi_session.h"
#include "report/report_page.h"
#include "report/run_record.h"
#include "report/text_files.h"
#include "report/training_progress.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft report runs/bible-lora
  weft report runs/bible-lora runs/bible-full --out comparison.html
  weft report runs/* --json

DIR is output.directory of a `weft train` run; it may still be running. One run: its report.html is written anew. Several:
comparison.html with the curves over each other. Both open in a browser without any network.)";

struct ReportCommand {
  CommonOptions common;
  std::vector<std::string> directories;
  std::string out;
  bool prints_json = false;
};

/// null where there is none.
Json loss_json(const std::optional<double>& loss) {
  return loss ? Json(*loss) : Json(nullptr);
}

Json describe(const RunRecord& run) {
  RunSummary summary = summarise(run);
  Json metrics = Json::object();
  for (const auto& [name, value] : summary.last_evaluation_metrics) metrics[name] = value;
  return {{"run", run.name},
          {"directory", run.directory},
          {"step", summary.last_step},
          {"tokens_seen", summary.tokens_seen},
          {"skipped_steps", summary.skipped_steps},
          {"loss", loss_json(summary.last_loss)},
          {"best_loss", loss_json(summary.best_loss)},
          {"best_step", summary.best_step},
          {"evaluation_loss", loss_json(summary.last_evaluation_loss)},
          {"best_evaluation_loss", loss_json(summary.best_evaluation_loss)},
          {"best_evaluation_step", summary.best_evaluation_step},
          {"evaluation_metrics", metrics},
          {"tokens_per_second", summary.median_tokens_per_second},
          {"bound_fraction", summary.median_bound_fraction},
          {"training_seconds", summary.training_seconds},
          {"memory_bytes", summary.memory_bytes},
          {"unused_lines", run.unused_lines}};
}

void print_loss(const char* what,
                const std::optional<double>& last,
                const std::optional<double>& best,
                int64_t best_step) {
  if (last && best) fmt::print("{:<12}{:.4g}, best {:.4g} at step {}\n", what, *last, *best, best_step);
}

void print_text(const RunRecord& run) {
  RunSummary summary = summarise(run);
  fmt::print("{:<12}{}\n", "run", printable(run.name, 400));
  fmt::print("{:<12}{}{}\n",
             "steps",
             summary.last_step,
             summary.skipped_steps > 0 ? fmt::format(", {} skipped", summary.skipped_steps) : "");
  print_loss("loss", summary.last_loss, summary.best_loss, summary.best_step);
  print_loss("held out", summary.last_evaluation_loss, summary.best_evaluation_loss, summary.best_evaluation_step);
  for (const auto& [name, value] : summary.last_evaluation_metrics) fmt::print("{:<12}{:.4f}\n", name, value);
  if (summary.tokens_seen > 0) fmt::print("{:<12}{}\n", "tokens", format_count(summary.tokens_seen));
  if (summary.median_tokens_per_second > 0) {
    fmt::print("{:<12}{:.0f} tokens/s{}\n",
               "speed",
               summary.median_tokens_per_second,
               summary.median_bound_fraction > 0
                   ? fmt::format(", {:.0f}% of the machine's bound", summary.median_bound_fraction * 100)
                   : "");
  }
  fmt::print("{:<12}{}\n", "time", format_duration(summary.training_seconds));
  if (summary.memory_bytes > 0) fmt::print("{:<12}{}\n", "memory", format_bytes(summary.memory_bytes));
}

/// Where the page goes: --out, else beside the run's files or, for several runs, where the command was started.
std::string page_path(const ReportCommand& options) {
  if (!options.out.empty()) return options.out;
  return options.directories.size() == 1 ? options.directories[0] + "/report.html" : "comparison.html";
}

void write_page(const std::string& path, const std::string& page) {
  std::string problem = write_file_atomically(path, page);
  if (!problem.empty())
    fail_input("{} can't be written: {}; choose another place by --out", printable(path, 400), problem);
  log::info("wrote {}", printable(path, 400));
}

ExitCode run_report(const ReportCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.rank() != 0) return ExitCode::ok;
  std::vector<RunRecord> runs;
  for (const std::string& directory : options.directories) runs.push_back(read_run(directory));
  name_apart(runs);
  write_page(page_path(options), runs.size() == 1 ? render_run_report(runs[0], false) : render_comparison(runs));
  for (size_t i = 0; i < runs.size(); ++i) {
    if (options.prints_json) {
      fmt::print("{}\n", describe(runs[i]).dump(-1, ' ', false, Json::error_handler_t::replace));
    } else {
      if (i > 0) fmt::print("\n");
      print_text(runs[i]);
    }
  }
  return ExitCode::ok;
}

}  // namespace

void add_report_command(Command program, CommandContext& context) {
  auto options = std::make_shared<ReportCommand>();
  Command command = program.add_subcommand("report", "Sums up training runs and draws their curves");
  command.footer(kFooter);
  command.add_option("DIR", options->directories, "Directories of runs").required();
  command.add_option("--out", options->out, "The page to write; default DIR/report.html or ./comparison.html");
  command.add_flag("--json", options->prints_json, "Prints a JSON object a run");
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_report(*options, session); }; });
}

}  // namespace weft
