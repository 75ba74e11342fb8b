// The loss of a language model's output layer: product with the head, soft cap and cross entropy as one op, in chunks
// of tokens and over a vocabulary that the tensor-parallel ranks share (Megatron-LM's vocabulary-parallel loss: Shoeybi
// et al., 2019). The logits of all tokens never exist at once, neither forward nor backward.
#pragma once

#include <span>

#include "autograd/context.h"

namespace weft {

/// How the losses of tokens become one number.
enum class LossReduction : uint8_t {
  mean,  // Σ weight·loss / Σ weight over the rows with a target
  sum    // Σ weight·loss: the caller's weights are absolute
};

struct LinearCrossEntropyOptions {
  LossReduction reduction = LossReduction::mean;
  int64_t vocab_size = 0;        // of all ranks together; each holds a part of ceil(vocab_size / ranks)
  float soft_cap = 0;            // logits become cap·tanh(logit / cap); 0: none
  const Tensor* bias = nullptr;  // [local vocabulary], added to the products
  int64_t chunk_rows = 0;        // tokens whose logits exist at a time; 0: as many as fit 64 MB, at least 128
};

struct CrossEntropy {
  Tensor loss;        // one element
  Tensor token_loss;  // [rows], unweighted; 0 where the target is −1
};

/// x is [rows, H] on every rank, head this rank's rows of the output layer [local vocabulary, H] (packed ones have no
/// backward). Targets are ids of the whole vocabulary, −1 to ignore a row; `weights` one a row, empty for all ones.
/// Results are f32 (f64 for f64) and the same on every rank.
///
/// The gradients are computed in the forward pass, while a chunk's logits are at hand: the head's is added to its slot
/// at once, x's (this rank's part of the sum over ranks) is handed over in backward, whose seed has to be 1.
CrossEntropy linear_cross_entropy(Context& context,
                                  const Tensor& x,
                                  const Tensor& head,
                                  std::span<const int32_t> targets,
                                  std::span<const float> weights,
                                  const LinearCrossEntropyOptions& options);

}  // namespace weft
