// Runs of a model with everything that a golden file may hold brought out: intermediate values, gradients of whole
// parameters, continuations.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"

namespace weft {

/// Values of the packed tokens of a batch, [tokens, width] in f32.
struct TokenValues {
  int64_t width = 0;
  std::vector<float> values;

  int64_t rows() const { return width == 0 ? 0 : static_cast<int64_t>(values.size()) / width; }
  std::span<const float> row(int64_t index) const {
    return {values.data() + index * width, static_cast<size_t>(width)};
  }
};

/// By the names that the model observes ("hidden/0", …, "final"), and "logits".
using ObservedValues = std::map<std::string, TokenValues, std::less<>>;

TokenValues to_token_values(const Tensor& tensor);

/// A forward pass (without a cache where there are no states to start from), and all heads: "logits" and "proba", one
/// row a token; "pooled", "pair_logits" and "pair_proba", one a sequence; "replaced_logits" and "replaced_proba", one a
/// token; "task_logits" and "task_proba", one a sequence or a token, as the task's layer is.
ObservedValues run_forward(const Context& context, LanguageModel& model, const Batch& batch, KvCache* cache = nullptr);

/// The rows of a softmax, or of a sigmoid where they have one element.
TokenValues to_probabilities(TokenValues logits);

/// Receives the gradient of a whole parameter, gathered from all ranks; empty where no gradient arrived.
using GradientSink = std::function<void(const Parameter& parameter, std::vector<float> gradient)>;

/// What a training pass scores; the loss is the sum of what is there.
struct TrainingTargets {
  std::vector<int32_t> tokens;        // of the output layer; −1: ignored
  std::vector<float> weights;         // of `tokens`
  std::vector<int32_t> rows = {};     // the tokens that `tokens` are of; empty: all
  std::vector<int32_t> pairs = {};    // a class a sequence, of the pair head; the mean is taken
  std::vector<float> replaced = {};   // 0 or 1 a token, of the discriminator; the mean is taken
  std::vector<int32_t> classes = {};  // a class a sequence, of a classifier of texts; the mean is taken
};

/// Forward, loss, backward. Hands every parameter's gradient to `sink` and returns the loss. The model must have been
/// loaded for training.
double run_training_pass(const Context& context,
                         LanguageModel& model,
                         const Batch& batch,
                         const TrainingTargets& targets,
                         const GradientSink& sink);

/// Chooses the next id from all of a row's ids so far and its logits, which it may change.
using ChooseNext = std::function<int32_t(std::span<const int32_t> ids, std::span<float> logits)>;

struct GreedyRequest {
  std::vector<std::vector<int32_t>> prompts;
  std::vector<int64_t> num_new_tokens;              // a row
  std::vector<std::vector<int32_t>> segments = {};  // of each row, prompt and answer; empty: all 0
  std::vector<std::vector<int32_t>> sources = {};   // of each row, for encoder-decoders
  std::vector<int64_t> visible_sources = {};        // of each source, through a cache: tokens attended to; empty: all
  int32_t end_id = -1;                              // a row ends with it; −1: never
  bool use_cache = true;                            // else the whole sequence is run again at every step
  DType cache_dtype = DType::f32;
  ChooseNext choose;  // null: the largest logit
};

struct GreedyRow {
  std::vector<int32_t> new_ids;
  std::vector<std::vector<float>> step_logits;  // what chose each new id
};

/// All rows in one batch of ragged lengths; rows leave it as they end.
std::vector<GreedyRow> run_greedy(const Context& context, LanguageModel& model, const GreedyRequest& request);

}  // namespace weft
