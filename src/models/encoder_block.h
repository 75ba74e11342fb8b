// Attention and feed-forward, each with a norm after its residual addition: the block of BERT and most of its line.
#pragma once

#include <memory>

#include "models/encoder.h"

namespace weft {

/// `layer` is −1 for a block that is applied several times.
std::unique_ptr<EncoderBlock> make_post_norm_block(ParameterStore& store,
                                                   const EncoderConfig& config,
                                                   std::shared_ptr<const RelativePositions> relative,
                                                   int64_t layer);

/// Attention and feed-forward of a block with their names and sites of dropout; norms and residual additions are the
/// block's.
struct BlockParts {
  EncoderAttention attention;
  PlainMlp mlp;
  float dropout = 0;
  bool drops_attended = true;

  /// The attention of one of the layers that the block is applied as.
  EncoderAttention attention_of(int64_t layer) const;
  /// What attention without relative terms adds to the residual stream.
  Tensor attend(Context& context, const Tensor& x, const EncoderPass& pass, int64_t layer) const;
  /// What the feed-forward adds.
  Tensor feed_forward(Context& context, const Tensor& x, const EncoderPass& pass, int64_t layer) const;
  Tensor drop_attended(Context& context, const Tensor& x, const EncoderPass& pass, int64_t layer) const;
  std::vector<Linear*> linears();
};
BlockParts add_block_parts(ParameterStore& store, const EncoderConfig& config, int64_t layer);

/// "bert.encoder.layer.3", or "bert.encoder.layer" for a shared block.
std::string block_name(const EncoderConfig& config, int64_t layer);

}  // namespace weft
