// weft evaluate --task choices: the likelihoods that answers are chosen by.
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "support/command_test.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

class Choices : public testing::TinyLlamaTest {
 protected:
  /// Σ log p of a text's tokens behind the first.
  double log_likelihood(const std::string& text) const {
    std::ofstream(folder_ / "text.txt", std::ios::binary) << text;
    Outcome outcome = weft("perplexity --quiet --json --dtype f32 --model tiny_llama --text text.txt");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    json result = json::parse(outcome.out);
    return -result.at("nll").get<double>() * result.at("scored_tokens").get<double>();
  }

  std::vector<json> predictions() const {
    std::vector<json> lines;
    std::ifstream file(folder_ / "out.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
    return lines;
  }

  void write_questions() const {
    std::ofstream file(folder_ / "questions.jsonl");
    file << json{{"prompt", "the quick brown"}, {"choices", {"fox jumps", "dog", "the"}}, {"answer", 0}} << '\n'
         << json{{"context", "over the lazy "}, {"choices", {"dog", "quick brown fox"}}, {"answer", "dog"}} << '\n'
         << json{{"prompt", "fox"}, {"choices", {"the lazy dog", "a"}}, {"answer", 1}} << '\n';
  }
};

const std::string kCommand =
    "evaluate --quiet --json --dtype f32 --model tiny_llama --task choices --data questions.jsonl "
    "--predictions out.jsonl";

TEST_F(Choices, AreTheLikeliestAndThatByBytes) {
  write_questions();
  Outcome outcome = weft(kCommand);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  json result = json::parse(outcome.out);
  std::vector<json> lines = predictions();
  ASSERT_EQ(lines.size(), 3u);
  double right = 0, right_by_bytes = 0;
  for (const json& line : lines) {
    std::vector<double> scores = line.at("scores"), by_bytes;
    std::vector<std::string> choices = line.at("choices");
    std::string prompt = line.at("prompt");
    for (size_t i = 0; i < choices.size(); ++i) {
      std::string head = prompt.substr(0, prompt.find_last_not_of(' ') + 1);
      double expected = log_likelihood(prompt + " " + choices[i]) - log_likelihood(head);
      EXPECT_NEAR(scores[i], expected, 2e-4 * std::abs(expected)) << line << choices[i];
      by_bytes.push_back(scores[i] / static_cast<double>(choices[i].size()));
    }
    auto best = [](const std::vector<double>& values) {
      return std::max_element(values.begin(), values.end()) - values.begin();
    };
    EXPECT_EQ(line.at("prediction"), best(scores));
    EXPECT_EQ(line.at("prediction_norm"), best(by_bytes));
    right += line.at("prediction") == line.at("label") ? 1 : 0;
    right_by_bytes += line.at("prediction_norm") == line.at("label") ? 1 : 0;
  }
  EXPECT_EQ(result.at("examples"), 3);
  EXPECT_NEAR(result.at("metrics").at("acc"), right / 3, 1e-12);
  EXPECT_NEAR(result.at("metrics").at("acc_norm"), right_by_bytes / 3, 1e-12);
}

TEST_F(Choices, AreTheSameOnRanks) {
  write_questions();
  ASSERT_EQ(weft(kCommand).exit_code, 0) << contents(folder_ / "err");
  std::string one = contents(folder_ / "out"), lines = contents(folder_ / "out.jsonl");
  std::vector<json> expected = predictions();
  for (const char* flags : {"", " --tensor-parallel 2"}) {
    Outcome outcome = weft_on_ranks(2, kCommand + flags);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, one) << flags;
    std::vector<json> actual = predictions();
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(actual[i].at("prediction"), expected[i].at("prediction"));
      for (size_t c = 0; c < expected[i].at("scores").size(); ++c) {
        EXPECT_NEAR(actual[i].at("scores")[c], expected[i].at("scores")[c], 1e-3) << flags;
      }
    }
  }
}

TEST_F(Choices, ThatCannotBeAreOneClearLine) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {R"({"choices": ["a", "b"], "answer": 0})", "questions.jsonl:1: expected one of \"prompt\" and \"context\""},
      {R"({"prompt": "a", "answer": 0})", "questions.jsonl:1: has no \"choices\""},
      {R"({"prompt": "a", "choices": ["b"], "answer": 0})", "questions.jsonl:1: \"choices\" has fewer than two"},
      {R"({"prompt": "a", "choices": ["b", ""], "answer": 0})", "questions.jsonl:1: \"choices\" has an empty text"},
      {R"({"prompt": "a", "choices": ["b", "c"], "answer": 2})", "questions.jsonl:1: \"answer\" is 2, expected 0 to 1"},
      {R"({"prompt": "a", "choices": ["b", "c"], "answer": "d"})", "\"answer\" is none of \"choices\""},
      {R"({"prompt": "a", "choices": "b", "answer": 0})", "questions.jsonl:1: \"choices\" is no list of strings"},
  };
  for (const auto& [line, message] : table) {
    std::ofstream(folder_ / "questions.jsonl") << line << '\n';
    expect_one_line_error(weft(kCommand), 3, HasSubstr(message));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out.jsonl"));
  }
}

}  // namespace
}  // namespace weft
