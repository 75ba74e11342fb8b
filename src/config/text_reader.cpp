#include "config/text_reader.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <optional>

#include "config/parse_error.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

constexpr int kMaxDepth = 32;

/// As google::protobuf::io::Tokenizer counts columns.
int next_column(int column, char c) {
  constexpr int tab_width = 8;
  return column + (c == '\t' ? tab_width - column % tab_width : 1);
}

/// Keeps the first error; those that follow from it help nobody.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {  // NOLINT(readability-identifier-naming)
    if (!message_.empty()) return;
    line_ = line;
    column_ = column;
    message_ = message;
  }

  TextProblem problem(std::string_view text) const {
    return {offset_of(text), message_.empty() ? "this is no Protobuf text" : message_};
  }

 private:
  size_t offset_of(std::string_view text) const {
    size_t offset = 0;
    for (int line = 0; line < line_; ++line) {
      size_t end = text.find('\n', offset);
      if (end == std::string_view::npos) return text.size();
      offset = end + 1;
    }
    for (int at = 0; at < column_ && offset < text.size() && text[offset] != '\n'; ++offset) {
      at = next_column(at, text[offset]);
    }
    return offset;
  }

  int line_ = 0, column_ = 0;  // from 0
  std::string message_;
};

std::optional<TextProblem> parse(const std::string& text, Message& message, TextFormat::ParseInfoTree* places) {
  FirstError first_error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&first_error);
  parser.SetRecursionLimit(kMaxDepth);
  parser.WriteLocationsTo(places);
  if (parser.ParseFromString(text, &message)) return std::nullopt;
  return describe_parse_error(*message.GetDescriptor(), text, first_error.problem(text));
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

std::string place_in_text(const std::string& file, std::string_view text, size_t offset) {
  std::string_view before = text.substr(0, offset);
  auto line = std::count(before.begin(), before.end(), '\n') + 1;
  int column = 0;
  for (char c : before.substr(before.rfind('\n') + 1)) column = next_column(column, c);  // npos + 1 is 0
  return fmt::format("{}:{}:{}", printable(file, 400), line, column + 1);
}

void read_config_text(const std::string& text, const std::string& file, Message& message, FieldLocations& locations) {
  TextFormat::ParseInfoTree places;
  std::string name = printable(file, 400);
  if (auto problem = parse(text, message, &places)) {
    fail_input("{}: {}", place_in_text(file, text, problem->offset), problem->message);
  }
  PlaceRecorder(name, locations).record(message, places, "");
}

void read_config_fragment(const std::string& text, const std::string& place, Message& message) {
  if (auto problem = parse(text, message, nullptr)) fail_input("{}: {}", place, problem->message);
}

}  // namespace weft
