#include "data/choice_data.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/record_lines.h"

namespace weft {
namespace {

size_t answer_of(const nlohmann::json& object, const std::vector<std::string>& choices, const RecordLine& line) {
  const nlohmann::json& answer = object.at("answer");
  if (answer.is_number_integer()) {
    auto index = answer.get<int64_t>();
    if (index >= 0 && index < static_cast<int64_t>(choices.size())) return static_cast<size_t>(index);
    line.fail(fmt::format("\"answer\" is {}, expected 0 to {}: an index of \"choices\"", index, choices.size() - 1));
  }
  if (!answer.is_string()) line.fail("\"answer\" is neither an index of \"choices\" nor one of them");
  auto found = std::find(choices.begin(), choices.end(), answer.get<std::string>());
  if (found == choices.end()) line.fail("\"answer\" is none of \"choices\"");
  return static_cast<size_t>(found - choices.begin());
}

ChoiceQuestion parse(const RecordLine& line) {
  nlohmann::json object = parse_object(line);
  require_keys(object, {"choices", "answer"}, line);
  if (object.contains("prompt") == object.contains("context")) {
    line.fail("expected one of \"prompt\" and \"context\"");
  }
  ChoiceQuestion question{.prompt = text_of(object, object.contains("prompt") ? "prompt" : "context", line),
                          .choices = texts_of(object, "choices", line),
                          .answer = 0,
                          .place = line.place()};
  if (question.choices.size() < 2) line.fail("\"choices\" has fewer than two");
  for (const std::string& choice : question.choices) {
    if (choice.empty()) line.fail("\"choices\" has an empty text");
  }
  question.answer = answer_of(object, question.choices, line);
  return question;
}

}  // namespace

std::vector<ChoiceQuestion> read_choice_questions(const std::string& path) {
  std::vector<ChoiceQuestion> questions;
  for_each_line(path, false, [&](const RecordLine& line) { questions.push_back(parse(line)); });
  if (questions.empty()) fail_input("{}: holds no question", printable(path));
  return questions;
}

}  // namespace weft
