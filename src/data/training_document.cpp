#include "data/training_document.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kExpected =
    R"(expected {"text": "…"}, {"prompt": "…", "completion": "…"} or {"messages": [{"role": "…", "content": "…"}, …]})";

/// Keeps the fields that count and nothing else, so that a hostile line costs no more memory than its length.
class DocumentHandler : public Json::json_sax_t {
 public:
  TrainingDocument take() {
    if (problem_.empty()) check_fields();
    if (!problem_.empty()) fail_input("{}", problem_);
    return std::move(document_);
  }

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("binary data"); }

  bool string(string_t& value) override {
    if (depth_ == 0 || (depth_ == 2 && in_messages_)) return other("a string");
    if (depth_ == 1) return set_field(value);
    if (depth_ != 3 || !in_messages_) return true;
    if (key_ == "role") {
      document_.messages.back().role = std::move(value);
      has_role_ = true;
    } else if (key_ == "content") {
      document_.messages.back().content = std::move(value);
      has_content_ = true;
    }
    return true;
  }

  bool key(string_t& value) override {
    if (depth_ == 1 || (depth_ == 3 && in_messages_)) key_ = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    const bool is_message = depth_ == 2 && in_messages_;
    if (depth_ > 0 && !is_message && !other("an object")) return false;
    ++depth_;
    if (!is_message) return true;
    document_.messages.emplace_back();
    has_role_ = has_content_ = false;
    return true;
  }

  bool end_object() override {
    --depth_;
    if (depth_ != 2 || !in_messages_) return true;
    if (has_role_ && has_content_) return check_role(document_.messages.back().role);
    return complain(fmt::format("message {} has no {}", document_.messages.size(), has_role_ ? "content" : "role"));
  }

  bool start_array(size_t) override {
    const bool is_messages = depth_ == 1 && key_ == "messages";
    if (!is_messages && !other("a list")) return false;
    ++depth_;
    if (is_messages) {
      in_messages_ = true;
      document_.messages.clear();
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
  bool complain(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  /// A mistyped role would be learned as it stands.
  bool check_role(const std::string& role) {
    for (const char* known : {"system", "user", "assistant", "tool"}) {
      if (role == known) return true;
    }
    return complain(fmt::format("message {} has role '{}', expected system, user, assistant or tool",
                                document_.messages.size(),
                                printable(role)));
  }

  /// A value that is no string where one might be wanted.
  bool other(std::string_view what) {
    if (depth_ == 0) return complain(fmt::format("{}, found {}", kExpected, what));
    if (depth_ == 1 && key_ == "messages") return complain(fmt::format("\"messages\" is {}, expected a list", what));
    const bool is_field = depth_ == 1 && (key_ == "text" || key_ == "prompt" || key_ == "completion");
    if (is_field) return complain(fmt::format("\"{}\" is {}, expected a string", key_, what));
    if (!in_messages_) return true;
    if (depth_ == 2) {
      return complain(fmt::format("message {} is {}, expected an object", document_.messages.size() + 1, what));
    }
    if (depth_ == 3 && (key_ == "role" || key_ == "content")) {
      return complain(fmt::format("message {}: {} is {}, expected a string", document_.messages.size(), key_, what));
    }
    return true;
  }

  bool set_field(string_t& value) {
    if (key_ == "messages") return other("a string");
    if (key_ == "text") {
      document_.text = std::move(value);
    } else if (key_ == "prompt") {
      document_.prompt = std::move(value);
    } else if (key_ == "completion") {
      document_.completion = std::move(value);
    }
    return true;
  }

  void check_fields() {
    const bool has_pair = document_.prompt && document_.completion;
    const int kinds = (document_.text ? 1 : 0) + (has_pair ? 1 : 0) + (document_.messages.empty() ? 0 : 1);
    if (kinds == 1) return;
    problem_ = fmt::format("{}, found {}", kExpected, kinds > 1 ? "more than one of them" : "none of them");
    if (kinds == 0 && document_.prompt) problem_ = "a \"prompt\" without \"completion\"";
    if (kinds == 0 && document_.completion) problem_ = "a \"completion\" without \"prompt\"";
  }

  TrainingDocument document_;
  std::string problem_;
  std::string key_;  // the last one at a depth that matters
  int64_t depth_ = 0;
  bool in_messages_ = false;
  bool has_role_ = false, has_content_ = false;
};

}  // namespace

TrainingDocument parse_training_document(std::string_view line) {
  DocumentHandler handler;
  Json::sax_parse(line.begin(), line.end(), &handler);
  return handler.take();
}

}  // namespace weft
