// The ops of src/ops as memory, of the same names (planned_tape.h).
#pragma once

#include <span>
#include <vector>

#include "plan/kernel_scratch.h"
#include "plan/planned_tape.h"

namespace weft {

/// A low-rank adapter beside a product.
struct PlannedLowRank {
  int64_t rank = 0;
  bool has_dropout = false;
};

/// This rank's slice of a linear layer. Gradients of weights lie in the blocks' buffers, so that only whether they are
/// wanted matters here.
struct PlannedLinear {
  int64_t out_features = 0, in_features = 0;
  bool is_trained = false;
  PlannedLowRank low_rank;  // rank 0: none
};

struct PlannedNorm {
  bool is_trained = false;
};

struct PlannedResidualNorm {
  PlannedTensor sum, normed;
};

PlannedTensor embedding(PlanContext& context, int64_t num_tokens, int64_t columns, bool is_trained);
PlannedTensor add(PlanContext& context, const PlannedTensor& x, const PlannedTensor& y);
PlannedTensor rms_norm(PlanContext& context, const PlannedTensor& x, const PlannedNorm& norm);
PlannedResidualNorm pass_rms_norm(PlanContext& context, const PlannedTensor& x, const PlannedNorm& norm);
PlannedResidualNorm add_rms_norm(PlanContext& context,
                                 const PlannedTensor& x,
                                 const PlannedTensor& residual,
                                 const PlannedNorm& norm);
/// With the adapters' terms.
std::vector<PlannedTensor> linear_group(PlanContext& context,
                                        const PlannedTensor& x,
                                        std::span<const PlannedLinear> layers);
PlannedTensor rope(PlanContext& context, const PlannedTensor& x, const PlannedMemory& table);
PlannedTensor attention(PlanContext& context,
                        const PlannedTensor& q,
                        const PlannedTensor& k,
                        const PlannedTensor& v,
                        const AttentionSizes& sizes);
PlannedTensor gated_activation(PlanContext& context, const PlannedTensor& gate, const PlannedTensor& up);

PlannedTensor enter_tensor_parallel(PlanContext& context, const PlannedTensor& x, int64_t num_tokens);
PlannedTensor leave_tensor_parallel(PlanContext& context, const PlannedTensor& x);
PlannedTensor split_tokens_to_tp(PlanContext& context, const PlannedTensor& x);

/// The head's part of linear_cross_entropy, forward with its gradients. Every row's last token has no target.
struct PlannedLoss {
  PlannedMemory loss, token_loss;
  std::shared_ptr<PlannedSlot> slot;
};
struct PlannedLossOptions {
  int64_t sequence_length = 0;
  int64_t vocab_size = 0;        // of the whole model
  int64_t local_vocab_size = 0;  // this rank's columns
  bool is_trained = false;       // the head
};
PlannedLoss linear_cross_entropy(PlanContext& context, const PlannedTensor& x, const PlannedLossOptions& options);

}  // namespace weft
