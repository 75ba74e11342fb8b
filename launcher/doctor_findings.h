// What the facts of all ranks mean for a job, and what to do about it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/doctor_facts.h"

namespace weft {

enum class FindingStatus : uint8_t { ok, warning, failed, skipped };

struct Finding {
  std::string check;
  FindingStatus status = FindingStatus::ok;
  std::string text = {};
  std::vector<std::string> details = {};  // a line each
  std::string advice = {};                // what to do, where something is amiss
};

/// One finding a check, in the order in which they are printed. `ranks` are in the order of their numbers, at least
/// one.
std::vector<Finding> judge(const std::vector<RankFacts>& ranks);

/// Whether nothing failed; warnings do not count.
bool has_passed(const std::vector<Finding>& findings);

/// "ok", "warning", "FAILED", "skipped".
std::string_view status_name(FindingStatus status);

std::string findings_text(const std::vector<Finding>& findings);
/// A JSON object without line breaks: the findings and the facts behind them.
std::string findings_json(const std::vector<Finding>& findings, const std::vector<RankFacts>& ranks);

/// To send them to the other ranks.
std::string write_facts(const RankFacts& facts);
RankFacts read_facts(const std::string& text);

}  // namespace weft
