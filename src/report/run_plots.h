// Which curves a report shows.
#pragma once

#include <span>
#include <vector>

#include "report/plot.h"
#include "report/run_record.h"

namespace weft {

/// Loss, learning rate, gradient norm, throughput and memory over steps.
std::vector<Plot> plots_of_run(const RunRecord& run);

/// The same with a curve a run, and the loss also over tokens and over time.
std::vector<Plot> plots_of_comparison(std::span<const RunRecord> runs);

}  // namespace weft
