// What the built program says of command lines, places and files that cannot be used, and of an answer that does not
// get out.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "support/command_test.h"

namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using weft::testing::Outcome;

class CommandLine : public weft::testing::TinyLlamaTest {
 protected:
  static int num_lines(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }
};

TEST_F(CommandLine, NamesWhatIsSpeltNearly) {
  expect_one_line_error(weft("genrate x"), 2, HasSubstr("did you mean generate?"));
  expect_one_line_error(
      weft("generate --model tiny_llama --temprature 1 x"), 2, HasSubstr("did you mean --temperature?"));
  expect_one_line_error(weft("generate --model tiny_llama --max-new-token=1 x"), 2, HasSubstr("--max-new-tokens?"));
  expect_one_line_error(weft("frobnicate"), 2, Not(HasSubstr("did you mean")));
  expect_one_line_error(
      weft("launch -n 2 generate --model tiny_llama x"), 2, HasSubstr("stands after --, as in: weft launch -n 2 --"));
}

TEST_F(CommandLine, OptionsOfTrainingNeedTraining) {
  for (const char* option : {"--lora 16", "--zero 3", "--optimizer lion", "--recompute block", "--set train.steps=1"}) {
    expect_one_line_error(weft(fmt::format("plan -m tiny_llama {}", option)), 2, HasSubstr("--train"));
  }
}

TEST_F(CommandLine, AnAnswerThatDoesNotGetOutIsAnError) {
  for (const char* command : {"generate --model tiny_llama --quiet --ids 1 --max-new-tokens 2",
                              "generate --model tiny_llama --quiet --ids 1 --max-new-tokens 2 --json",
                              "tokenize --tokenizer tiny_llama --text fox",
                              "plan -m tiny_llama",
                              "config --explain",
                              "--help"}) {
    expect_one_line_error(shell(fmt::format("WEFT {} >/dev/full", command)), 3, HasSubstr("standard output"));
  }
}

TEST_F(CommandLine, RanksEndWithTheirOwnLineAlone) {
  Outcome outcome = weft("launch -n 2 -- generate --model tiny_llama --quiet --ids '1 2 160'");
  EXPECT_EQ(outcome.exit_code, 3);
  // The first is the line that is run.
  EXPECT_EQ(num_lines(outcome.err), 2) << outcome.err;
}

TEST_F(CommandLine, ASessionThatCannotBeSavedIsSaidFirst) {
  std::string generate = "generate --model tiny_llama --dtype f32 --quiet --ids ";
  expect_one_line_error(weft(generate + "1 --save-session nowhere/a.session"),
                        3,
                        HasSubstr("--save-session nowhere/a.session: nowhere: No such file"));
  expect_one_line_error(weft(generate + "1 --save-session tiny_llama"), 3, HasSubstr("is a folder"));
  EXPECT_EQ(weft(generate + "1 --max-new-tokens 2 --save-session a.session").exit_code, 0);
  expect_one_line_error(weft(generate + "2 --max-new-tokens 2 --session a.session --quantize int8"),
                        3,
                        HasSubstr("of another model, --dtype or --quantize"));
}

TEST_F(CommandLine, FoldersThatAreNoModelAreToldApart) {
  fs::create_directory(folder_ / "adapter");
  std::ofstream(folder_ / "adapter/adapter_config.json") << "{}";
  expect_one_line_error(weft("generate --model adapter --quiet x"), 3, HasSubstr("the folder with --adapter"));
  fs::create_directory(folder_ / "bare");
  for (const char* name : {"model.safetensors", "tokenizer_config.json"}) {
    fs::create_symlink(fs::canonical(model_ / name), folder_ / "bare" / name);
  }
  expect_one_line_error(weft("generate --model bare --quiet x"), 3, HasSubstr("bare/config.json: cannot be opened"));
  std::ofstream(folder_ / "bare/config.json") << "{\"a\": ";
  expect_one_line_error(
      weft("generate --model bare --quiet x"),
      3,
      AllOf(HasSubstr("bare/config.json: not valid JSON: parse error"), Not(HasSubstr("json.exception"))));
  expect_one_line_error(weft("tokenize --tokenizer tiny_llama --jsonl", "{\"txt\": \"a\"}\n"),
                        3,
                        AllOf(HasSubstr("line 1: expected {\"text\""), Not(HasSubstr("json.exception"))));
}

}  // namespace
