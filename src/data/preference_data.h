// Pairs of answers to a prompt, of which one is preferred.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/memory_rows.h"
#include "tokenizer/chat_template.h"

namespace weft {

class Tokenizer;

/// A prompt and two answers: as texts, or as two conversations that begin alike.
struct PreferenceTexts {
  std::string prompt, chosen, rejected;
  std::vector<ChatMessage> chosen_messages, rejected_messages;  // whole; empty for texts
  size_t prompt_messages = 0;                                   // of either: what both are answers to
  std::string place = {};                                       // "path:line", for messages
};

/// Reads .jsonl files with "chosen" and "rejected" and perhaps "prompt", each a text or a list of messages ("role",
/// "content"). Without a prompt it is what both begin with. Messages may begin with the prompt's. Throws
/// Error(bad_input) with file and line.
std::vector<PreferenceTexts> read_preference_texts(const std::string& path);

struct PreferenceRows {
  std::unique_ptr<TrainingData> data;
  int64_t cut = 0;       // answers that lost tokens at their end
  int64_t left_out = 0;  // pairs whose prompt leaves an answer no room
};

/// A pair a row: two spans, prompt and chosen answer, prompt and rejected answer, each cut to max_length. Targets are
/// the answers' tokens (in conversations the assistant's behind the prompt), each with its end token, as those of
/// completions (DocumentEncoder). Labels of both are the pair's place in `texts`, counted from `first_label`. Throws
/// Error(bad_input) where no pair is left, and for conversations that the tokenizer's chat format does not have.
PreferenceRows make_preference_rows(const std::vector<PreferenceTexts>& texts,
                                    const Tokenizer& tokenizer,
                                    int64_t first_label,
                                    const MemoryRowOptions& options);

}  // namespace weft
