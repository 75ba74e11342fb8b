#include "report/report_page.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "report/html_text.h"
#include "report/page_parts.h"
#include "report/plot.h"
#include "report/run_plots.h"
#include "report/training_progress.h"

namespace weft {
namespace {

constexpr size_t kMaxEventsShown = 200;
constexpr size_t kMaxSamplesShown = 40;
constexpr size_t kMaxTextShown = 4000;

std::string format_loss(const std::optional<double>& loss) {
  return loss ? fmt::format("{:.4g}", *loss) : std::string("–");
}

std::string format_gigabytes(int64_t bytes) {
  return bytes > 0 ? fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9) : std::string("–");
}

std::string format_rate(double tokens_per_second) {
  bool is_known = tokens_per_second > 0 && tokens_per_second < 1e15;
  return is_known ? group_thousands(std::llround(tokens_per_second)) : std::string("–");
}

std::string format_time(double seconds_since_1970) {
  if (!(seconds_since_1970 > 0 && seconds_since_1970 < 4e9)) return {};
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::localtime(static_cast<std::time_t>(seconds_since_1970)));
}

std::string card(std::string_view label, std::string_view value, std::string_view detail = {}) {
  return fmt::format(
      R"(<div><span class="dim">{}</span><b>{}</b><span class="dim">{}</span></div>)", label, value, detail);
}

std::string render_cards(const RunSummary& summary) {
  std::string cards = card("Steps",
                           group_thousands(summary.last_step),
                           summary.skipped_steps > 0 ? fmt::format("{} skipped", summary.skipped_steps) : "");
  cards += card("Loss",
                format_loss(summary.last_loss),
                summary.best_loss ? fmt::format("best {:.4g} at {}", *summary.best_loss, summary.best_step) : "");
  if (summary.last_evaluation_loss) {
    cards += card("Held-out loss",
                  format_loss(summary.last_evaluation_loss),
                  fmt::format("best {:.4g} at {}", *summary.best_evaluation_loss, summary.best_evaluation_step));
    const auto& metrics = summary.last_evaluation_metrics;
    for (const auto& [name, value] : metrics) cards += card("Held-out " + name, fmt::format("{:.4f}", value));
    if (metrics.empty()) {
      cards += card("Held-out perplexity", fmt::format("{:.4g}", std::exp(*summary.last_evaluation_loss)));
    }
  }
  bool has_bound = summary.median_bound_fraction > 0;
  cards += card("Tokens a second",
                format_rate(summary.median_tokens_per_second),
                has_bound ? fmt::format("median; {:.0f}% of bound", summary.median_bound_fraction * 100) : "median");
  cards += card("Tokens", group_thousands(summary.tokens_seen));
  cards += card("Training time", format_duration(summary.training_seconds), "without evaluation and saving");
  cards += card("Peak memory", format_gigabytes(summary.memory_bytes), "largest rank");
  return "<div class=\"cards\">" + cards + "</div>\n";
}

std::string render_events(const std::vector<RunEvent>& events) {
  if (events.empty()) return {};
  std::string rows;
  size_t first = events.size() > kMaxEventsShown ? events.size() - kMaxEventsShown : 0;
  for (size_t i = events.size(); i-- > first;) {
    const RunEvent& event = events[i];
    rows += fmt::format("<tr><td class=\"number\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                        event.step,
                        format_time(event.time),
                        escape_html(event.kind, 80),
                        escape_html(event.text, kMaxTextShown));
  }
  std::string omitted =
      first > 0 ? fmt::format("<p class=\"dim\">{} earlier ones are in events.jsonl.</p>", first) : "";
  return "<h2>Events</h2>\n<div class=\"scroll\"><table><tr><th class=\"number\">Step</th><th>Time</th><th>Kind</th>"
         "<th></th></tr>\n" +
         rows + "</table></div>" + omitted + "\n";
}

std::string render_samples(const std::vector<RunSample>& samples) {
  if (samples.empty()) return {};
  std::string body = "<h2>Samples</h2>\n";
  size_t first = samples.size() > kMaxSamplesShown ? samples.size() - kMaxSamplesShown : 0;
  for (size_t i = samples.size(); i-- > first;) {
    body += fmt::format(R"(<div class="sample"><span class="dim">step {}</span><b>{}</b>{}</div>)"
                        "\n",
                        samples[i].step,
                        escape_html(samples[i].prompt, kMaxTextShown),
                        escape_html(samples[i].text, kMaxTextShown));
  }
  if (first > 0) body += fmt::format("<p class=\"dim\">{} earlier ones are in samples.jsonl.</p>\n", first);
  return body;
}

std::string render_config(const RunRecord& run) {
  if (run.config.empty()) return {};
  return fmt::format("<h2>Config</h2>\n<details><summary>{}</summary><pre>{}</pre></details>\n",
                     kRunConfigFile,
                     escape_html(run.config));
}

