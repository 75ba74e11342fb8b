// What `weft evaluate` prints.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tasks/objective.h"

namespace weft {

struct EvaluationReport {
  std::string model, task;
  int64_t examples = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();  // NaN: not of this task
  int64_t tokens = 0;                                      // whose mean the loss is; 0: it is that of examples
  std::vector<Metric> metrics;
  EvaluationDetails details;  // with all names
};

/// One JSON object.
std::string report_json(const EvaluationReport& report);

/// A line a number, then a table of the labels, and of few the confusion matrix.
std::string report_text(const EvaluationReport& report);

}  // namespace weft
