// The schema's own documentation.
#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/stubs/strutil.h>

#include <vector>

#include "checkpoint/nearest_name.h"
#include "config/run_config.h"
#include "config/schema_bytes.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

/// A field and how it is reached.
struct FieldPath {
  std::string path;
  const FieldDescriptor* field = nullptr;
};

void list_fields(const Descriptor& type, const std::string& prefix, std::vector<FieldPath>& fields) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    fields.push_back({prefix + field.name(), &field});
    if (field.message_type()) list_fields(*field.message_type(), prefix + field.name() + ".", fields);
  }
}

/// A declaration's comment, its lines joined.
template <typename Declaration>
std::string comment_of(const Declaration& declaration) {
  google::protobuf::SourceLocation location;
  if (!declaration.GetSourceLocation(&location)) return {};
  std::string text;
  for (char c : location.leading_comments) {
    if (c == '\n') c = ' ';
    if (c != ' ' || !text.ends_with(' ')) text += c;
  }
  size_t begin = text.find_first_not_of(' ');
  size_t end = text.find_last_not_of(' ');
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

std::string value_names(const EnumDescriptor& type) {
  std::string names;
  for (int i = 0; i < type.value_count(); ++i) names += (i > 0 ? " | " : "") + type.value(i)->name();
  return names;
}

std::string default_of(const FieldDescriptor& field) {
  if (!field.has_default_value()) return {};
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return fmt::format(" = {}", field.default_value_int64());
    case FieldDescriptor::CPPTYPE_UINT64:
      return fmt::format(" = {}", field.default_value_uint64());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return " = " + google::protobuf::SimpleDtoa(field.default_value_double());
    case FieldDescriptor::CPPTYPE_BOOL:
      return fmt::format(" = {}", field.default_value_bool());
    case FieldDescriptor::CPPTYPE_ENUM:
      return " = " + field.default_value_enum()->name();
    default:
      return " = \"" + field.default_value_string() + "\"";
  }
}

std::string type_of(const FieldDescriptor& field) {
  std::string type = field.message_type() ? field.message_type()->name()
                     : field.enum_type()  ? value_names(*field.enum_type())
                                          : std::string(field.cpp_type_name());
  return (field.is_repeated() ? "list of " : "") + type + default_of(field);
}

void describe_field(const FieldPath& at, std::string& out) {
  out += fmt::format("{}: {}\n", at.path, type_of(*at.field));
  std::string comment = comment_of(*at.field);
  if (!comment.empty()) out += fmt::format("    {}\n", comment);
  const EnumDescriptor* values = at.field->enum_type();
  for (int i = 0; values && i < values->value_count(); ++i) {
    std::string meaning = comment_of(*values->value(i));
    if (!meaning.empty()) out += fmt::format("    {}: {}\n", values->value(i)->name(), meaning);
  }
}

void describe_message(const Descriptor& type, const std::string& prefix, std::string& out) {
  for (int i = 0; i < type.field_count(); ++i) {
    out += '\n';
    describe_field({prefix + type.field(i)->name(), type.field(i)}, out);
  }
}

void describe(const FieldPath& at, std::string& out) {
  describe_field(at, out);
  if (!at.field->message_type()) return;
  std::string meaning = comment_of(*at.field->message_type());
  if (!meaning.empty()) out += fmt::format("    {}\n", meaning);
  describe_message(*at.field->message_type(), at.path + (at.field->is_repeated() ? "[0]." : "."), out);
}

std::string without_indices(std::string_view path) {
  std::string out;
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] == '[') i = std::min(path.find(']', i), path.size() - 1);
    if (path[i] != ']') out += path[i];
  }
  return out;
}

/// The field of that path, or else all fields of that name.
std::vector<FieldPath> find_fields(const Descriptor& root, std::string_view field_path) {
  std::string wanted = without_indices(field_path);
  std::vector<FieldPath> fields, named;
  list_fields(root, "", fields);
  std::vector<std::string> names;
  for (const FieldPath& at : fields) {
    if (at.path == wanted) return {at};
    if (at.field->name() == wanted) named.push_back(at);
    names.push_back(at.path);
    names.push_back(at.field->name());
  }
  if (named.empty()) {
    std::string nearest = nearest_name(wanted, names);
    fail_input("the schema has no field '{}'; {}",
               printable(field_path),
               nearest.empty() ? "see `weft config --explain`" : fmt::format("did you mean '{}'?", nearest));
  }
  return named;
}

}  // namespace

std::string explain_config(std::string_view field_path) {
  google::protobuf::FileDescriptorSet files;
  bool is_parsed = files.ParseFromArray(schema_bytes().data(), static_cast<int>(schema_bytes().size()));
  WEFT_ASSERT(is_parsed && files.file_size() == 1);
  DescriptorPool pool;
  const auto* file = pool.BuildFile(files.file(0));
  const Descriptor* root = file ? file->FindMessageTypeByName("RunConfig") : nullptr;
  WEFT_ASSERT(root);
  std::string out;
  if (field_path.empty()) {
    out = comment_of(*root) + " `weft config --explain FIELD` says what is in each.\n";
    describe_message(*root, "", out);
    return out;
  }
  for (const FieldPath& at : find_fields(*root, field_path)) {
    if (!out.empty()) out += '\n';
    describe(at, out);
  }
  return out;
}

}  // namespace weft
