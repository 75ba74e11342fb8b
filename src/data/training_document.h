// A line of JSON as it comes from outside, and what training makes of it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_template.h"

namespace weft {

/// What a line of JSON holds: one of the three.
struct TrainingDocument {
  std::optional<std::string> text;
  std::optional<std::string> prompt, completion;  // together
  std::vector<ChatMessage> messages;
};

/// Parses an object with "text", with "prompt" and "completion", or with "messages" [{"role", "content"}, …]; other
/// fields are passed over. Throws Error(bad_input) with what was expected and found; the caller says where.
TrainingDocument parse_training_document(std::string_view line);

}  // namespace weft
