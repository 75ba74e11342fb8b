// Protobuf's parse errors in the words of a config's author.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace google::protobuf {
class Descriptor;
}

namespace weft {

/// "train has no field 'learning_rat'; did you mean 'learning_rate'?" `path` leads to the message ("train.schedule");
/// an empty one is the whole config.
std::string unknown_field_message(const google::protobuf::Descriptor& type,
                                  std::string_view path,
                                  std::string_view name);

/// What is wrong with a text, and where.
struct TextProblem {
  size_t offset = 0;
  std::string message;
};

/// Rewrites an error of google::protobuf::TextFormat, which names no field or only its last part, and the token after
/// the culprit. `root` is the type that was parsed from `text`.
TextProblem describe_parse_error(const google::protobuf::Descriptor& root,
                                 std::string_view text,
                                 const TextProblem& error);

}  // namespace weft
