#include "models/task_head.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/model_config.h"

namespace weft {
namespace {

using Kind = TaskHead::Kind;

struct KindNames {
  Kind kind;
  std::string_view name;
  std::string_view architecture;
};

constexpr std::array kKinds = {
    KindNames{Kind::none, "none", ""},
    KindNames{Kind::sequence_classification, "sequence_classification", "ForSequenceClassification"},
    KindNames{Kind::token_classification, "token_classification", "ForTokenClassification"},
    KindNames{Kind::crf, "crf", "ForTokenClassification"},
    KindNames{Kind::question_answering, "question_answering", "ForQuestionAnswering"},
    KindNames{Kind::global_pointer, "global_pointer", ""},
    KindNames{Kind::relations, "relations", ""},
};

/// transformers' values of "problem_type".
constexpr const char* kMultilabelProblem = "multi_label_classification";
constexpr const char* kSingleLabelProblem = "single_label_classification";

Kind read_kind(const ModelConfig& config) {
  if (config.has("task_head")) {
    std::string name = config.string_or("task_head", "");
    for (const KindNames& kind : kKinds) {
      if (kind.name == name) return kind.kind;
    }
    fail_input("{}: 'task_head' is {}, which Weft does not know", config.path(), printable(name));
  }
  std::vector<std::string> architectures = config.strings("architectures");
  for (const KindNames& kind : kKinds) {
    if (kind.architecture.empty() || architectures.empty()) continue;
    if (architectures[0].ends_with(kind.architecture)) return kind.kind;
  }
  return Kind::sequence_classification;
}

std::vector<std::string> read_labels(const ModelConfig& config) {
  std::vector<std::string> labels;
  for (int64_t id = 0; config.has(fmt::format("id2label.{}", id)); ++id) {
    labels.push_back(config.string_or(fmt::format("id2label.{}", id), ""));
  }
  return labels;
}

}  // namespace

std::string_view task_head_name(Kind kind) {
  return kKinds[static_cast<size_t>(kind)].name;
}

std::string_view task_head_architecture(Kind kind) {
  return kKinds[static_cast<size_t>(kind)].architecture;
}

TaskHead read_task_head(const ModelConfig& config) {
  TaskHead head{.kind = read_kind(config), .labels = read_labels(config)};
  head.dropout = static_cast<float>(config.number_or("classifier_dropout", 0, 0, 0.999));
  head.pointer_size = config.size_or("pointer_size", 64, 4096);
  if (head.pointer_size % 2 != 0) {
    fail_input("{}: 'pointer_size' is {}, expected an even number", config.path(), head.pointer_size);
  }
  head.multilabel =
      head.kind == Kind::sequence_classification && config.string_or("problem_type", "") == kMultilabelProblem;
  head.transition_scale = config.number_or("transition_scale", 1, 1e-6, 1e6);
  head.is_new = config.boolean_or("new_task_head", false);
  head.begins_anew = config.boolean_or("task_head_begins_anew", false);
  return head;
}

bool has_placeholder_labels(const TaskHead& head) {
  for (size_t i = 0; i < head.labels.size(); ++i) {
    if (head.labels[i] != fmt::format("LABEL_{}", i)) return false;
  }
  return true;
}

std::string task_head_overrides(const TaskHead& head) {
  nlohmann::ordered_json overrides = {
      {"task_head", task_head_name(head.kind)}, {"new_task_head", true}, {"classifier_dropout", head.dropout}};
  for (size_t i = 0; i < head.labels.size(); ++i) {
    overrides["id2label"][std::to_string(i)] = head.labels[i];
    overrides["label2id"][head.labels[i]] = i;
  }
  if (head.begins_anew) overrides["task_head_begins_anew"] = true;
  if (head.kind == Kind::global_pointer || head.kind == Kind::relations) overrides["pointer_size"] = head.pointer_size;
  if (head.kind == Kind::sequence_classification) {
    overrides["problem_type"] = head.multilabel ? kMultilabelProblem : kSingleLabelProblem;
  }
  if (head.kind == Kind::crf) overrides["transition_scale"] = head.transition_scale;
  return overrides.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace weft
