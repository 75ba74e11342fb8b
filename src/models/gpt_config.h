// What the early GPTs (OpenAI's GPT, GPT-2, GPT2-ML) share: the settings that their configs spell alike and how a
// block's layers are called.
#pragma once

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
  std::string attention_norm, mlp_norm;  // theirs
  std::string our_attention_norm, our_mlp_norm;
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
/// Names of a block in TensorFlow's files of GPT and GPT-2, norms apart.
GptBlockNames tensorflow_gpt_block();
/// Names of a block in transformers' files under `prefix`, norms apart.
GptBlockNames huggingface_gpt_block(const std::string& prefix);

/// "transformer.", or nothing: files of both spellings exist.
std::string huggingface_gpt_prefix(const CheckpointReader* reader, const std::string& token_table);

/// What TensorFlow checkpoints hold besides the model.
std::vector<std::string> tensorflow_training_tensors();

}  // namespace weft
