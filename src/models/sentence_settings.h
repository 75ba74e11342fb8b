// What sentence-transformers keeps beside a model: how a text's vector is made of its tokens' (1_Pooling/config.json),
// and how many tokens a text has at most (sentence_bert_config.json). https://sbert.net/docs/sentence_transformer/usage
#pragma once

#include <cstdint>
#include <string>

namespace weft {

class ModelConfig;

/// "mean", "cls", "max" or "last"; empty where the folder has no such file. Throws Error(bad_input) for other ways of
/// pooling.
std::string read_sentence_pooling(const std::string& model);

/// Tokens; 0 where the folder has no such file.
int64_t read_sentence_length(const std::string& model);

/// Whether the output of a classifier with one label is the answer itself, a number of any size, and no logit:
/// transformers' problem_type and sentence-transformers' activation of its cross-encoders say so.
bool is_regression(const ModelConfig& config);

/// Writes the files into the folder of a model whose vectors have `width` numbers, so that sentence-transformers opens
/// it.
void write_sentence_settings(const std::string& folder, const std::string& pooling, int64_t length, int64_t width);

}  // namespace weft
