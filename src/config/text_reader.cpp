#include "config/text_reader.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include <optional>

#include "config/parse_error.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

constexpr int kMaxDepth = 32;
constexpr int kTabWidth = 8;  // as google::protobuf::io::Tokenizer counts columns

struct ParseError {
  int line = 0, column = 0;  // from 0
  std::string message;
};

/// Keeps the first error; those that follow from it help nobody.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {  // NOLINT(readability-identifier-naming)
    if (!error_) error_ = ParseError{std::max(line, 0), std::max(column, 0), message};
  }
  const std::optional<ParseError>& error() const { return error_; }

 private:
  std::optional<ParseError> error_;
};

size_t offset_of(std::string_view text, int line, int column) {
  size_t offset = 0;
  for (; line > 0; --line) {
    size_t end = text.find('\n', offset);
    if (end == std::string_view::npos) return text.size();
    offset = end + 1;
  }
  for (int at = 0; at < column && offset < text.size() && text[offset] != '\n'; ++offset) {
    at += text[offset] == '\t' ? kTabWidth - at % kTabWidth : 1;
  }
  return offset;
}

bool is_name_letter(char c) {
  return isalnum(static_cast<unsigned char>(c)) || c == '_';
}

/// The field whose value stands at an offset: the name before the nearest colon on the left ("steps: [1, x").
std::string_view field_before(std::string_view text, size_t offset) {
  std::string_view before = text.substr(0, offset);
  size_t end = before.find_last_not_of(" \t\r\n-");
  size_t colon = before.find_last_of(":{};\n", end);
  if (end == std::string_view::npos || colon == std::string_view::npos || before[colon] != ':') return {};
  before = before.substr(0, colon);
  while (!before.empty() && before.back() == ' ') before.remove_suffix(1);
  size_t begin = before.size();
  while (begin > 0 && is_name_letter(before[begin - 1])) --begin;
  return before.substr(begin);
}

std::optional<ParseError> parse(const std::string& text, Message& message, TextFormat::ParseInfoTree* places) {
  FirstError first_error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&first_error);
  parser.SetRecursionLimit(kMaxDepth);
  parser.WriteLocationsTo(places);
  if (parser.ParseFromString(text, &message)) return std::nullopt;
  ParseError error = first_error.error().value_or(ParseError{0, 0, "this is no Protobuf text."});
  std::string_view field = field_before(text, offset_of(text, error.line, error.column));
  error.message = describe_parse_error(*message.GetDescriptor(), error.message, field);
  return error;
}

/// Follows the message and the parser's tree of places side by side.
class PlaceRecorder {
 public:
  PlaceRecorder(const std::string& file, FieldLocations& locations) : file_(file), locations_(locations) {}

  void record(const Message& message, const TextFormat::ParseInfoTree& places, const std::string& prefix) {
    std::vector<const FieldDescriptor*> fields;
    message.GetReflection()->ListFields(message, &fields);
    for (const FieldDescriptor* field : fields) {
      if (!field->is_repeated()) {
        record_value(message, *field, -1, places, prefix + field->name());
        continue;
      }
      int size = message.GetReflection()->FieldSize(message, field);
      for (int i = 0; i < size; ++i) {
        record_value(message, *field, i, places, fmt::format("{}{}[{}]", prefix, field->name(), i));
      }
    }
  }

 private:
  void record_value(const Message& message,
                    const FieldDescriptor& field,
                    int index,
                    const TextFormat::ParseInfoTree& places,
                    const std::string& path) {
    TextFormat::ParseLocation place = places.GetLocation(&field, index);
    // A list [a, b] has one place for all.
    if (place.line < 0 && index > 0) place = places.GetLocation(&field, 0);
    if (place.line >= 0) locations_[path] = fmt::format("{}:{}:{}", file_, place.line + 1, place.column + 1);
    const TextFormat::ParseInfoTree* nested = field.message_type() ? places.GetTreeForNested(&field, index) : nullptr;
    if (!nested) return;
    const auto* reflection = message.GetReflection();
    record(index < 0 ? reflection->GetMessage(message, &field) : reflection->GetRepeatedMessage(message, &field, index),
           *nested,
           path + ".");
  }

  const std::string& file_;
  FieldLocations& locations_;
};

}  // namespace

void read_config_text(const std::string& text, const std::string& file, Message& message, FieldLocations& locations) {
  TextFormat::ParseInfoTree places;
  std::string name = printable(file, 400);
  if (auto error = parse(text, message, &places)) {
    fail_input("{}:{}:{}: {}", name, error->line + 1, error->column + 1, error->message);
  }
  PlaceRecorder(name, locations).record(message, places, "");
}

void read_config_fragment(const std::string& text, const std::string& place, Message& message) {
  if (auto error = parse(text, message, nullptr)) fail_input("{}: {}", place, error->message);
}

}  // namespace weft
