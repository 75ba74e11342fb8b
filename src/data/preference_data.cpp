#include "data/preference_data.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/document_encoder.h"
#include "data/record_lines.h"

namespace weft {
namespace {

using Json = nlohmann::json;

bool is_same(const ChatMessage& a, const ChatMessage& b) {
  return a.role == b.role && a.content == b.content;
}

std::vector<ChatMessage> messages_of(const Json& object, const char* key, const RecordLine& line) {
  std::vector<ChatMessage> messages;
  for (const Json& value : object.at(key)) {
    std::string place = fmt::format("\"{}\", message {}", key, messages.size() + 1);
    if (!value.is_object()) line.fail(place + " is no object");
    for (const char* field : {"role", "content"}) {
      if (!value.contains(field) || !value.at(field).is_string()) line.fail(fmt::format("{} has no {}", place, field));
    }
    ChatMessage message{.role = value.at("role").get<std::string>(), .content = value.at("content").get<std::string>()};
    bool is_known =
        message.role == "system" || message.role == "user" || message.role == "assistant" || message.role == "tool";
    if (!is_known) {
      line.fail(
          fmt::format("{} has role '{}', expected system, user, assistant or tool", place, printable(message.role)));
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

/// Puts the prompt before an answer that does not begin with it. One that is a text is what the user says first, which
/// may come behind a system message.
void add_prompt(const Json& object, const RecordLine& line, std::vector<ChatMessage>& messages) {
  if (!object.contains("prompt")) return;
  if (object.at("prompt").is_array()) {
    std::vector<ChatMessage> prompt = messages_of(object, "prompt", line);
    bool begins_so =
        messages.size() > prompt.size() && std::equal(prompt.begin(), prompt.end(), messages.begin(), is_same);
    if (!begins_so) messages.insert(messages.begin(), prompt.begin(), prompt.end());
    return;
  }
  ChatMessage prompt{.role = "user", .content = text_of(object, "prompt", line)};
  bool has_it = std::any_of(
      messages.begin(), messages.end(), [&](const ChatMessage& message) { return is_same(message, prompt); });
  if (!has_it) messages.insert(messages.begin(), std::move(prompt));
}

PreferenceTexts parse_messages(const Json& object, const RecordLine& line) {
  PreferenceTexts texts;
  for (auto [key, messages] : {std::pair{"chosen", &texts.chosen_messages}, {"rejected", &texts.rejected_messages}}) {
    *messages = messages_of(object, key, line);
    if (messages->empty() || messages->back().role != "assistant") {
      line.fail(fmt::format("\"{}\" does not end with a message of the assistant", key));
    }
    add_prompt(object, line, *messages);
  }
  const auto& chosen = texts.chosen_messages;
  const auto& rejected = texts.rejected_messages;
  auto alike = std::mismatch(chosen.begin(), chosen.end() - 1, rejected.begin(), rejected.end() - 1, is_same);
  texts.prompt_messages = static_cast<size_t>(alike.first - chosen.begin());
  if (texts.prompt_messages == 0) line.fail("\"chosen\" and \"rejected\" do not begin with the same message");
  return texts;
}

/// Up to which both are the same, whole characters and no space at the end: a space belongs to the word behind it.
size_t common_beginning(const std::string& a, const std::string& b) {
  auto length = static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  auto is_within = [](const std::string& text, size_t at) {
    return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
  };
  while (length > 0 && (is_within(a, length) || is_within(b, length))) --length;
  if (length > 0 && a[length - 1] == ' ') --length;
  return length;
}

PreferenceTexts parse_texts(const Json& object, const RecordLine& line) {
  PreferenceTexts texts;
  texts.prompt = text_of(object, "prompt", line);
  texts.chosen = text_of(object, "chosen", line);
  texts.rejected = text_of(object, "rejected", line);
  if (!object.contains("prompt")) {
    size_t length = common_beginning(texts.chosen, texts.rejected);
    if (length == 0) line.fail("has no \"prompt\", and \"chosen\" and \"rejected\" begin with nothing in common");
    texts.prompt = texts.chosen.substr(0, length);
    texts.chosen.erase(0, length);
    texts.rejected.erase(0, length);
  }
  if (texts.chosen.empty() || texts.rejected.empty()) line.fail("has an empty answer");
  return texts;
}

PreferenceTexts parse_line(const RecordLine& line) {
  Json object = parse_object(line);
  require_keys(object, {"chosen", "rejected"}, line);
  bool has_messages = object.at("chosen").is_array();
  if (has_messages != object.at("rejected").is_array()) {
    line.fail("one of \"chosen\" and \"rejected\" is a list and the other is not");
  }
  PreferenceTexts texts = has_messages ? parse_messages(object, line) : parse_texts(object, line);
  texts.place = line.place();
  return texts;
}

class PairEncoder {
 public:
  PairEncoder(const Tokenizer& tokenizer, size_t max_length)
      // Not owned: it outlives the rows that are made here.
      : encoder_(std::shared_ptr<const Tokenizer>(std::shared_ptr<void>(), &tokenizer), {}), max_length_(max_length) {}

  TrainingRow row(const PreferenceTexts& texts) {
    try {
      return encode(texts);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}", texts.place, error.what()));
    }
  }

  int64_t cut() const { return cut_; }

 private:
  TrainingRow encode(const PreferenceTexts& texts) {
    TrainingRow row;
    if (texts.chosen_messages.empty()) {
      add(row, encoder_.encode_completion(texts.prompt, texts.chosen));
      add(row, encoder_.encode_completion(texts.prompt, texts.rejected));
    } else {
      add(row, encoder_.encode_chat(texts.chosen_messages, texts.prompt_messages));
      add(row, encoder_.encode_chat(texts.rejected_messages, texts.prompt_messages));
    }
    return row;
  }

  void add(TrainingRow& row, const TokenDocument& document) {
    size_t begin = row.ids.size(), length = std::min(document.ids.size(), max_length_);
    if (length < document.ids.size()) ++cut_;
    row.spans.push_back({.begin = static_cast<int32_t>(begin), .length = static_cast<int32_t>(length)});
    row.ids.insert(row.ids.end(), document.ids.begin(), document.ids.begin() + static_cast<std::ptrdiff_t>(length));
    row.targets.resize(row.ids.size(), -1);
    for (const LossSpan& span : document.loss_spans) {
      for (size_t t = std::max<size_t>(span.begin, 1); t < std::min<size_t>(span.end, length); ++t) {
        row.targets[begin + t - 1] = document.ids[t];
      }
    }
  }

  DocumentEncoder encoder_;
  size_t max_length_;
  int64_t cut_ = 0;
};

bool is_scored(const TrainingRow& row, const RowSpan& span) {
  auto first = row.targets.begin() + span.begin;
  return std::any_of(first, first + span.length, [](int32_t target) { return target >= 0; });
}

}  // namespace

std::vector<PreferenceTexts> read_preference_texts(const std::string& path) {
  if (!is_json_lines(path)) fail_input("{}: pairs of answers are read from .jsonl files", printable(path));
  std::vector<PreferenceTexts> texts;
  for_each_line(path, false, [&](const RecordLine& line) { texts.push_back(parse_line(line)); });
  if (texts.empty()) fail_input("{}: holds no pair of answers", printable(path));
  return texts;
}

PreferenceRows make_preference_rows(const std::vector<PreferenceTexts>& texts,
                                    const Tokenizer& tokenizer,
                                    int64_t first_label,
                                    const MemoryRowOptions& options) {
  PairEncoder encoder(tokenizer, static_cast<size_t>(options.max_length));
  std::vector<TrainingRow> rows;
  PreferenceRows result;
  for (size_t i = 0; i < texts.size(); ++i) {
    TrainingRow row = encoder.row(texts[i]);
    if (!std::all_of(row.spans.begin(), row.spans.end(), [&](const RowSpan& span) { return is_scored(row, span); })) {
      ++result.left_out;
      continue;
    }
    row.labels.assign(row.spans.size(), static_cast<int32_t>(first_label + static_cast<int64_t>(i)));
    rows.push_back(std::move(row));
  }
  if (rows.empty()) {
    fail_input("the prompts of all {} pairs fill the {} tokens of a row (data.sequence_length); use longer rows",
               texts.size(),
               options.max_length);
  }
  result.cut = encoder.cut();
  result.data = make_memory_rows(std::move(rows), options.shuffle, options.seed);
  return result;
}

}  // namespace weft
