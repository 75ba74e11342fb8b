// What the early GPTs (OpenAI's GPT, GPT-2, GPT2-ML) share: the settings that their configs spell alike and how a
// block's layers are called.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "models/encoder_config.h"
#include "models/weight_rows.h"

namespace weft {

/// A causal model with learned positions whose output layer is the token table. Sizes under Hugging Face's keys
/// (n_embd, …) or the seed's (hidden_size, …).
EncoderConfig read_gpt(const ModelSource& source);

/// Names of a block's layers in one format, {i} for its number. Where query, key and value have one name, theirs are
/// the parts of one matrix.
struct GptBlockNames {
  std::string query, key, value, output, up, down;
  std::string attention_norm = {}, mlp_norm = {};  // theirs
  std::string our_attention_norm = {}, our_mlp_norm = {};
};

std::vector<WeightRow> gpt_block_rows(const EncoderConfig& config,
                                      const GptBlockNames& names,
                                      const Spelling& dense,
                                      const Spelling& norm);

/// Rows of the tables: tokens, positions, and segments where `segments` names them.
void add_gpt_tables(std::vector<WeightRow>& rows,
                    const EncoderConfig& config,
                    const std::string& tokens,
                    const std::string& positions,
                    const std::string& segments = "");

/// Names of a block in files of bert4keras3, norms apart.
GptBlockNames keras_gpt_block();

/// Where GPT and GPT-2 depart from each other.
struct GptNames {
  std::string norm_side;                         // of what a block's norms belong to: "input" or "output"
  std::string tokens, positions;                 // transformers' names of the tables
  std::vector<std::string> huggingface_ignored;  // what its files hold besides
};

/// GPT or GPT-2 of complete settings: their weights in all formats, and their config. `huggingface` are keys of
/// transformers' config that only one of them has.
ModelDefinition gpt_definition(const ModelSource& source,
                               const EncoderConfig& config,
                               const GptNames& names,
                               const nlohmann::ordered_json& huggingface);

/// "attention.SIDE.LayerNorm" and "SIDE.LayerNorm", ours.
std::string gpt_attention_norm(const std::string& side);
std::string gpt_mlp_norm(const std::string& side);

}  // namespace weft
