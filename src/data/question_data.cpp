#include "data/question_data.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/record_lines.h"
#include "data/text_places.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::json;

void add_found(const RecordLine& line, const std::string& answer, QuestionText& question) {
  if (answer.empty()) return;
  size_t begin = question.context.find(answer);
  if (begin == std::string::npos) line.fail("the answer does not stand in the context");
  question.answers.push_back({begin, begin + answer.size()});
}

void add_answer(const RecordLine& line, const Json& text, const Json& start, QuestionText& question) {
  if (!text.is_string() || !start.is_number_unsigned()) {
    line.fail("an answer needs a string \"text\" and a number \"answer_start\"");
  }
  std::vector<size_t> places = byte_places(question.context);
  auto answer = text.get<std::string>();
  auto place = start.get<uint64_t>();
  size_t begin = place < places.size() ? places[place] : question.context.size();
  if (answer.empty() || question.context.compare(begin, answer.size(), answer) != 0) {
    line.fail(fmt::format("the answer does not stand at character {} of the context", place));
  }
  question.answers.push_back({begin, begin + answer.size()});
}

QuestionText parse_json(const RecordLine& line, bool has_answers) {
  Json object = parse_object(line);
  require_keys(object, {"question", "context"}, line);
  if (has_answers && !object.contains("answers") && !object.contains("answer")) {
    line.fail("has neither \"answers\" nor \"answer\"; a question without an answer has empty \"answers\"");
  }
  QuestionText question{
      .question = text_of(object, "question", line), .context = text_of(object, "context", line), .answers = {}};
  add_found(line, text_of(object, "answer", line), question);
  auto answers = object.find("answers");
  if (answers == object.end()) return question;
  if (answers->is_object()) {
    Json texts = answers->value("text", Json::array()), starts = answers->value("answer_start", Json::array());
    if (!texts.is_array() || !starts.is_array() || texts.size() != starts.size()) {
      line.fail("\"answers\" needs lists \"text\" and \"answer_start\" of the same length");
    }
    for (size_t i = 0; i < texts.size(); ++i) add_answer(line, texts[i], starts[i], question);
  } else if (answers->is_array()) {
    for (const Json& answer : *answers) {
      if (!answer.is_object()) line.fail("\"answers\" is no list of objects");
      add_answer(line, answer.value("text", Json()), answer.value("answer_start", Json()), question);
    }
  } else {
    line.fail("\"answers\" is neither an object nor a list");
  }
  return question;
}

QuestionText parse_fields(const RecordLine& line, bool has_answers) {
  std::vector<std::string> fields = split_fields(line.text);
  if (fields.size() != 3 && (has_answers || fields.size() != 2)) {
    line.fail(fmt::format("has {} fields, expected question, context{}",
                          fields.size(),
                          has_answers ? ", answer" : " and perhaps answer"));
  }
  if (is_header(line, fields, {"answer", "answers", "context"})) {
    line.fail("is a header, which Weft's files do not have; remove it");
  }
  QuestionText question{.question = fields[0], .context = fields[1], .answers = {}};
  if (has_answers) add_found(line, fields[2], question);
  return question;
}

/// Marks of the answers that a window holds whole.
void add_marks(const QuestionWindow& window, const std::vector<TokenSpan>& answers, int32_t span, TrainingRow& row) {
  for (const TokenSpan& answer : answers) {
    RowMark mark{.span = span, .label = 0, .first = -1, .last = -1};
    size_t begin = answer.end, end = answer.begin;
    for (size_t t = 0; t < window.places.size(); ++t) {
      const TokenSpan& place = window.places[t];
      if (place.end <= answer.begin || place.begin >= answer.end) continue;
      if (mark.first < 0) mark.first = static_cast<int32_t>(t);
      mark.last = static_cast<int32_t>(t);
      begin = std::min(begin, place.begin);
      end = std::max(end, place.end);
    }
    if (mark.first >= 0 && begin <= answer.begin && end >= answer.end) row.marks.push_back(mark);
  }
}

