// Vectors of texts from an encoder's hidden states.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "tokenizer/tokenizer.h"

namespace weft {

/// How the hidden states of a text become one vector: the first token's; the last one's; the mean of all; the largest
/// of all, number by number; the pooler's output; the logits of a classifier of texts. none: they don't, each token
/// keeps its own.
enum class Pooling : uint8_t { cls, last, mean, max, pooled, classified, none };

/// "mean", "max", "cls", "last", "pooled", "none"; throws Error(usage) for others.
Pooling parse_pooling(std::string_view name);

struct SentenceEncoderOptions {
  Pooling pooling = Pooling::mean;
  int64_t layer = -1;           // whose output: 0 the embedding's, i the i-th block's; −1: the last one's
  bool normalise = true;        // to length 1
  int64_t batch_tokens = 1024;  // computed at a time, in texts of like length
  std::function<void(int64_t texts)> on_progress = nullptr;  // after each batch, by how many; by one thread at a time
};

/// A text as the model takes it.
struct TokenisedText {
  std::vector<int32_t> ids;
  std::vector<int32_t> segments = {};  // empty: all 0
  Condition condition = {};            // of models with conditional norms
};

/// A text or a pair with its special tokens, cut to `limit` tokens (0: not cut).
TokenisedText tokenise_text(const Tokenizer& tokenizer,
                            std::string_view first,
                            std::optional<std::string_view> second,
                            int64_t limit);

/// Appends a text's ids and segments to a batch, but not its condition.
void add_text(const TokenisedText& text, Batch& batch);

/// [texts, hidden_size] row by row, in the order given; of Pooling::none [tokens, hidden_size], a text's behind those
/// of the text before; of Pooling::classified [texts, labels]. The same on every tensor-parallel rank. Throws
/// Error(bad_input) for a text without tokens or without the condition that the model takes, for pooling that the model
/// has no layer for and for a layer that it does not have.
std::vector<float> encode_sentences(Context& context,
                                    LanguageModel& model,
                                    const std::vector<TokenisedText>& texts,
                                    const SentenceEncoderOptions& options);

/// The vector of one sequence of a batch, [hidden_size], from hidden states [tokens, hidden_size] in f32.
void pool_mean(const float* hidden, int64_t tokens, int64_t width, float* into);
void pool_max(const float* hidden, int64_t tokens, int64_t width, float* into);

/// Row of each text's first vector among those of all, and, behind the last text's, how many they are.
std::vector<int64_t> first_rows(const std::vector<TokenisedText>& texts, Pooling pooling);

/// Scales a vector to length 1; zeros stay.
void normalise(float* vector, int64_t width);

}  // namespace weft
