// Learning rates by step. Steps count from 0 and are updates, not micro-batches.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace weft {

enum class ScheduleKind : uint8_t { constant, cosine, linear, polynomial, piecewise_linear };

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  double learning_rate = 1e-4;  // the peak
  int64_t warmup_steps = 0;     // linear from 0: step s has learning_rate · s / warmup_steps (transformers' rule)
  int64_t total_steps = 1;
  double minimum_factor = 0;  // the end of cosine, linear and polynomial, as a part of the peak
  double power = 1;           // of polynomial
  std::vector<std::pair<int64_t, double>> points = {};  // piecewise_linear: {step, factor}, bert4keras' rule
};

/// cosine: after warm-up lr·(min + (1 − min)·½(1 + cos π·p)), p = (s − warmup) / (total − warmup) up to 1.
double learning_rate_at(const ScheduleOptions& schedule, int64_t step);

}  // namespace weft
