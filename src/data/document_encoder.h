// Documents to tokens, and which of them are learned.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/token_file_writer.h"
#include "data/training_document.h"
#include "tokenizer/tokenizer.h"

namespace weft {

struct DocumentEncoderOptions {
  std::string chat_format = {};     // "" recognises the tokenizer's own (chat_template.h)
  bool special_tokens = true;       // what the tokenizer puts before and after a text
  bool end_token = true;            // after a text or completion: that there is no more to come is learned
  std::string end_token_text = {};  // which; the tokenizer's end of text if empty
  /// Prompts and completions each encoded by itself, with what stands after a text behind both: for models that read
  /// the one as a whole before they write the other.
  bool separate_texts = false;
  FieldNames field_names = {};  // of records of JSON
};

/// Thread-safe.
class DocumentEncoder {
 public:
  /// Throws Error(bad_input) for an end token that the tokenizer doesn't have.
  DocumentEncoder(std::shared_ptr<const Tokenizer> tokenizer, const DocumentEncoderOptions& options);

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  /// What stands before and after a text.
  const std::vector<int32_t>& prefix() const { return prefix_; }
  const std::vector<int32_t>& suffix() const { return suffix_; }
  /// Whether a text may be cut after a line end between two visible characters and its parts encoded one by one.
  bool can_cut_lines() const { return can_cut_lines_; }

  /// As parse_training_document, with the options' names of fields.
  TrainingDocument parse(std::string_view record) const { return parse_training_document(record, field_names_); }

  /// A text with what stands before and after it; no ids for a text without tokens. All of it is scored.
  TokenDocument encode_text(std::string_view text) const;
  /// The completion and what stands after it are scored, beginning with the first token that the prompt alone doesn't
  /// begin with. Throws Error(bad_input) when there is none.
  TokenDocument encode_completion(std::string_view prompt, std::string_view completion) const;
  TokenDocument encode_separately(std::string_view prompt, std::string_view completion) const;
  /// The assistant's answers from message `first_scored` on are scored, each with its end token. Throws
  /// Error(bad_input) for roles that the format doesn't have, a format that isn't known, and conversations without an
  /// answer there.
  TokenDocument encode_chat(const std::vector<ChatMessage>& messages, size_t first_scored = 0) const;
  /// As a conversation where the tokenizer has a chat format, else as the completion of Alpaca's prompt.
  TokenDocument encode_instruction(const Instruction& instruction) const;
  TokenDocument encode(const TrainingDocument& document) const;

 private:
  void find_special_tokens(const DocumentEncoderOptions& options);
  bool probe_cuts() const;
  bool probe_chat_format() const;
  size_t end_of_answer(const std::vector<int32_t>& ids, size_t begin) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string chat_format_;
  std::vector<int32_t> prefix_, suffix_;
  bool can_cut_lines_ = false;
  bool separate_texts_ = false;
  bool has_chat_format_ = false;
  FieldNames field_names_;
};

}  // namespace weft
