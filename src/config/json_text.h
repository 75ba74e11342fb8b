// JSON configs, read as Protobuf text.
#pragma once

#include <string>

namespace google::protobuf {
class Descriptor;
}

namespace weft {

/// The Protobuf text that says the same as a JSON object whose keys are `type`'s field names, with every token at the
/// same line and column, so that the text reader's messages hold for both. Numbers and enum values may stand in quotes.
/// Throws Error(bad_input), "file:line:column: …", for what is no JSON object.
std::string json_to_config_text(const std::string& json,
                                const std::string& file,
                                const google::protobuf::Descriptor& type);

}  // namespace weft
