// The part of a text that answers a question.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace weft {

/// Tokens of a sequence. The first token of the sequence alone stands for no answer.
struct PredictedAnswer {
  int32_t first = 0, last = 0;
  float score = 0;       // sum of the logits of its first and last token
  float none_score = 0;  // the same of the sequence's first token: no answer here
};

/// The best of a sequence of task_logits [tokens, 2] whose text that may hold the answer is tokens [text_begin,
/// text_end), counted from `begin`.
PredictedAnswer predict_answer(
    const Tensor& logits, int64_t begin, int64_t text_begin, int64_t text_end, int64_t max_answer_length);

/// The text's tokens in a sequence of question and text: those of segment 1 but the last, which is a special one.
struct TextTokens {
  int64_t begin = 0, end = 0;
};
TextTokens text_tokens(std::span<const int32_t> segments);

}  // namespace weft
