#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "report/metrics.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

std::string to_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// A JSON object with a step, else null.
Json parse_object(std::string_view line) {
  Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return nullptr;
  auto step = json.find("step");
  bool is_whole = step != json.end() && step->is_number_integer();
  if (!is_whole || (step->is_number_unsigned() && step->get<uint64_t>() > std::numeric_limits<int64_t>::max()))
    return nullptr;
  return step->get<int64_t>() < 0 ? Json(nullptr) : json;
}

double number(const Json& json, const char* name, double otherwise = 0) {
  auto found = json.find(name);
  return found != json.end() && found->is_number() ? found->get<double>() : otherwise;
}

int64_t whole_number(const Json& json, const char* name) {
  double value = number(json, name);
  bool is_count = value >= 0 && value < 9.2e18;
  return is_count ? static_cast<int64_t>(value) : 0;
}

std::string string(const Json& json, const char* name) {
  auto found = json.find(name);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

std::vector<std::pair<std::string, double>> task_metrics(const Json& json) {
  std::vector<std::pair<std::string, double>> metrics;
  auto found = json.find("metrics");
  if (found == json.end() || !found->is_object()) return metrics;
  for (const auto& [name, value] : found->items()) {
    if (value.is_number()) metrics.emplace_back(name, value.get<double>());
  }
  return metrics;
}

StepMetrics step_of(const Json& json) {
  auto skipped = json.find("skipped");
  return {.step = whole_number(json, "step"),
          .loss = number(json, "loss", kUnknown),
          .learning_rate = number(json, "learning_rate"),
          .grad_norm = number(json, "grad_norm", kUnknown),
          .tokens = whole_number(json, "tokens"),
          .tokens_seen = whole_number(json, "tokens_seen"),
          .seconds = number(json, "seconds"),
          .bound_fraction = number(json, "bound_fraction"),
          .memory_bytes = whole_number(json, "memory_bytes"),
          .skipped = skipped != json.end() && skipped->is_boolean() && skipped->get<bool>(),
          .metrics = task_metrics(json)};
}

}  // namespace

std::string to_json_line(const StepMetrics& metrics) {
  Json line = {{"type", "step"},
               {"step", metrics.step},
               {"loss", metrics.loss},
               {"learning_rate", metrics.learning_rate},
               {"grad_norm", metrics.grad_norm},
               {"tokens", metrics.tokens},
               {"tokens_seen", metrics.tokens_seen},
               {"seconds", metrics.seconds},
               {"tokens_per_second", metrics.tokens_per_second()},
               {"bound_fraction", metrics.bound_fraction},
               {"memory_bytes", metrics.memory_bytes},
               {"skipped", metrics.skipped}};
  for (const auto& [name, value] : metrics.metrics) line["metrics"][name] = value;
  return to_line(line);
}

std::string to_json_line(const EvaluationMetrics& metrics) {
  Json line = {{"type", "evaluation"},
               {"step", metrics.step},
               {"loss", metrics.loss},
               {"tokens", metrics.tokens},
               {"perplexity", metrics.perplexity}};
  for (const auto& [name, value] : metrics.metrics) line["metrics"][name] = value;
  return to_line(line);
}

std::string to_json_line(const RunEvent& event) {
  return to_line({{"step", event.step}, {"kind", event.kind}, {"text", event.text}, {"time", event.time}});
}

std::string to_json_line(const RunSample& sample) {
  return to_line({{"step", sample.step}, {"prompt", sample.prompt}, {"text", sample.text}});
}

MetricsLine parse_metrics_line(std::string_view line) {
  Json json = parse_object(line);
  if (json.is_null()) return {};
  std::string type = string(json, "type");
  if (type == "step") return step_of(json);
  if (type != "evaluation") return {};
  return EvaluationMetrics{.step = whole_number(json, "step"),
                           .loss = number(json, "loss", kUnknown),
                           .tokens = whole_number(json, "tokens"),
                           .perplexity = number(json, "perplexity", kUnknown),
                           .metrics = task_metrics(json)};
}

std::optional<RunEvent> parse_event_line(std::string_view line) {
  Json json = parse_object(line);
  if (json.is_null()) return std::nullopt;
  return RunEvent{.step = whole_number(json, "step"),
                  .kind = string(json, "kind"),
                  .text = string(json, "text"),
                  .time = number(json, "time")};
}

std::optional<RunSample> parse_sample_line(std::string_view line) {
  Json json = parse_object(line);
  if (json.is_null()) return std::nullopt;
  return RunSample{.step = whole_number(json, "step"), .prompt = string(json, "prompt"), .text = string(json, "text")};
}

}  // namespace weft
