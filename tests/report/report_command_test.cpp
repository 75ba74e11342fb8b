// weft report as it is typed.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "report/temporary_directory.h"
#include "support/paths.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class ReportCommand : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* run : {"lora", "full"}) {
      std::filesystem::create_directory(directory_.path(run));
      directory_.write(std::string(run) + "/metrics.jsonl",
                       R"({"type":"step","step":1,"loss":3.5,"tokens":100,"tokens_seen":100,"seconds":0.5}
{"type":"step","step":2,"loss":3.25,"tokens":100,"tokens_seen":200,"seconds":0.5}
{"type":"evaluation","step":2,"loss":3.0}
)");
    }
  }

  /// Runs `weft report ARGUMENTS` in the directory of the runs and returns its exit code.
  int report(const std::string& arguments) const {
    std::string line =
        fmt::format("cd '{}' && timeout 60 '{}' report {} >out 2>err", directory_.path(), weft_binary(), arguments);
    int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  TemporaryDirectory directory_;
};

TEST_F(ReportCommand, one_run_is_summed_up_and_its_page_is_written) {
  ASSERT_EQ(report("lora"), 0) << directory_.read("err");
  EXPECT_THAT(directory_.read("out"),
              AllOf(HasSubstr("3.25, best 3.25 at step 2"), HasSubstr("200 tokens/s"), HasSubstr("held out")));
  EXPECT_THAT(directory_.read("lora/report.html"), StartsWith("<!DOCTYPE html>"));
}

TEST_F(ReportCommand, json_has_an_object_a_run) {
  ASSERT_EQ(report("lora full/ --json --quiet"), 0) << directory_.read("err");
  EXPECT_EQ(directory_.read("err"), "");
  std::vector<std::string> lines = directory_.read_lines("out");
  ASSERT_EQ(lines.size(), 2u);
  json full = json::parse(lines[1]);
  EXPECT_EQ(full["run"], "full");
  EXPECT_EQ(full["best_loss"], 3.25);
  EXPECT_EQ(full["evaluation_loss"], 3.0);
  EXPECT_THAT(directory_.read("comparison.html"), HasSubstr("2 runs"));
}

TEST_F(ReportCommand, what_cannot_be_read_or_written_is_one_line_and_exit_code_3) {
  for (const char* arguments : {"nowhere", "lora nowhere", ".", "lora --out nowhere/page.html"}) {
    EXPECT_EQ(report(arguments), 3) << arguments;
    std::vector<std::string> lines = directory_.read_lines("err");
    ASSERT_EQ(lines.size(), 1u) << arguments;
    EXPECT_THAT(lines[0], StartsWith("weft: error: ")) << arguments;
    EXPECT_EQ(directory_.read("out"), "") << arguments;
  }
}

TEST_F(ReportCommand, a_name_is_needed) {
  EXPECT_EQ(report(""), 2);
  EXPECT_THAT(directory_.read("err"), HasSubstr("DIR"));
}

}  // namespace
}  // namespace weft
