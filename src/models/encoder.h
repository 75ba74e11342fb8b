// The encoder that the BERT line (BERT, RoBERTa, DistilBERT, ALBERT, NEZHA, ELECTRA, MPNet, RoFormer, GAU-alpha,
// DeBERTa) and the early GPTs are settings of: an embedding of tokens, segments and positions, blocks, and heads. A
// family's file fills EncoderConfig and, where its blocks or positions are its own, gives what makes them.
//
// Axes: T tokens of a packed batch, H hidden size, E embedding size, V vocabulary.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/model.h"
#include "models/weight_map.h"
#include "nn/encoder_layers.h"

namespace weft {

struct EncoderConfig;

/// A block as the layer of a number: inputs are {x, what all blocks share…, RealFormer's scores if any}, results {x,
/// scores if any}.
class EncoderBlock {
 public:
  virtual ~EncoderBlock() = default;
  virtual std::vector<Tensor> forward(Context& context,
                                      const std::vector<Tensor>& inputs,
                                      const EncoderPass& pass,
                                      int64_t layer) const = 0;
  /// Its linear layers that an adapter may change.
  virtual std::vector<Linear*> linears() = 0;
};

/// Positions as relative terms of attention (NEZHA, DeBERTa, MPNet).
class RelativePositions {
 public:
  /// Tables of one block, kept while its attention runs.
  struct Tables {
    std::vector<Tensor> tensors;
    RelativeTerms terms;
  };

  virtual ~RelativePositions() = default;
  /// What all blocks share, computed once a pass, outside the tensor-parallel region; undefined: nothing.
  virtual Tensor shared(Context& context) const = 0;
  virtual bool has_shared() const = 0;
  /// The tables of a block whose attention is given; `dtype` is that of the block.
  virtual void fill(
      Context& context, const Tensor& shared, const EncoderAttention& attention, DType dtype, Tables& tables) const = 0;
};

enum class AbsolutePositions : uint8_t { none, learned, hierarchical, rotary };

/// What a classifier of texts sees of the first token, as transformers' class of the family has it.
struct ClassifierConfig {
  std::string dense = {};  // a layer of the classifier's own on its hidden state; empty: the pooler's vector
  std::string output = "classifier";
  Activation activation = Activation::gelu_erf;  // behind dense
  bool drops_input = true;                       // the task's dropout stands before dense too
};

struct EncoderConfig {
  ModelInfo info;               // head_dim is that of queries and keys
  std::string prefix = "bert";  // of parameter names, which are those of BERT
  /// Rows from those names to transformers', which the parameters have where there is a row.
  WeightMap names = {};
  int64_t embedding_size = 0;     // other than hidden_size: a dense layer follows the embedding
  int64_t value_dim = 0;          // of a head
  bool splits_value_dim = false;  // tensor-parallel ranks share a head's values instead of whole heads
  bool has_bias = true;           // of all linear layers
  bool has_layer_norm = true;     // else RMS norms without parameters
  bool has_embedding_norm = true;
  bool has_final_norm = false;  // PREFIX.final_norm, behind the last block (of eps)
  double embedding_eps = 1e-12;
  double eps = 1e-12;       // of the blocks' norms
  double head_eps = 1e-12;  // of the masked language model's norm
  Activation activation = Activation::gelu_erf;
  Activation head_activation = Activation::gelu_erf;
  Activation pool_activation = Activation::tanh;
  float dropout = 0;
  float attention_dropout = 0;  // of attention weights
  bool dropout_before_embedding_norm = false;
  bool drops_attended = true;  // dropout of what attention adds to the residual stream
  AbsolutePositions positions = AbsolutePositions::learned;
  int64_t first_position_row = 0;  // of the table of learned positions
  /// Of a checkpoint that brings its own rotary positions: [max_positions, head_dim], sines then cosines; null:
  /// computed.
  std::shared_ptr<const std::vector<float>> rotary_table = nullptr;
  double attention_scale_divisor = 1;  // scores are divided by sqrt(head_dim times this)
  double hierarchical_alpha = 0.4;
  bool segments_in_token_table = false;  // segment ids index the token table
  bool segment_attention = false;        // prefix pattern: a token sees the segments up to its own
  bool shares_blocks = false;            // ALBERT: one block, applied num_layers times
  bool residual_scores = false;          // RealFormer
  bool sums_residual_scores = true;      // the scores that a block passes on have those passed to it in them
  bool has_pooler = false, has_pair_head = false, has_replaced_head = false;
  bool has_new_pooler = false;  // the pooler belongs to the classifier of texts: the checkpoint had none
  ClassifierConfig classifier;
  bool has_head_transform = true;  // dense, activation, norm before the output layer
  bool has_head_bias = true;
  /// Null: attention and feed-forward, each with a norm after its residual addition (encoder_block.h).
  std::function<std::unique_ptr<EncoderBlock>(ParameterStore&, const EncoderConfig&, int64_t layer)> make_block =
      nullptr;
  /// Null: none.
  std::function<std::shared_ptr<const RelativePositions>(ParameterStore&, const EncoderConfig&)> make_relative =
      nullptr;
};

std::unique_ptr<LanguageModel> make_encoder(const EncoderConfig& config, TensorParallelPlace place);

/// Scores' scale, masks and sizes of a block's attention at a place.
RelativeAttentionOptions attention_options(const EncoderConfig& config, TensorParallelPlace place);

/// NAME.weight and NAME.bias (none for RMS norms), with a condition's dense layers NAME.condition.*.
PostNorm add_post_norm(ParameterStore& store,
                       const EncoderConfig& config,
                       const std::string& name,
                       int64_t width,
                       double eps,
                       bool partial_gradient = false);

}  // namespace weft
