#include "config/parse_error.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <vector>

#include "checkpoint/nearest_name.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

bool is_name_letter(char c) {
  return isalnum(static_cast<unsigned char>(c)) || c == '_';
}

/// Reads Protobuf text up to an offset and remembers which messages are open and which field was named last.
class PlaceFinder {
 public:
  PlaceFinder(std::string_view text, size_t offset) : text_(text.substr(0, offset)) {
    while (at_ < text_.size()) step();
  }

  /// "train.schedule"; empty at the top.
  std::string message_path() const { return fmt::format("{}", fmt::join(open_messages_, ".")); }
  /// "train.schedule.kind", or what is known of it.
  std::string field_path() const {
    if (field_.empty()) return "a field";
    return open_messages_.empty() ? field_ : message_path() + "." + field_;
  }
  const Descriptor* message_type(const Descriptor& root) const {
    const Descriptor* type = &root;
    for (const std::string& name : open_messages_) {
      const FieldDescriptor* field = type->FindFieldByName(name);
      type = field ? field->message_type() : nullptr;
      if (!type) return nullptr;
    }
    return type;
  }
  const FieldDescriptor* field(const Descriptor& root) const {
    const Descriptor* type = message_type(root);
    return type ? type->FindFieldByName(field_) : nullptr;
  }

 private:
  void step() {
    char c = text_[at_];
    if (c == '#') return skip_to(text_.find('\n', at_));
    if (c == '"' || c == '\'') return skip_string(c);
    if (is_name_letter(c)) return read_word();
    if (c == ':') is_value_next_ = true;
    if (c == '[') is_in_list_ = true;
    if (c == ']') is_in_list_ = is_value_next_ = false;
    if (c == '{' || c == '<') open();
    if ((c == '}' || c == '>') && !open_messages_.empty()) close();
    ++at_;
  }

  void open() {
    open_messages_.push_back(field_);
    lists_.push_back(is_in_list_);
    field_.clear();
    is_value_next_ = is_in_list_ = false;
  }

  void close() {
    field_ = open_messages_.back();
    is_in_list_ = lists_.back();
    open_messages_.pop_back();
    lists_.pop_back();
    is_value_next_ = false;
  }

  void read_word() {
    size_t begin = at_;
    while (at_ < text_.size() && (is_name_letter(text_[at_]) || text_[at_] == '.')) ++at_;
    if (!is_in_list_ && !is_value_next_) field_ = text_.substr(begin, at_ - begin);
    is_value_next_ = false;
  }

  void skip_string(char quote) {
    for (++at_; at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n'; ++at_) {
      if (text_[at_] == '\\') ++at_;
    }
    ++at_;
    is_value_next_ = false;
  }

  void skip_to(size_t end) { at_ = std::min(end, text_.size()); }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<std::string> open_messages_;
  std::vector<bool> lists_;
  std::string field_;
  bool is_value_next_ = false, is_in_list_ = false;
};

std::string in_capitals(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(toupper(c)); });
  return out;
}

std::string unknown_value_message(const EnumDescriptor& type, std::string_view field, std::string_view value) {
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(type.value_count()));
  for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  std::string nearest = nearest_name(in_capitals(value), names);
  if (!nearest.empty()) {
    return fmt::format("{} cannot be '{}'; did you mean {}?", field, printable(value), nearest);
  }
  return fmt::format("{} cannot be '{}'; choose one of {}", field, printable(value), fmt::join(names, ", "));
}

std::string_view until_quote(std::string_view text) {
  return text.substr(0, text.find('"'));
}

/// What a message of the parser is about, where that stands before the token at which it noticed.
std::string_view culprit(std::string_view message) {
  for (std::string_view prefix :
       {"Non-repeated field \"", "Unknown enumeration value of \"", "has no field named \"", "Value: \""}) {
    size_t at = message.find(prefix);
    if (at != std::string_view::npos) return until_quote(message.substr(at + prefix.size()));
  }
  return {};
}

std::string without_full_stop(std::string_view message) {
  if (message.ends_with('.')) message.remove_suffix(1);
  std::string out = printable(message, 200);
  if (!out.empty()) out[0] = static_cast<char>(tolower(static_cast<unsigned char>(out[0])));
  return out;
}

std::string found(std::string_view token) {
  return token.empty() ? "the end of the text" : printable(token, 60);
}

struct Expectation {
  std::string_view prefix;  // of the parser's message; what was found follows
  std::string_view needs;
};

constexpr Expectation kExpectations[] = {{"Expected integer, got: ", "an integer"},
                                         {"Expected double, got: ", "a number"},
                                         {"Expected string, got: ", "a text in quotes"},
                                         {"Expected integer or identifier, got: ", "one of its names"},
                                         {"Expected \"{\", found \"", "{ … }"}};

std::string describe_at(const Descriptor& root, std::string_view message, const PlaceFinder& place) {
  std::string_view name = culprit(message);
  if (message.starts_with("Message type ")) {
    if (const Descriptor* type = place.message_type(root)) {
      return unknown_field_message(*type, place.message_path(), name);
    }
  }
  if (message.starts_with("Unknown enumeration value")) {
    const FieldDescriptor* field = place.field(root);
    if (field && field->enum_type()) return unknown_value_message(*field->enum_type(), place.field_path(), name);
  }
  if (message.starts_with("Non-repeated field")) {
    return fmt::format("{}{}{} is set twice", place.message_path(), place.message_path().empty() ? "" : ".", name);
  }
  if (message.starts_with("Invalid value for boolean field")) {
    return fmt::format("{} needs true or false, found {}", place.field_path(), found(name));
  }
  if (message.starts_with("Integer out of range")) return place.field_path() + " is out of range";
  if (message == "Expected integer, got: -") return place.field_path() + " must be at least 0";
  for (const auto& [prefix, needs] : kExpectations) {
    if (!message.starts_with(prefix)) continue;
    std::string_view token = message.substr(prefix.size());
    if (prefix.ends_with('"')) token = token.substr(0, token.rfind('"'));
    return fmt::format("{} needs {}, found {}", place.field_path(), needs, found(token));
  }
  constexpr std::string_view kExpectedName = "Expected identifier, got: ";
  if (message.starts_with(kExpectedName)) {
    return "expected the name of a field, found " + found(message.substr(kExpectedName.size()));
  }
  return without_full_stop(message);
}

}  // namespace

std::string unknown_field_message(const Descriptor& type, std::string_view path, std::string_view name) {
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(type.field_count()));
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  std::string nearest = nearest_name(name, names);
  std::string what =
      fmt::format("{} has no field '{}'; ", path.empty() ? "the config" : printable(path), printable(name));
  if (!nearest.empty()) return what + fmt::format("did you mean '{}'?", nearest);
  return what + fmt::format("it has {}", fmt::join(names, ", "));
}

TextProblem describe_parse_error(const Descriptor& root, std::string_view text, const TextProblem& error) {
  size_t offset = error.offset;
  std::string_view name = culprit(error.message);
  if (!name.empty()) offset = std::min(offset, text.rfind(name, offset));
  return {offset, describe_at(root, error.message, PlaceFinder(text, offset))};
}

}  // namespace weft
