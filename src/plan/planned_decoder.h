// A training pass of a decoder (models/decoder.cpp and the engine's forward and backward) as memory.
#pragma once

#include <vector>

#include "models/registry.h"
#include "plan/planned_ops.h"

namespace weft {

struct PlannedBatch {
  int64_t rows = 1;
  int64_t sequence_length = 0;

  int64_t num_tokens() const { return rows * sequence_length; }
};

class PlannedDecoder {
 public:
  /// `model` is declared, with its adapter attached; `is_trained` says of each parameter whether it is.
  PlannedDecoder(const OpenedModel& opened,
                 LanguageModel& model,
                 const std::function<bool(const Parameter&)>& is_trained,
                 bool has_dropout);

  /// Forward, loss and backward of one micro-batch. `embedding_offset` is added to the embeddings if it has memory; its
  /// slot then holds its gradient.
  void run(PlanContext& context, const PlannedBatch& batch, const PlannedTensor& embedding_offset) const;

 private:
  struct Block {
    PlannedNorm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm;
    std::vector<PlannedLinear> qkv, gate_up;
    PlannedLinear output, down;
  };
  struct Pass {
    PlannedMemory rope_table;
    int64_t num_tokens = 0;
    AttentionSizes attention;
  };

  PlannedTensor embed(PlanContext& context, int64_t num_tokens, const PlannedTensor& offset) const;
  PlannedTensor hidden(PlanContext& context, const PlannedBatch& batch, const PlannedTensor& offset) const;
  std::vector<PlannedTensor> run_layer(PlanContext& context,
                                       const Block& block,
                                       const std::vector<PlannedTensor>& inputs,
                                       const Pass& pass) const;
  static PlannedTensor self_attention(PlanContext& context,
                                      const Block& block,
                                      const PlannedTensor& x,
                                      const Pass& pass);
  static PlannedTensor gated_mlp(PlanContext& context, const Block& block, const PlannedTensor& x, const Pass& pass);

  std::vector<Block> blocks_;
  PlannedNorm final_norm_;
  bool trains_embedding_ = false, trains_head_ = false;
  bool norm_after_branches_ = false;
  int64_t hidden_size_ = 0, head_dim_ = 0;
  int64_t vocab_size_ = 0, local_vocab_size_ = 0;
};

}  // namespace weft
