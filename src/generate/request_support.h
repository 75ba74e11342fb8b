// What the ways to generate have in common: checks of a prompt, the room for an answer, rows of logits.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "tokenizer/tokenizer.h"

namespace weft {

/// Whether a model writes texts, one token after the other.
bool writes_texts(const ModelInfo& info);

/// A text as a model generates from it. A causal one goes on behind it, so the tokens that close a text are left out; a
/// source is closed.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const ModelInfo& info, std::string_view text);

/// The ids that end an answer: the model's own and `tokenizer_ids`, those of its tokenizer or chat format.
std::vector<int32_t> answer_end_ids(const ModelInfo& info, std::span<const int32_t> tokenizer_ids);

/// Throws Error(bad_input) for a prompt (of an encoder-decoder a source) that is empty, beyond the context or has
/// unknown ids. `index` is for the message.
void check_prompt(const ModelInfo& info,
                  std::span<const int32_t> prompt,
                  std::span<const int32_t> source,
                  size_t index);

/// Throws Error(bad_input) unless a request has the condition that the model takes, and none where it takes none.
void check_condition(const ModelInfo& info, const Condition& condition);

/// Throws Error(usage) for less than 1.
void check_max_new_tokens(int64_t max_new_tokens);

/// Tokens that an answer may have, in what the prompt leaves of the context.
int64_t answer_limit(const ModelInfo& info, std::span<const int32_t> prompt, int64_t max_new_tokens);

/// A row of logits as f32: in place where they are that, else converted into `converted`.
std::span<float> row_of_logits(Tensor& logits, int64_t row, std::vector<float>& converted);

/// All rows of them in the same way.
std::span<float> values_of_logits(Tensor& logits, std::vector<float>& converted);

/// Makes ids impossible; those that the vocabulary lacks are passed over.
void forbid_ids(std::span<float> logits, std::span<const int32_t> ids);

}  // namespace weft