void add_window(const QuestionWindow& window, const std::vector<TokenSpan>& answers, int32_t number, TrainingRow& row) {
  auto span = static_cast<int32_t>(row.spans.size());
  row.spans.push_back(
      {.begin = static_cast<int32_t>(row.ids.size()), .length = static_cast<int32_t>(window.ids.size())});
  row.ids.insert(row.ids.end(), window.ids.begin(), window.ids.end());
  row.segments.insert(row.segments.end(), window.segments.begin(), window.segments.end());
  row.targets.resize(row.ids.size(), -1);
  row.labels.push_back(number);
  add_marks(window, answers, span, row);
}

std::vector<QuestionText> read_all(const std::string& path, bool has_answers) {
  std::vector<QuestionText> questions;
  bool is_json = is_json_lines(path);
  for_each_line(path, false, [&](const RecordLine& line) {
    questions.push_back(is_json ? parse_json(line, has_answers) : parse_fields(line, has_answers));
    if (questions.back().question.empty()) line.fail("has no question");
    if (questions.back().context.empty()) line.fail("has no context");
  });
  if (questions.empty()) fail_input("{}: holds no question", printable(path));
  return questions;
}

}  // namespace

std::vector<QuestionText> read_questions(const std::string& path) {
  return read_all(path, true);
}

std::vector<QuestionText> read_open_questions(const std::string& path) {
  return read_all(path, false);
}

std::vector<QuestionWindow> make_windows(const std::string& question,
                                         const std::string& context,
                                         const Tokenizer& tokenizer,
                                         int64_t max_length,
                                         int64_t stride) {
  if (!tokenizer.cls_id() || !tokenizer.sep_id()) fail_input("the tokenizer has no [CLS] and [SEP] tokens");
  std::vector<int32_t> asked = tokenizer.encode(question, false, SpecialsInText::plain_text);
  std::vector<int32_t> ids;
  std::vector<TokenSpan> places = tokenizer.encode_with_offsets(context, ids, SpecialsInText::plain_text);
  int64_t room = max_length - static_cast<int64_t>(asked.size()) - 3;
  if (room < 1) fail_input("a question of {} tokens leaves no room for the text in {}", asked.size(), max_length);
  stride = std::min(stride, room / 2);
  std::vector<QuestionWindow> windows;
  auto total = static_cast<int64_t>(ids.size());
  for (int64_t begin = 0; windows.empty() || begin + stride < total; begin += room - stride) {
    int64_t end = std::min(total, begin + room);
    QuestionWindow& window = windows.emplace_back();
    window.ids = {*tokenizer.cls_id()};
    window.ids.insert(window.ids.end(), asked.begin(), asked.end());
    window.ids.push_back(*tokenizer.sep_id());
    window.segments.assign(window.ids.size(), 0);
    window.places.assign(window.ids.size(), TokenSpan{});
    window.ids.insert(window.ids.end(), ids.begin() + begin, ids.begin() + end);
    window.places.insert(window.places.end(), places.begin() + begin, places.begin() + end);
    window.ids.push_back(*tokenizer.sep_id());
    window.places.emplace_back();
    window.segments.resize(window.ids.size(), 1);
  }
  return windows;
}

std::unique_ptr<TrainingData> make_question_data(const std::vector<QuestionText>& questions,
                                                 const Tokenizer& tokenizer,
                                                 const QuestionRowOptions& options) {
  std::vector<TrainingRow> rows;
  for (size_t q = 0; q < questions.size(); ++q) {
    const QuestionText& question = questions[q];
    std::vector<QuestionWindow> windows =
        make_windows(question.question, question.context, tokenizer, options.rows.max_length, options.stride);
    for (size_t w = 0; w < windows.size(); ++w) {
      if (w == 0 || !options.together) rows.emplace_back();
      add_window(windows[w], question.answers, static_cast<int32_t>(q), rows.back());
    }
  }
  return make_memory_rows(std::move(rows), options.rows.shuffle, options.rows.seed);
}

}  // namespace weft
