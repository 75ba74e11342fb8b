// The interface of every model over one sequence of tokens, decoders and encoders: generation, encoding, verification
// and training see nothing more.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "autograd/context.h"
#include "models/condition.h"
#include "models/task_head.h"
#include "nn/kv_cache.h"
#include "nn/parameter.h"
#include "ops/cross_entropy.h"

namespace weft {

/// One sequence of a packed batch.
struct BatchSequence {
  int64_t begin = 0;   // first token in Batch::ids
  int64_t length = 0;  // tokens in this batch
  int64_t past = 0;    // tokens already in the cache; the first token stands at this position
  int64_t slot = 0;    // cache slot
  /// Of encoder-decoder models with a cache: where its source lies there, and its tokens.
  int64_t source_slot = 0;
  int64_t source_length = 0;
};

/// A source of encoder-decoder models.
struct BatchSource {
  int64_t begin = 0;   // first token in Batch::source_ids
  int64_t length = 0;  // at least 1
  int64_t slot = 0;    // of sources in the cache
};

/// Embeddings of tokens as a model looks them up (and scales them): how many there are, and Σ‖e‖².
struct EmbeddingSize {
  int64_t rows = 0;
  double squares = 0;
};

/// What the norms of a conditional model take for a sequence: a label of theirs, or as many numbers as they want.
struct Condition {
  int32_t label = -1;
  std::vector<float> values = {};
};

/// Tokens of several sequences, one after the other, without padding.
struct Batch {
  std::vector<int32_t> ids;
  std::vector<BatchSequence> sequences;
  int64_t first_sequence = 0;         // index of the first one in the whole step's batch, for dropout
  std::vector<int32_t> segment_ids;   // one a token, for models with segments; empty: all 0
  std::vector<int32_t> position_ids;  // one a token; empty: past, past + 1, …
  /// For models with conditional norms, one of the three: [sequences, width]; the same numbers; or a label a sequence.
  Tensor condition;
  std::vector<float> condition_values;
  std::vector<int32_t> condition_labels;
  /// [tokens, hidden_size], added to the (scaled) embeddings when defined, whole on every rank; may want a gradient.
  Tensor embedding_offset;
  /// When not null: what embedding_offset is added to, this rank's rows, is added here.
  EmbeddingSize* embedding_size = nullptr;

  /// Of encoder-decoder models: what the encoder reads. Without a cache sources[i] is that of sequences[i]; with one
  /// they are read into it, for this and later steps.
  std::vector<int32_t> source_ids;
  std::vector<BatchSource> sources;
  Tensor source_states;            // [source tokens, hidden_size]: instead of ids, what an encoder made of them
  int64_t first_source_token = 0;  // as Context::first_token, of source_ids

  /// Appends a source.
  void add_source(const std::vector<int32_t>& tokens, int64_t slot = 0);
  /// Appends a sequence; its tokens are of segment 0.
  void add(const std::vector<int32_t>& tokens, int64_t past = 0, int64_t slot = 0);
  /// Appends a sequence with a segment a token.
  void add(const std::vector<int32_t>& tokens,
           const std::vector<int32_t>& segments,
           int64_t past = 0,
           int64_t slot = 0);
  /// Appends the condition of the next sequence, where there is one.
  void add_condition(const Condition& one);
  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  /// Where each sequence begins.
  std::vector<int32_t> first_tokens() const;
  /// For head_input of some of its tokens: each as a sequence of its own, with its condition.
  Batch of_tokens(std::span<const int32_t> tokens) const;
};

/// Which tokens of its sequence a token sees: all; those up to itself; or the source (segment 0) as a whole and the
/// target up to itself (UniLM: Dong et al., 2019).
enum class AttentionPattern : uint8_t { bidirectional, causal, prefix };

/// What a sequence of a recurrent model starts from: nothing, states that are learned, or those and the inputs before
/// the first.
enum class InitialState : uint8_t { zeros, learned, learned_with_shifts };

/// What commands print and size things by.
struct ModelInfo {
  std::string family;  // "llama", "bert", …
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_positions = 0;  // the context the model was trained for
  bool tied_embedding = false;
  std::vector<int32_t> end_ids;  // eos_token_id of the config, if any
  AttentionPattern attention = AttentionPattern::causal;
  bool is_encoder = false;    // trained to see both sides, whatever `attention` is asked for
  bool has_source = false;    // an encoder-decoder: sequences continue from their sources
  int32_t start_id = -1;      // what an encoder-decoder's answers start with, before their first token
  bool is_recurrent = false;  // its cache is a state of constant size, which cannot be cut back
  InitialState initial_state = InitialState::zeros;  // of a recurrent model
  int64_t num_segments = 0;                          // 0: the model knows no segments
  TaskHead task_head = {};
  ConditionConfig condition = {};  // of its norms
  bool has_language_model_head = true;
  bool seed_masks_padding = false;  // whether bert4keras3 hides id 0 in this family
  /// Whether generation through a cache departs from that without as bert4keras3's does.
  bool imitates_seed_cache = false;
};

/// The output layer: logits = cap·tanh((x · weightᵀ + bias) / cap), without a cap where it is 0.
struct LanguageModelHead {
  const Parameter* weight = nullptr;  // [vocab_size, width], split over the vocabulary
  const Parameter* bias = nullptr;    // [vocab_size], split likewise
  float soft_cap = 0;
};

struct Linear;

/// A linear layer that an adapter may change: "model.layers.0.self_attn.q_proj".
struct NamedLinear {
  std::string name;
  Linear* linear = nullptr;
};
/// By its weight's name without ".weight".
NamedLinear named_linear(Linear& linear);

/// A model over sequences of tokens, this rank's share of it. Construction declares parameters; load_model fills them.
class LanguageModel {
 public:
  explicit LanguageModel(TensorParallelPlace place) : parameters_(place) {}
  virtual ~LanguageModel() = default;
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  virtual const ModelInfo& info() const = 0;

