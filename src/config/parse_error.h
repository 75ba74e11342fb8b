// Protobuf's parse errors in the words of a config's author.
#pragma once

#include <string>
#include <string_view>

namespace google::protobuf {
class Descriptor;
}

namespace weft {

/// How messages call a part of the schema: its path where there is only one ("train.schedule"), else the name of the
/// fields that hold it ("sources").
std::string schema_label(const google::protobuf::Descriptor& type);

/// "train has no field 'learning_rat'; did you mean 'learning_rate'?"
std::string unknown_field_message(const google::protobuf::Descriptor& type, std::string_view name);

/// What google::protobuf::TextFormat says, rewritten. `field` is the field it happened at, or empty; `root` is the
/// type that was parsed.
std::string describe_parse_error(const google::protobuf::Descriptor& root,
                                 std::string_view message,
                                 std::string_view field);

}  // namespace weft
