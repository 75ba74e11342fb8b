// The prompts of weft generate, as its command line and its input give them.
#pragma once

#include <string>
#include <vector>

#include "models/model.h"
#include "tokenizer/chat_template.h"

namespace weft {

struct Prompt {
  std::string text;                        // or
  std::vector<ChatMessage> messages = {};  // a conversation
  std::string id = {};                     // JSON that goes with the answer; empty: none
};

/// Where prompts are, and what becomes of their text.
struct PromptOptions {
  std::vector<std::string> positional, named;
  std::string file;  // "-": standard input; empty: none
  bool takes_whole_file = false;
  bool is_jsonl = false;  // lines are objects
  bool is_chat = false;
  bool is_raw = false;
  bool uses_ids = false;
  std::string system, chat_format;

  bool are_given() const { return !positional.empty() || !named.empty() || !file.empty(); }
};

/// Those of the command line, then those of the file; one that is empty where there are none.
std::vector<Prompt> collect_prompts(const PromptOptions& options);

/// A line of input: text, or with --jsonl {"prompt": text} or {"messages": [{"role", "content"}, …]}, each with "id"
/// as one likes. Throws Error(bad_input); `where` is for the message.
Prompt read_prompt(const PromptOptions& options, const std::string& line, const std::string& where);

/// A label of the model's conditions, or, where those are vectors, a JSON list of numbers. Throws Error(bad_input);
/// `where` is for the message.
Condition parse_condition(const ModelInfo& info, const std::string& text, const std::string& where);

/// `goes_on`: behind a text that the model has read.
std::vector<int32_t> ids_of_prompt(const PromptOptions& options,
                                   const Tokenizer* tokenizer,
                                   const ModelInfo& info,
                                   const Prompt& prompt,
                                   bool goes_on);

}  // namespace weft
