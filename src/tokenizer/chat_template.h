// Chat formats of the instruct models.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace weft {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

/// The prompt text of a conversation in the tokenizer's own format. `format` names one of the built-in formats
/// ("llama3", "chatml", "gemma", …); empty recognises the tokenizer's chat template, and RWKV's tokenizer. The text
/// already holds every special token: encode it without adding any. Throws Error(bad_input) when the model has no chat
/// format that is known, or the format does not allow a role.
std::string render_chat(const Tokenizer& tokenizer,
                        std::span<const ChatMessage> messages,
                        bool add_generation_prompt,
                        std::string_view format = {});

/// Throws Error(bad_input) for a format that is not known, or whose marks the tokenizer's vocabulary lacks.
void check_chat_format(const Tokenizer& tokenizer, std::string_view format);

/// The ids that end an answer in this format: the tokenizer's, and what ends a turn without being a special token.
/// Those of the tokenizer alone where no format is known.
std::vector<int32_t> chat_end_ids(const Tokenizer& tokenizer, std::string_view format = {});

}  // namespace weft
