#include "data/training_document.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kExpected =
    R"(expected {"text": "…"}, {"prompt": "…", "completion": "…"}, {"messages": [{"role": "…", "content": "…"}, …]}, )"
    R"({"conversations": [{"from": "…", "value": "…"}, …]} or {"instruction": "…", "input": "…", "output": "…"})";

constexpr std::array<std::string_view, 9> kTextFields = {
    "text", "prompt", "completion", "system", "instruction", "input", "output", "role", "content"};

/// Roles by the names that ShareGPT's files give them.
constexpr std::pair<std::string_view, std::string_view> kRoles[] = {{"system", "system"},
                                                                    {"user", "user"},
                                                                    {"human", "user"},
                                                                    {"assistant", "assistant"},
                                                                    {"gpt", "assistant"},
                                                                    {"chatgpt", "assistant"},
                                                                    {"bard", "assistant"},
                                                                    {"bing", "assistant"},
                                                                    {"model", "assistant"},
                                                                    {"function_call", "assistant"},
                                                                    {"tool", "tool"},
                                                                    {"observation", "tool"},
                                                                    {"function_response", "tool"}};

/// Keeps the fields that count and nothing else, so that a hostile record costs no more memory than its length.
class DocumentHandler : public Json::json_sax_t {
 public:
  explicit DocumentHandler(const FieldNames& names) : names_(names) {}

  TrainingDocument take() {
    if (problem_.empty()) collect();
    if (!problem_.empty()) fail_input("{}", problem_);
    return std::move(document_);
  }

  bool null() override { return depth_ == 1 && (key_ == "input" || key_ == "system") ? true : other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("binary data"); }

  bool string(string_t& value) override {
    if (depth_ == 0 || (depth_ == 2 && in_messages_)) return other("a string");
    if (depth_ == 1) return set_field(value);
    if (depth_ != 3 || !in_messages_) return note_history();
    if (key_ == "role") {
      role_ = std::move(value);
    } else if (key_ == "content") {
      content_ = std::move(value);
    }
    return true;
  }

  bool key(string_t& value) override {
    if (depth_ == 1 && found_.size() < kMaxNamed) found_.push_back(printable(value));
    if (depth_ == 1 || (depth_ == 3 && in_messages_)) key_ = known_name(value);
    return true;
  }

  bool start_object(size_t) override {
    const bool is_message = depth_ == 2 && in_messages_;
    if (depth_ > 0 && !is_message && !other("an object")) return false;
    ++depth_;
    if (!is_message) return true;
    ++num_messages_;
    role_.reset();
    content_.reset();
    return true;
  }

  bool end_object() override {
    --depth_;
    if (depth_ != 2 || !in_messages_) return true;
    if (role_ && content_) return add_message();
    return complain(fmt::format("message {} has no {}", num_messages_, name_in(role_ ? "content" : "role")));
  }

  bool start_array(size_t) override {
    const bool is_messages = depth_ == 1 && is_list(key_);
    if (!is_messages && !other("a list")) return false;
    ++depth_;
    if (is_messages) {
      in_messages_ = true;
      list_ = key_;
      document_.messages.clear();
      num_messages_ = 0;
    }
    return true;
  }

  bool end_array() override {
    if (--depth_ == 1) in_messages_ = false;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: …": the last part says what.
    const std::string_view text = error.what();
    const size_t colon = text.find(": ");
    return complain(fmt::format("not JSON at byte {}: {}",
                                position,
                                printable(colon == std::string_view::npos ? text : text.substr(colon + 2))));
  }

 private:
  static constexpr size_t kMaxNamed = 8;

  static bool is_list(std::string_view key) { return key == "messages" || key == "conversations"; }
  static bool is_text_field(std::string_view key) {
    return std::find(kTextFields.begin(), kTextFields.end(), key) != kTextFields.end();
  }

  /// Lists of both names may have messages in both forms.
  std::string known_name(std::string& name) const {
    auto found = names_.find(name);
    if (found != names_.end()) return found->second;
    if (depth_ == 3 && name == "from") return "role";
    if (depth_ == 3 && name == "value") return "content";
    return std::move(name);
  }

  /// As a list's messages call it.
  std::string_view name_in(std::string_view field) const {
    if (list_ == "messages") return field;
    return field == "role" ? "from" : "value";
  }

