#include "generate/request_support.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace weft {

bool writes_texts(const ModelInfo& info) {
  return info.has_language_model_head && info.attention != AttentionPattern::bidirectional;
}

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const ModelInfo& info, std::string_view text) {
  bool is_continued = !info.has_source && info.attention == AttentionPattern::causal;
  return is_continued ? tokenizer.encode_beginning(text) : tokenizer.encode(text, true);
}

std::vector<int32_t> answer_end_ids(const ModelInfo& info, std::span<const int32_t> tokenizer_ids) {
  std::vector<int32_t> ids = info.end_ids;
  ids.insert(ids.end(), tokenizer_ids.begin(), tokenizer_ids.end());
  return ids;
}

void check_prompt(const ModelInfo& info,
                  std::span<const int32_t> prompt,
                  std::span<const int32_t> source,
                  size_t index) {
  auto length = static_cast<int64_t>(prompt.size());
  bool is_empty = length == 0 || (info.has_source && source.empty());
  if (is_empty) fail_input("prompt {} has no tokens; give it some text", index + 1);
  WEFT_ASSERT(info.has_source || source.empty(), "{} reads no sources", info.family);
  if (info.max_positions > 0 && length >= info.max_positions) {
    fail_input(
        "prompt {} has {} tokens, but the model's context is {} tokens for prompt and answer together; shorten the "
        "prompt",
        index + 1,
        length,
        info.max_positions);
  }
  for (std::span<const int32_t> ids : {prompt, source}) {
    for (int32_t id : ids) {
      if (id >= 0 && id < info.vocab_size) continue;
      fail_input("prompt {} has token id {}, but the model's ids are 0 to {}; is this the model's tokenizer?",
                 index + 1,
                 id,
                 info.vocab_size - 1);
    }
  }
}

void check_condition(const ModelInfo& info, const Condition& condition) {
  bool has_label = condition.label >= 0, has_values = !condition.values.empty();
  if (!info.condition.is_there()) {
    if (has_label || has_values) fail_input("a condition was given to a model whose norms take none");
    return;
  }
  bool takes_labels = !info.condition.labels.empty();
  if (!has_label && !has_values) {
    fail_input("this model's norms take a condition ({}), and none was given",
               takes_labels ? printable(fmt::format("{}", fmt::join(info.condition.labels, ", ")), 400)
                            : fmt::format("a list of {} numbers", info.condition.width));
  }
  if (has_label) return;
  if (takes_labels) fail_input("this model's conditions are labels, not numbers");
  if (std::ssize(condition.values) == info.condition.width) return;
  fail_input("a condition of {} numbers was given, this model takes {}", condition.values.size(), info.condition.width);
}

void check_max_new_tokens(int64_t max_new_tokens) {
  if (max_new_tokens < 1) fail(ExitCode::usage, "max-new-tokens must be at least 1, not {}", max_new_tokens);
}

int64_t answer_limit(const ModelInfo& info, std::span<const int32_t> prompt, int64_t max_new_tokens) {
  int64_t context = info.max_positions > 0 ? info.max_positions : std::numeric_limits<int32_t>::max();
  return std::min(max_new_tokens, context - static_cast<int64_t>(prompt.size()));
}

std::span<float> row_of_logits(Tensor& logits, int64_t row, std::vector<float>& converted) {
  auto width = static_cast<size_t>(logits.size(-1));
  size_t offset = static_cast<size_t>(row) * width;
  if (logits.dtype() == DType::f32) return {logits.data<float>() + offset, width};
  converted.resize(width);
  const auto* from = static_cast<const std::byte*>(logits.raw()) + offset * dtype_bytes(logits.dtype());
  convert_dtype(from, logits.dtype(), converted.data(), DType::f32, static_cast<int64_t>(width));
  return converted;
}

std::span<float> values_of_logits(Tensor& logits, std::vector<float>& converted) {
  auto count = static_cast<size_t>(logits.num_elements());
  if (logits.dtype() == DType::f32) return {logits.data<float>(), count};
  converted.resize(count);
  convert_dtype(logits.raw(), logits.dtype(), converted.data(), DType::f32, logits.num_elements());
  return converted;
}

void forbid_ids(std::span<float> logits, std::span<const int32_t> ids) {
  for (int32_t id : ids) {
    if (id >= 0 && static_cast<size_t>(id) < logits.size()) {
      logits[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
    }
  }
}

}  // namespace weft
