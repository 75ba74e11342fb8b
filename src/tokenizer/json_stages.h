// The stages of a tokenizer.json from their JSON descriptions. Every function throws Error(bad_input) that names
// `where` and, for a stage of a type that Weft has not, the type and the ones it has.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace weft {

NormalizerChain read_normalizer(const nlohmann::json& description, const std::string& where);

struct PreTokenizerPlan {
  PreTokenizers stages;
  bool is_byte_level = false;  // the last stage is ByteLevel and the model works on bytes instead of their spelling
};
/// `reads_bytes`: the model can do that.
PreTokenizerPlan read_pre_tokenizer(const nlohmann::json& description, bool reads_bytes, const std::string& where);

struct SpecialIds {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  TextTemplate pair;  // empty: two texts stand one after the other
};
/// What is put round a single text and round two.
SpecialIds read_post_processor(const nlohmann::json& description,
                               const Vocabulary& vocabulary,
                               const std::string& where);

DecoderSteps read_decoder(const nlohmann::json& description, const std::string& where);

}  // namespace weft