std::string render_plots(const std::vector<Plot>& plots) {
  std::string figures;
  for (const Plot& plot : plots) figures += draw_plot(plot);
  return "<div class=\"plots\">" + figures + "</div>\n";
}

std::string number_cell(std::string_view text) {
  return fmt::format("<td class=\"number\">{}</td>", text);
}

std::string render_comparison_row(const RunRecord& run, size_t index) {
  RunSummary summary = summarise(run);
  std::string row =
      fmt::format(R"(<tr><td><span class="key c{}">{}</span></td>)", index % 8, escape_html(run.name, 200));
  row += number_cell(group_thousands(summary.last_step));
  row += number_cell(group_thousands(summary.tokens_seen));
  row += number_cell(format_loss(summary.last_loss));
  row += number_cell(format_loss(summary.best_loss));
  row += number_cell(format_loss(summary.last_evaluation_loss));
  row += number_cell(format_loss(summary.best_evaluation_loss));
  row += number_cell(format_rate(summary.median_tokens_per_second));
  row += number_cell(format_duration(summary.training_seconds));
  row += number_cell(format_gigabytes(summary.memory_bytes));
  return row + "</tr>\n";
}

std::string render_comparison_table(std::span<const RunRecord> runs) {
  std::string head = "<tr><th>Run</th>";
  for (const char* column :
       {"Steps", "Tokens", "Loss", "Best loss", "Held-out loss", "Best held-out", "Tokens/s", "Time", "Memory"}) {
    head += fmt::format("<th class=\"number\">{}</th>", column);
  }
  std::string rows;
  for (size_t i = 0; i < runs.size(); ++i) rows += render_comparison_row(runs[i], i);
  return "<div class=\"scroll\"><table>" + head + "</tr>\n" + rows + "</table></div>\n";
}

/// Repeated fields joined; by the order of the first config that has them.
struct ConfigFields {
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::string>> values;  // a value a run
};

ConfigFields collect_fields(std::span<const RunRecord> runs) {
  ConfigFields fields;
  for (size_t i = 0; i < runs.size(); ++i) {
    for (const auto& [path, value] : flatten_config(runs[i].config)) {
      auto [entry, is_new] = fields.values.try_emplace(path, runs.size());
      if (is_new) fields.order.push_back(path);
      std::string& all = entry->second[i];
      all += (all.empty() ? "" : ", ") + value;
    }
  }
  return fields;
}

std::string render_config_differences(std::span<const RunRecord> runs) {
  ConfigFields fields = collect_fields(runs);
  std::string rows;
  for (const std::string& path : fields.order) {
    const std::vector<std::string>& values = fields.values[path];
    bool is_same = std::all_of(values.begin(), values.end(), [&](const auto& value) { return value == values[0]; });
    if (is_same) continue;
    rows += fmt::format("<tr><td>{}</td>", escape_html(path, 200));
    for (const std::string& value : values) rows += fmt::format("<td>{}</td>", escape_html(value, 400));
    rows += "</tr>\n";
  }
  if (rows.empty()) return {};
  std::string head;
  for (const RunRecord& run : runs) head += fmt::format("<th>{}</th>", escape_html(run.name, 200));
  return "<h2>Differences of the configs</h2>\n<div class=\"scroll\"><table><tr><th>Field</th>" + head + "</tr>\n" +
         rows + "</table></div>\n";
}

std::string unused_lines_note(const RunRecord& run) {
  if (run.unused_lines == 0) return {};
  return fmt::format("<p class=\"dim\">{} lines of metrics.jsonl could not be used.</p>\n", run.unused_lines);
}

}  // namespace

std::string render_run_report(const RunRecord& run, bool is_running) {
  std::string body = fmt::format("<h1>{}</h1><span class=\"dim\">{}{}</span>\n",
                                 escape_html(run.name, 200),
                                 is_running ? "running; " : "",
                                 escape_html(run.directory, 1000));
  body += render_cards(summarise(run));
  body += render_plots(plots_of_run(run));
  body += unused_lines_note(run) + render_samples(run.samples) + render_events(run.events) + render_config(run);
  return render_page(run.name, body, is_running);
}

std::string render_comparison(std::span<const RunRecord> runs) {
  std::string body = fmt::format("<h1>{} runs</h1>\n<p></p>\n", runs.size());
  body += render_comparison_table(runs) + "<p></p>\n";
  body += render_plots(plots_of_comparison(runs)) + render_config_differences(runs);
  return render_page(fmt::format("{} runs", runs.size()), body, false);
}

void name_apart(std::span<RunRecord> runs) {
  std::map<std::string, int> counts;
  for (const RunRecord& run : runs) ++counts[run.name];
  for (RunRecord& run : runs) {
    if (counts[run.name] > 1) run.name = run.directory;
  }
}

}  // namespace weft