  bool complain(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  /// A mistyped role would be learned as it stands.
  bool add_message() {
    for (const auto& [name, role] : kRoles) {
      const bool is_known = list_ == "conversations" || name == role;
      if (!is_known || *role_ != name) continue;
      document_.messages.push_back({.role = std::string(role), .content = std::move(*content_)});
      return true;
    }
    return complain(fmt::format("message {} has {} '{}', expected {}",
                                num_messages_,
                                list_ == "messages" ? "role" : "\"from\"",
                                printable(*role_),
                                list_ == "messages" ? "system, user, assistant or tool"
                                                    : "human, gpt, system or tool, or another of their names"));
  }

  /// A value that is no string where one might be wanted.
  bool other(std::string_view what) {
    if (depth_ == 0) return complain(fmt::format("{}, found {}", kExpected, what));
    if (depth_ == 1 && is_list(key_)) return complain(fmt::format("\"{}\" is {}, expected a list", key_, what));
    const bool is_field = depth_ == 1 && (key_ == "text" || key_ == "prompt" || key_ == "completion");
    if (is_field) return complain(fmt::format("\"{}\" is {}, expected a string", key_, what));
    // Other records may have fields of these names for anything.
    if (depth_ == 1 && is_text_field(key_)) others_.try_emplace(key_, what);
    if (!in_messages_) return note_history();
    if (depth_ == 2) {
      return complain(fmt::format("message {} is {}, expected an object", num_messages_ + 1, what));
    }
    if (depth_ == 3 && (key_ == "role" || key_ == "content")) {
      return complain(fmt::format("message {}: {} is {}, expected a string", num_messages_, name_in(key_), what));
    }
    return true;
  }

  bool note_history() {
    has_history_ = has_history_ || (depth_ == 2 && key_ == "history");
    return true;
  }

  /// A field that the record's form has, but with a value that is no string.
  void check_type(const char* name) {
    auto found = others_.find(name);
    if (problem_.empty() && found != others_.end()) {
      problem_ = fmt::format("\"{}\" is {}, expected a string", name, found->second);
    }
  }

  bool set_field(string_t& value) {
    if (is_list(key_)) return other("a string");
    if (is_text_field(key_)) fields_[key_] = std::move(value);
    return true;
  }

  std::optional<std::string> take_field(const char* name) {
    auto found = fields_.find(name);
    if (found == fields_.end()) return std::nullopt;
    return std::move(found->second);
  }

  void collect() {
    document_.text = take_field("text");
    document_.prompt = take_field("prompt");
    document_.completion = take_field("completion");
    auto instruction = take_field("instruction"), output = take_field("output");
    if (instruction && output) {
      document_.instruction = {std::move(*instruction), take_field("input").value_or(""), std::move(*output)};
      document_.text.reset();
      check_type("input");
      // Turns that would silently be lost.
      if (has_history_) {
        problem_ = "\"history\" is not read; write conversations as \"messages\" or \"conversations\"";
      }
    }
    add_system();
    if (!problem_.empty()) return;
    const bool has_pair = document_.prompt && document_.completion;
    const int kinds = (document_.text ? 1 : 0) + (has_pair ? 1 : 0) + (document_.messages.empty() ? 0 : 1) +
                      (document_.instruction ? 1 : 0);
    if (kinds == 1) return;
    problem_ = kinds > 1 ? fmt::format("{}, found more than one of them", kExpected)
                         : fmt::format("{}, found none of them but {}", kExpected, fmt::join(found_, ", "));
    if (kinds == 0 && found_.empty()) problem_ = fmt::format("{}, found none of them", kExpected);
    if (kinds > 0) return;
    if (document_.prompt) problem_ = "a \"prompt\" without \"completion\"";
    if (document_.completion) problem_ = "a \"completion\" without \"prompt\"";
    if (instruction) problem_ = "an \"instruction\" without \"output\"";
    if (output) problem_ = "an \"output\" without \"instruction\"";
    for (const char* name : {"instruction", "output"}) {
      if (others_.count(name) == 0) continue;
      problem_.clear();
      check_type(name);
    }
  }

  /// Of a conversation as a field of its own.
  void add_system() {
    std::optional<std::string> system = take_field("system");
    if (!document_.messages.empty()) check_type("system");
    if (!system || system->empty() || document_.messages.empty() || document_.messages[0].role == "system") return;
    document_.messages.insert(document_.messages.begin(), {.role = "system", .content = std::move(*system)});
  }

  const FieldNames& names_;
  TrainingDocument document_;
  std::map<std::string, std::string, std::less<>> fields_;
  std::map<std::string, std::string_view, std::less<>> others_;  // fields that are no string, and what they are
  std::vector<std::string> found_;                               // the first fields' names
  std::string problem_;
  std::string key_;  // the last one at a depth that matters
  std::string list_;
  int64_t depth_ = 0, num_messages_ = 0;
  bool in_messages_ = false, has_history_ = false;
  std::optional<std::string> role_, content_;
};

}  // namespace

FieldNames parse_field_names(const std::vector<std::string>& pairs) {
  FieldNames names;
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    const std::string known = pair.substr(0, equals);
    const bool is_known = known == "messages" || known == "conversations" ||
                          std::find(kTextFields.begin(), kTextFields.end(), known) != kTextFields.end();
    if (!is_known || equals == std::string::npos || equals + 1 == pair.size()) {
      fail_input("'{}': expected NAME=FIELD, NAME being one of messages, conversations, {}",
                 printable(pair),
                 fmt::join(kTextFields, ", "));
    }
    names[pair.substr(equals + 1)] = known;
  }
  return names;
}

TrainingDocument parse_training_document(std::string_view record, const FieldNames& names) {
  DocumentHandler handler(names);
  Json::sax_parse(record.begin(), record.end(), &handler);
  return handler.take();
}

}  // namespace weft
