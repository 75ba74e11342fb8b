#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "launcher/doctor_findings.h"

namespace weft {

using Json = nlohmann::json;

// For nlohmann's conversions, which find these by argument.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(GpuFacts, index, name, architecture, memory_bytes, free_bytes, pci_bus_id, error)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(
    AllReduceFacts, is_measured, backend, error, small_bytes, large_bytes, small_seconds, large_seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(
    CopyFacts, is_measured, error, to_device_bytes_per_second, to_host_bytes_per_second, within_bytes_per_second)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RankFacts,
                                   rank,
                                   local_rank,
                                   host,
                                   threads,
                                   binding_warning,
                                   mpi_library,
                                   host_all_reduce,
                                   device_all_reduce,
                                   num_gpus,
                                   no_gpu_reason,
                                   has_driver,
                                   gpu,
                                   gpu_error,
                                   gpus,
                                   pairs_without_peer_access,
                                   product_error,
                                   copies,
                                   nccl_version,
                                   no_nccl_reason)

namespace {

/// Names from outside (hosts, GPUs, the loader's messages) need not be UTF-8.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string write_facts(const RankFacts& facts) {
  return dump(facts);
}

RankFacts read_facts(const std::string& text) {
  return Json::parse(text).get<RankFacts>();
}

std::string_view status_name(FindingStatus status) {
  switch (status) {
    case FindingStatus::ok:
      return "ok";
    case FindingStatus::warning:
      return "warning";
    case FindingStatus::failed:
      return "FAILED";
    case FindingStatus::skipped:
      return "skipped";
  }
  return "";
}

std::string findings_text(const std::vector<Finding>& findings) {
  constexpr int kTextColumn = 32;
  std::string text;
  for (const Finding& finding : findings) {
    std::string status(status_name(finding.status));
    if (finding.status == FindingStatus::skipped) status += ":";
    text += fmt::format("{:<22} {:<8} {}\n", finding.check, status, finding.text);
    for (const std::string& line : finding.details) text += fmt::format("{:{}}{}\n", "", kTextColumn, line);
    if (!finding.advice.empty()) text += fmt::format("{:{}}to do: {}\n", "", kTextColumn, finding.advice);
  }
  return text;
}

std::string findings_json(const std::vector<Finding>& findings, const std::vector<RankFacts>& ranks) {
  Json checks = Json::array();
  for (const Finding& finding : findings) {
    checks.push_back({{"check", finding.check},
                      {"status", status_name(finding.status)},
                      {"text", finding.text},
                      {"details", finding.details},
                      {"advice", finding.advice}});
  }
  return dump(Json{{"passed", has_passed(findings)}, {"checks", checks}, {"ranks", ranks}});
}

}  // namespace weft
