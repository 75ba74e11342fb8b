#include "launcher/evaluation_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tasks/rank_values.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

/// Labels of a matrix that a terminal has room for.
constexpr size_t kMaxMatrix = 12;

bool has_loss(const EvaluationReport& report) {
  return !std::isnan(report.loss);
}

std::string label_table(const EvaluationDetails& details) {
  size_t width = 5;
  for (const std::string& name : details.names) width = std::max(width, name.size());
  std::string text =
      fmt::format("{:<{}}  {:>9}  {:>9}  {:>9}  {:>9}\n", "label", width, "precision", "recall", "f1", "support");
  for (size_t i = 0; i < details.labels.size(); ++i) {
    const LabelCounts& label = details.labels[i];
    F1 f1 = f1_of(label.right, label.predicted, label.expected);
    text += fmt::format("{:<{}}  {:>9.4f}  {:>9.4f}  {:>9.4f}  {:>9}\n",
                        details.names[i],
                        width,
                        f1.precision,
                        f1.recall,
                        f1.f1,
                        static_cast<int64_t>(label.expected));
  }
  return text;
}

std::string confusion_table(const EvaluationDetails& details) {
  if (details.confusion.empty() || details.confusion.size() > kMaxMatrix) return {};
  size_t width = 8;
  for (const std::string& name : details.names) width = std::max(width, name.size());
  std::string text = fmt::format("{:<{}}", "expected", width);
  for (const std::string& name : details.names) text += fmt::format("  {:>8}", name);
  text += "  (predicted)\n";
  for (size_t i = 0; i < details.confusion.size(); ++i) {
    text += fmt::format("{:<{}}", details.names[i], width);
    for (size_t j = 0; j < details.confusion[i].size(); ++j) {
      size_t column = std::max<size_t>(8, details.names[j].size());
      text += fmt::format("  {:>{}}", static_cast<int64_t>(details.confusion[i][j]), column);
    }
    text += "\n";
  }
  return text;
}

}  // namespace

std::string report_json(const EvaluationReport& report) {
  Json object = {{"model", report.model}, {"task", report.task}, {"examples", report.examples}};
  if (has_loss(report)) object["loss"] = report.loss;
  if (report.tokens > 0) {
    object["perplexity"] = std::exp(report.loss);
    object["tokens"] = report.tokens;
  }
  object["metrics"] = Json::object();
  for (const Metric& metric : report.metrics) object["metrics"][metric.name] = metric.value;
  const EvaluationDetails& details = report.details;
  for (size_t i = 0; i < details.labels.size(); ++i) {
    const LabelCounts& label = details.labels[i];
    F1 f1 = f1_of(label.right, label.predicted, label.expected);
    object["labels"].push_back({{"label", details.names[i]},
                                {"precision", f1.precision},
                                {"recall", f1.recall},
                                {"f1", f1.f1},
                                {"support", static_cast<int64_t>(label.expected)}});
  }
  if (!details.confusion.empty()) {
    Json counts = Json::array();
    for (const std::vector<double>& row : details.confusion) {
      counts.push_back(std::vector<int64_t>(row.begin(), row.end()));
    }
    object["confusion"] = {{"labels", details.names}, {"counts", counts}};
  }
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string report_text(const EvaluationReport& report) {
  std::string text;
  auto add = [&](const std::string& name, const std::string& value) {
    text += fmt::format("{:<22} {}\n", name, value);
  };
  add("examples", std::to_string(report.examples));
  if (report.tokens > 0) add("tokens", std::to_string(report.tokens));
  if (has_loss(report)) add("loss", fmt::format("{:.6f}", report.loss));
  if (report.tokens > 0) add("perplexity", fmt::format("{:.4f}", std::exp(report.loss)));
  for (const Metric& metric : report.metrics) add(metric.name, fmt::format("{:.4f}", metric.value));
  if (!report.details.labels.empty()) text += "\n" + label_table(report.details);
  std::string confusion = confusion_table(report.details);
  return confusion.empty() ? text : text + "\n" + confusion;
}

}  // namespace weft
