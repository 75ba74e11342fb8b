// Tests of `weft train` on tasks: runs on a mesh of ranks and what their metrics say.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/command_test.h"

namespace weft::testing {

class TaskRuns : public CommandTest {
 protected:
  /// Trains by a config's text into the folder `run`.
  Outcome train_config(const std::string& config,
                       const std::string& run,
                       int num_ranks,
                       const std::string& flags) const {
    std::ofstream(folder_ / "run.textproto") << config;
    return weft_on_ranks(
        num_ranks, fmt::format("train run.textproto --quiet --threads 1 --set output.directory={} {}", run, flags));
  }

  /// Lines of a type of a run's metrics.
  std::vector<nlohmann::json> metrics(const std::string& run, const std::string& type) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(folder_ / run / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      nlohmann::json parsed = nlohmann::json::parse(line);
      if (parsed.at("type") == type) lines.push_back(std::move(parsed));
    }
    return lines;
  }

  void expect_same_run(const std::string& run, const std::string& reference) const {
    std::vector<nlohmann::json> actual = metrics(run, "step"), expected = metrics(reference, "step");
    ASSERT_EQ(actual.size(), expected.size()) << run;
    for (size_t i = 0; i < expected.size(); ++i) {
      double loss = expected[i].at("loss"), norm = expected[i].at("grad_norm");
      EXPECT_NEAR(actual[i].at("loss").get<double>(), loss, 2e-4 * std::max(1.0, loss)) << run << " step " << i;
      EXPECT_NEAR(actual[i].at("grad_norm").get<double>(), norm, 2e-3 * std::max(1.0, norm)) << run << " step " << i;
    }
  }
};

}  // namespace weft::testing
