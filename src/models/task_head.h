// What a task puts on an encoder: a layer of its own, its labels, and how a model's config tells of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

class ModelConfig;

struct TaskHead {
  enum class Kind : uint8_t {
    none,
    sequence_classification,  // a label a text: classifier [labels, hidden] on the pooler's vector or the first token
    token_classification,     // a label a token: classifier [labels, hidden]
    crf,                      // the same with transitions between labels: crf.transitions [labels, labels]
    question_answering,       // start and end of an answer: qa_outputs [2, hidden]
    global_pointer,  // a score for each label, start and end: global_pointer.dense [labels · 2 · size, hidden]
    /// GPLinker: pointers to subjects and objects, to the first tokens of both and to the last ones for each label:
    /// relations.dense [(2 + 2 · labels) · 2 · size, hidden].
    relations,
  };
  Kind kind = Kind::none;
  std::vector<std::string> labels = {};
  bool multilabel = false;      // sequence_classification: any number of labels a text, those with a logit above 0
  float dropout = 0;            // before the layer
  int64_t pointer_size = 64;    // global_pointer, relations: of a query or key, even
  double transition_scale = 1;  // crf: transitions are this times what is stored, so that they learn as much faster
  bool is_new = false;          // asked for by a task: new where the checkpoint has none
  bool begins_anew = false;     // new even where the checkpoint has one, which is passed over

  friend bool operator==(const TaskHead&, const TaskHead&) = default;
};

/// "none", "sequence_classification", …: the config's "task_head".
std::string_view task_head_name(TaskHead::Kind kind);

/// The head that a config tells of: by Weft's own key "task_head", else by the name of transformers' class
/// ("BertForTokenClassification"). Labels are id2label in the order of the ids. Throws Error(bad_input) for values that
/// cannot be.
TaskHead read_task_head(const ModelConfig& config);

/// A JSON object with the keys that read_task_head reads, to take the place of a config's (ModelOptions::overrides).
std::string task_head_overrides(const TaskHead& head);

/// Whether the labels are transformers' stand-ins for names that nobody gave: "LABEL_0", "LABEL_1", …
bool has_placeholder_labels(const TaskHead& head);

/// The end of transformers' class name for a model with such a head: "ForSequenceClassification"; empty where there is
/// none.
std::string_view task_head_architecture(TaskHead::Kind kind);

}  // namespace weft
