// Rows of a language model's data as other tasks take them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/training_data.h"

namespace weft {

/// What masking has to know of a vocabulary.
struct MaskingVocabulary {
  int32_t mask_id = 0;
  int32_t vocab_size = 0;
  std::vector<bool> is_special;    // an id: never masked
  std::vector<bool> is_continued;  // an id: goes on with the word of the token before it
};

struct MaskingOptions {
  double probability = 0.15;  // of a token to become a target
  bool whole_words = true;    // all tokens of a word together
  int64_t max_ngram = 1;      // runs of 1 … max_ngram words, n with a weight of 1 / n (ALBERT: Lan et al., 2019)
  uint64_t seed = 0;
};

/// Masked language modelling (Devlin et al., 2018): part of the words, or tokens, become targets; of these 80 % are
/// masked, 10 % replaced by random tokens, 10 % kept. A row's masks depend on its index and the seed alone, so that
/// every epoch has others.
std::unique_ptr<TrainingData> make_masked_data(std::unique_ptr<TrainingData> data,
                                               MaskingVocabulary vocabulary,
                                               const MaskingOptions& options);

/// Prompts as segment 0 and scored completions as segment 1, for UniLM's prefix attention.
std::unique_ptr<TrainingData> make_prefix_data(std::unique_ptr<TrainingData> data);

}  // namespace weft
