// Runs as self-contained HTML pages: no network, no library, readable without scripts.
#pragma once

#include <span>
#include <string>

#include "report/run_record.h"

namespace weft {

/// report.html of one run. `is_running`: the page reloads itself every 30 s.
std::string render_run_report(const RunRecord& run, bool is_running);

/// Several runs: a table, curves over each other, the fields of the configs that differ.
std::string render_comparison(std::span<const RunRecord> runs);

/// Distinct names: the directories' last parts, or the whole paths where these are the same.
void name_apart(std::span<RunRecord> runs);

}  // namespace weft
