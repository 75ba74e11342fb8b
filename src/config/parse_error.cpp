#include "config/parse_error.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "checkpoint/nearest_name.h"
#include "config/run.pb.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

void find_paths(const Descriptor& within,
                const std::string& prefix,
                const Descriptor& wanted,
                std::vector<std::string>& paths) {
  for (int i = 0; i < within.field_count(); ++i) {
    const FieldDescriptor& field = *within.field(i);
    if (!field.message_type()) continue;
    std::string path = prefix + field.name();
    if (field.message_type() == &wanted) paths.push_back(path);
    find_paths(*field.message_type(), path + ".", wanted, paths);
  }
}

/// The field of this name in the schema, for its type; names that several messages use agree in what matters here.
const FieldDescriptor* find_field(const Descriptor& type, std::string_view name) {
  if (const FieldDescriptor* field = type.FindFieldByName(std::string(name))) return field;
  for (int i = 0; i < type.field_count(); ++i) {
    if (!type.field(i)->message_type()) continue;
    if (const FieldDescriptor* field = find_field(*type.field(i)->message_type(), name)) return field;
  }
  return nullptr;
}

std::optional<std::string_view> after(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return std::nullopt;
  return text.substr(prefix.size());
}

std::string_view until_quote(std::string_view text) {
  return text.substr(0, text.find('"'));
}

std::string in_capitals(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(toupper(c)); });
  return out;
}

std::string unknown_value_message(const EnumDescriptor& type, std::string_view field, std::string_view value) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  std::string nearest = nearest_name(in_capitals(value), names);
  if (!nearest.empty()) {
    return fmt::format("{} cannot be '{}'; did you mean {}?", field, printable(value), nearest);
  }
  return fmt::format("{} cannot be '{}'; choose one of {}", field, printable(value), fmt::join(names, ", "));
}

std::string found(std::string_view token) {
  return token.empty() ? "the end of the text" : printable(token, 60);
}

std::string without_full_stop(std::string_view message) {
  if (message.ends_with('.')) message.remove_suffix(1);
  std::string out = printable(message, 200);
  if (!out.empty()) out[0] = static_cast<char>(tolower(static_cast<unsigned char>(out[0])));
  return out;
}

}  // namespace

std::string schema_label(const Descriptor& type) {
  const Descriptor& root = *config::RunConfig::descriptor();
  if (&type == &root) return "the config";
  std::vector<std::string> paths;
  find_paths(root, "", type, paths);
  if (paths.empty()) return type.name();
  return paths.size() == 1 ? paths[0] : paths[0].substr(paths[0].rfind('.') + 1);
}

std::string unknown_field_message(const Descriptor& type, std::string_view name) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  std::string nearest = nearest_name(name, names);
  std::string what = fmt::format("{} has no field '{}'; ", schema_label(type), printable(name));
  if (!nearest.empty()) return what + fmt::format("did you mean '{}'?", nearest);
  return what + fmt::format("it has {}", fmt::join(names, ", "));
}

std::string describe_parse_error(const Descriptor& root, std::string_view message, std::string_view field) {
  std::string subject = field.empty() ? "a value" : printable(field);
  if (auto type_name = after(message, "Message type \"")) {
    const Descriptor* type = root.file()->pool()->FindMessageTypeByName(std::string(until_quote(*type_name)));
    size_t name = message.rfind(" \"");
    if (type && name != std::string_view::npos)
      return unknown_field_message(*type, until_quote(message.substr(name + 2)));
  }
  if (auto value = after(message, "Unknown enumeration value of \"")) {
    size_t name = message.rfind(" \"");
    std::string_view field_name = name == std::string_view::npos ? field : until_quote(message.substr(name + 2));
    const FieldDescriptor* found_field = find_field(root, field_name);
    if (found_field && found_field->enum_type()) {
      return unknown_value_message(*found_field->enum_type(), field_name, until_quote(*value));
    }
  }
  if (auto name = after(message, "Non-repeated field \"")) return fmt::format("{} is set twice", until_quote(*name));
  if (auto token = after(message, "Expected integer, got: ")) {
    return fmt::format("{} needs an integer, found {}", subject, found(*token));
  }
  if (auto token = after(message, "Expected double, got: ")) {
    return fmt::format("{} needs a number, found {}", subject, found(*token));
  }
  if (auto token = after(message, "Expected string, got: ")) {
    return fmt::format("{} needs a text in quotes, found {}", subject, found(*token));
  }
  if (auto value = after(message, "Integer out of range (")) {
    return fmt::format("{}: {} is out of range", subject, printable(value->substr(0, value->find(')')), 60));
  }
  if (auto name = after(message, "Invalid value for boolean field \"")) {
    std::string_view value = message.substr(message.find("Value: \"") + 8);
    return fmt::format("{} needs true or false, found {}", until_quote(*name), found(until_quote(value)));
  }
  return without_full_stop(message);
}

}  // namespace weft
