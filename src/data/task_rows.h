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

/// Prompts as sources of encoder-decoders, completions behind the start token.
std::unique_ptr<TrainingData> make_source_data(std::unique_ptr<TrainingData> data, int32_t start_id);

struct CorruptionVocabulary {
  int32_t start_id = 0;
  int32_t end_id = -1;             // behind sources and targets; −1: none
  std::vector<int32_t> sentinels;  // that stand for the runs, in their order
};

struct CorruptionOptions {
  double density = 0.15;  // of tokens that are taken out
  double mean_length = 3;
  uint64_t seed = 0;
};

/// Span corruption (Raffel et al., 2020, 3.1.4): runs of tokens give way to a sentinel each; the targets are the
/// sentinels, each followed by what it stands for. A row's runs depend on its index and the seed alone.
std::unique_ptr<TrainingData> make_corrupted_data(std::unique_ptr<TrainingData> data,
                                                  CorruptionVocabulary vocabulary,
                                                  const CorruptionOptions& options);

/// Prompts as segment 0 and scored completions as segment 1, for UniLM's prefix attention.
std::unique_ptr<TrainingData> make_prefix_data(std::unique_ptr<TrainingData> data);

}  // namespace weft
