// A record of JSON as it comes from outside, and what training makes of it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_template.h"

namespace weft {

/// An instruction, what it is about, and the answer (Taori et al., 2023: Alpaca).
struct Instruction {
  std::string instruction, input, output;  // input may be empty
};

/// What a record holds: one of the four.
struct TrainingDocument {
  std::optional<std::string> text = {};
  std::optional<std::string> prompt = {}, completion = {};  // together
  std::vector<ChatMessage> messages = {};
  std::optional<Instruction> instruction = {};
};

/// Names that parse_training_document knows by the names of a user's records: {"question", "prompt"}.
using FieldNames = std::map<std::string, std::string, std::less<>>;

/// Of "prompt=question" and its like. Throws Error(bad_input) for another form, and for a first name that is none of
/// parse_training_document's.
FieldNames parse_field_names(const std::vector<std::string>& pairs);

/// Parses an object with "text"; with "prompt" and "completion"; with "messages" [{"role", "content"}, …]; with
/// "conversations" [{"from", "value"}, …] as ShareGPT has them, and a "system" beside them; or with "instruction",
/// "output" and perhaps "input" as Alpaca has them, and then perhaps a "text" of the three, which is passed over as
/// other fields are. Throws Error(bad_input) with what was expected and found; the caller says where.
TrainingDocument parse_training_document(std::string_view record, const FieldNames& names = {});

}  // namespace weft
