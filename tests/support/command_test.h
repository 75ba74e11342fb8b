// Tests of the built program, each in a folder of its own.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "support/paths.h"

namespace weft::testing {

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

inline std::string contents(const std::filesystem::path& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class CommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "weft_test_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  /// Runs a line of shell in the test's folder. `WEFT` stands for the program.
  Outcome shell(std::string line, const std::string& input = {}) const {
    std::ofstream(folder_ / "in", std::ios::binary) << input;
    for (size_t place = 0; (place = line.find("WEFT", place)) != std::string::npos;) {
      line.replace(place, 4, "'" + weft_binary() + "'");
    }
    int status = std::system(fmt::format("cd '{}' && ({}) <in >out 2>err", folder_.string(), line).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(folder_ / "out"), contents(folder_ / "err")};
  }

  Outcome weft(const std::string& arguments, const std::string& input = {}) const {
    return shell("timeout 120 WEFT " + arguments, input);
  }

  /// Under mpirun.
  Outcome weft_on_ranks(int num_ranks, const std::string& arguments) const {
    if (num_ranks == 1) return weft(arguments);
    return shell(fmt::format(
        "timeout 120 mpirun --allow-run-as-root --oversubscribe --bind-to none -n {} WEFT {}", num_ranks, arguments));
  }

  /// One line on standard error and nothing else.
  static void expect_one_line_error(const Outcome& outcome,
                                    int exit_code,
                                    const ::testing::Matcher<std::string>& says) {
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_THAT(outcome.err, says);
  }

  std::filesystem::path folder_;
};

/// With a folder tiny_llama in the test's own: a model of tests/data and a tokenizer.
class TinyLlamaTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    const std::filesystem::path data = test_data();
    model_ = folder_ / "tiny_llama";
    std::filesystem::create_directory(model_);
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::create_symlink(data / "hf/llama_gqa" / name, model_ / name);
    }
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      std::filesystem::create_symlink(data / "tiny_tokenizer" / name, model_ / name);
    }
  }

  std::filesystem::path model_;
};

}  // namespace weft::testing
