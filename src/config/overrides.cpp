#include "config/overrides.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/stubs/strutil.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <vector>

#include "config/merge.h"
#include "config/parse_error.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

struct Override {
  std::string path;   // "data.sources[0].path"
  std::string place;  // "--set data.sources[0].path"
  std::string value;
  bool appends = false;
};

Override split_override(const std::string& text) {
  size_t sign = text.find('=');
  std::string path = text.substr(0, sign);
  bool appends = path.ends_with('+');
  if (appends) path.pop_back();
  std::string place = "--set " + printable(path);
  if (sign == std::string::npos || path.empty()) fail_input("{}: an override is FIELD=VALUE", place);
  return {path, place, text.substr(sign + 1), appends};
}

/// "sources[0]" → "sources", 0; without brackets −1.
struct PathPart {
  std::string name;
  int index = -1;
};

PathPart parse_part(const Override& override, std::string_view text) {
  size_t bracket = text.find('[');
  if (bracket == std::string_view::npos) return {std::string(text), -1};
  PathPart part{std::string(text.substr(0, bracket)), -1};
  std::string_view digits = text.substr(bracket + 1);
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), part.index);
  if (error != std::errc() || part.index < 0 || std::string_view(end, digits.data() + digits.size() - end) != "]") {
    fail_input("{}: '{}' is no element; write {}[0]", override.place, printable(text), printable(part.name));
  }
  return part;
}

const FieldDescriptor& require_field(const Override& override,
                                     const Message& message,
                                     std::string_view parent_path,
                                     const std::string& name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (!field) fail_input("{}: {}", override.place, unknown_field_message(*message.GetDescriptor(), parent_path, name));
  return *field;
}

/// The element of a repeated message; the one after the last is made.
Message& require_element(const Override& override, Message& message, const FieldDescriptor& field, int index) {
  const auto* reflection = message.GetReflection();
  int size = reflection->FieldSize(message, &field);
  if (index > size) {
    fail_input("{}: {} has {} elements; the next is {}[{}]", override.place, field.name(), size, field.name(), size);
  }
  return index == size ? *reflection->AddMessage(&message, &field)
                       : *reflection->MutableRepeatedMessage(&message, &field, index);
}

Message& enter(const Override& override, Message& message, std::string_view parent_path, const PathPart& part) {
  const FieldDescriptor& field = require_field(override, message, parent_path, part.name);
  if (!field.message_type()) fail_input("{}: {} is a value and has no fields", override.place, part.name);
  if (field.is_repeated() && part.index < 0) {
    fail_input("{}: {} is a list; name an element: {}[0]", override.place, part.name, part.name);
  }
  if (!field.is_repeated() && part.index >= 0) fail_input("{}: {} is no list", override.place, part.name);
  return field.is_repeated() ? require_element(override, message, field, part.index)
                             : *message.GetReflection()->MutableMessage(&message, &field);
}

bool is_plain_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return isalnum(c) || c == '_' || c == '.' || c == '+' || c == '-';
  });
}

/// A value as Protobuf text.
std::string literal(const Override& override, const FieldDescriptor& field, std::string value) {
  if (field.message_type()) {
    if (!value.starts_with('{')) {
      fail_input(
          "{}: {} is a message; write '{}={{…}}' or set its fields", override.place, field.name(), override.path);
    }
    return value;
  }
  if (field.type() == FieldDescriptor::TYPE_STRING) return '"' + google::protobuf::CEscape(value) + '"';
  if (!is_plain_word(value)) {
    const char* needed = field.enum_type()                              ? "one of its names"
                         : field.type() == FieldDescriptor::TYPE_BOOL   ? "true or false"
                         : field.type() == FieldDescriptor::TYPE_DOUBLE ? "a number"
                                                                        : "an integer";
    fail_input("{}: {} needs {}, found '{}'", override.place, field.name(), needed, printable(value));
  }
  if (field.enum_type()) {
    std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return toupper(c); });
  }
  return value;
}

std::string list_literal(const Override& override, const FieldDescriptor& field) {
  if (field.message_type()) return "[" + literal(override, field, override.value) + "]";
  std::vector<std::string> literals;
  for (size_t begin = 0; begin <= override.value.size();) {
    size_t comma = std::min(override.value.find(',', begin), override.value.size());
    literals.push_back(literal(override, field, override.value.substr(begin, comma - begin)));
    begin = comma + 1;
  }
  return fmt::format("[{}]", fmt::join(literals, ", "));
}

void set_field(const Override& override, Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  if (override.appends && !field.is_repeated()) {
    fail_input("{}: {} is no list; += adds to lists", override.place, field.name());
  }
  bool is_emptied = override.value.empty() && !override.appends && (field.is_repeated() || field.message_type());
  std::unique_ptr<Message> parsed(message.New());
  if (!is_emptied) {
    bool is_list = field.is_repeated() && !override.appends;
    std::string value = is_list ? list_literal(override, field) : literal(override, field, override.value);
    read_config_fragment(field.name() + ": " + value, override.place, *parsed);
  }
  if (!override.appends) reflection->ClearField(&message, &field);
  message.MergeFrom(*parsed);
}

}  // namespace

void apply_override(const std::string& text, Message& message, FieldLocations& locations) {
  Override override = split_override(text);
  Message* at = &message;
  std::string_view path = override.path;
  size_t begin = 0;  // of the part of the path that comes next
  for (size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.', begin)) {
    std::string_view parent_path = path.substr(0, begin == 0 ? 0 : begin - 1);
    at = &enter(override, *at, parent_path, parse_part(override, path.substr(begin, dot - begin)));
    begin = dot + 1;
  }
  PathPart last = parse_part(override, path.substr(begin));
  const FieldDescriptor& field = require_field(override, *at, path.substr(0, begin == 0 ? 0 : begin - 1), last.name);
  if (last.index >= 0) {
    fail_input("{}: an element cannot be set as a whole; set its fields, or the list", override.place);
  }
  std::string set_path = override.path;
  if (override.appends && field.is_repeated())
    set_path += fmt::format("[{}]", at->GetReflection()->FieldSize(*at, &field));
  set_field(override, *at, field);
  erase_locations(locations, set_path);
  locations[set_path] = override.place;
}

}  // namespace weft