  /// Hidden states after the final norm, [tokens, hidden_size] on every rank (their gradient is summed over the
  /// tensor-parallel ranks: each gives its part). With a cache the new keys and values are written to it
  /// and past ones are read; without one every sequence must have past == 0. Ids must lie in [0, vocab_size)
  /// (Error(bad_input) otherwise).
  virtual Tensor hidden(Context& context, const Batch& batch, KvCache* cache) = 0;

  /// The token embedding, [vocab_size, hidden_size], split over the vocabulary.
  Parameter& embedding_table() { return *embedding_table_; }

  /// What the output layer multiplies, of some hidden states: themselves, or for masked language models what a dense
  /// layer and a norm make of them. `batch` is asked for by models with conditional norms, and then the rows are
  /// all of its tokens.
  virtual Tensor head_input(Context& context, const Tensor& hidden, const Batch* batch = nullptr);

  /// This rank's columns of the logits of some hidden states, f32 (f64 for f64), final soft cap applied: [rows, local
  /// vocabulary].
  virtual Tensor local_logits(Context& context, const Tensor& hidden, const Batch* batch = nullptr);

  /// A sequence's vector from its first token's hidden state, [sequences, hidden_size]; undefined for models without.
  /// Of this head and the next ones every rank computes the same: a loss of theirs goes through share_gradient_over_tp.
  virtual Tensor pooled(Context& context, const Tensor& hidden, const Batch& batch);
  /// Whether a sequence is a pair that belongs together (next sentence, sentence order), logits [sequences, 2]; from
  /// `pooled`. Undefined for models without.
  virtual Tensor pair_logits(Context& context, const Tensor& pooled);
  /// Whether a token was replaced (ELECTRA), logits [tokens, 1]; undefined for models without.
  virtual Tensor replaced_logits(Context& context, const Tensor& hidden);

  /// What the task's layer (info().task_head) makes of the hidden states: [sequences, labels] of
  /// sequence_classification, else [tokens, the layer's outputs]; undefined for models without.
  virtual Tensor task_logits(Context& context, const Tensor& hidden, const Batch& batch);
  /// Of a crf the stored transitions [labels, labels], from row to column; undefined for others.
  virtual Tensor task_transitions() const { return {}; }
  /// The vector that stands for a sequence: the pooler's, or, of a model without one, the first token's hidden state.
  Tensor sequence_vectors(Context& context, const Tensor& hidden, const Batch& batch);

  /// The output layer; without a weight for models that have none.
  virtual LanguageModelHead head() const { return {}; }
  /// All linear layers of the blocks.
  virtual std::vector<NamedLinear> linears() { return {}; }

  /// Logits over the whole vocabulary on every rank, [rows, vocab_size]; not for training.
  Tensor logits(Context& context, const Tensor& hidden, const Batch* batch = nullptr);

  /// First vocabulary id of local_logits' columns.
  int64_t vocabulary_begin() const;

  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }

  virtual KvCacheShape kv_cache_shape(DType dtype) const;

 protected:
  ParameterStore parameters_;
  Parameter* embedding_table_ = nullptr;  // set by the family's constructor
};

/// LanguageModel::logits of some tokens of a batch, whose hidden states are those of all.
Tensor logits_of_tokens(
    Context& context, LanguageModel& model, const Tensor& hidden, const Batch& batch, std::span<const int32_t> tokens);

/// The loss of each token, and Σ weight·loss, or that / Σ weight (the default). Targets of −1 are ignored; no weights
/// are all ones. Vocabulary-parallel and in chunks of tokens: the whole logits never exist on a rank. Its gradient has
/// to be seeded with 1 (ops/cross_entropy.h).
struct LanguageModelLoss {
  Tensor loss;        // one element, f32 or f64
  Tensor token_loss;  // [tokens], 0 where ignored
};
LanguageModelLoss language_model_loss(Context& context,
                                      LanguageModel& model,
                                      const Tensor& hidden,
                                      const std::vector<int32_t>& targets,
                                      const std::vector<float>& weights,
                                      LossReduction reduction = LossReduction::mean,
                                      const Batch* batch = nullptr);

/// Completes gradients after backward: sums those of which each tensor-parallel rank has a part (key/value projections
/// that several ranks hold, replicated parameters of tensor- or sequence-parallel layers). Keeps the communicators that
/// it needs.
class GradientFinisher {
 public:
  explicit GradientFinisher(TensorParallelPlace place);
  ~GradientFinisher();
  /// Every rank calls it with the same parameters. One that got no gradient counts as zeros.
  void finish(Context& context, std::span<Parameter* const> parameters);

 private:
  Communicator& group_of(Context& context, int replicas);

  TensorParallelPlace place_;
  std::map<int, std::unique_ptr<Communicator>> same_heads_;  // by the number of ranks that hold the same heads
};

/// The same for all parameters of a model.
void finish_gradients(Context& context, LanguageModel& model);

/// Makes every parameter's value want a gradient (before a training forward) or not.
void set_trainable(ParameterStore& parameters, bool trainable);
void set_trainable(LanguageModel& model, bool trainable);

}  // namespace weft
