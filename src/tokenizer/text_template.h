// What is put round one text or two, and which tokens go when they are too long together.
#pragma once

#include <cstdint>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace weft {

/// [CLS] first [SEP] second [SEP], segment 1 from the second text on.
TextTemplate bert_pair_template(int32_t cls, int32_t sep);
/// <s> first </s></s> second </s>, segment 0 throughout.
TextTemplate roberta_pair_template(int32_t cls, int32_t sep);

/// Both of the same length, or no spans.
struct TextTokens {
  std::vector<int32_t> ids;
  std::vector<TokenSpan> spans;
};

/// The tokens of one text or two; `second` is null for a single text.
struct TemplateTexts {
  const TextTokens& first;
  const TextTokens* second = nullptr;
};

/// Fills the template, whose texts are exactly those given. One token at a time goes from the longer text, from the
/// first on a tie, until the whole fits into options.max_length. Throws Error(bad_input) when the special tokens alone
/// don't fit.
PairEncoding fill_template(const TextTemplate& text_template,
                           const TemplateTexts& texts,
                           const EncodePairOptions& options);

}  // namespace weft
