// Protobuf text of a config to the message, with the place of every field.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace google::protobuf {
class Message;
}

namespace weft {

/// Where each field that was set stands: "train.schedule.points[0].step" → "file:line:column".
using FieldLocations = std::map<std::string, std::string, std::less<>>;

/// "file:line:column" of an offset; columns are bytes, tabs reach to the next multiple of 8.
std::string place_in_text(const std::string& file, std::string_view text, size_t offset);

/// Adds a text's fields to an empty message. Throws Error(bad_input): one line, "file:line:column: …".
void read_config_text(const std::string& text,
                      const std::string& file,
                      google::protobuf::Message& message,
                      FieldLocations& locations);

/// The same for a text that has no lines to speak of, such as an override's: messages begin with `place`.
void read_config_fragment(const std::string& text, const std::string& place, google::protobuf::Message& message);

}  // namespace weft
