// The stages of a tokenizer.json put together: added tokens → normalizer → pre-tokenizer → model → post-processor, and
// the decoder on the way back. Tokenizers from other files are built from the same stages.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_settings.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_model.h"

namespace weft {

struct PipelineParts {
  std::string where;  // for messages
  std::string type;
  std::unique_ptr<Vocabulary> vocabulary;  // model and added tokens
  std::unique_ptr<WordModel> model;        // may refer to the vocabulary
  std::unique_ptr<WordModel>
      plain_model;  // where special tokens are plain text, with scratch of `model`; null: `model`
  std::vector<AddedToken> added_tokens;
  NormalizerChain normalizer;
  PreTokenizers pre_tokenizers;
  std::vector<int32_t> prefix_ids;  // added before and after the text when special tokens are asked for
  std::vector<int32_t> suffix_ids;
  TextTemplate pair_template;       // empty: two texts stand one after the other
  bool recognises_specials = true;  // special tokens written in a text, unless asked otherwise
  DecoderSteps decoder;
  std::optional<int32_t> bos_id;
  std::vector<int32_t> end_ids;
  std::string chat_template;
};

/// Refers to `parts`.
VocabularyView view_of(const PipelineParts& parts);

std::shared_ptr<const Tokenizer> make_pipeline_tokenizer(PipelineParts parts);

}  // namespace weft
