// The loops as functions of one instruction set's namespace, and the table that holds them. See loops.h for what each
// does.
#pragma once

#include "kernels/cpu/loops.h"

namespace weft::WEFT_ISA {

void rms_norm_forward(const RmsNormForwardArgs&, int64_t begin, int64_t end);
void rms_norm_backward_input(const RmsNormBackwardArgs&, void* inv_rms, int64_t begin, int64_t end);
void rms_norm_backward_weight(const RmsNormBackwardArgs&, const void* inv_rms, int64_t begin, int64_t end);
void layer_norm_forward(const LayerNormForwardArgs&, int64_t begin, int64_t end);
void layer_norm_backward_input(const LayerNormBackwardArgs&, void* statistics, int64_t begin, int64_t end);
void layer_norm_backward_weight(const LayerNormBackwardArgs&, const void* statistics, int64_t begin, int64_t end);
void rope_table(const RopeTableArgs&, int64_t begin, int64_t end);
void rope_rotate(const RopeArgs&, int64_t begin, int64_t end);
void gated_forward(const GatedActivationForwardArgs&, int64_t begin, int64_t end);
void gated_backward(const GatedActivationBackwardArgs&, int64_t begin, int64_t end);
void activation_forward(const ActivationForwardArgs&, int64_t begin, int64_t end);
void activation_backward(const ActivationBackwardArgs&, int64_t begin, int64_t end);
void embedding_forward(const EmbeddingForwardArgs&, int64_t begin, int64_t end);
void embedding_backward(const EmbeddingBackwardArgs&, int64_t begin, int64_t end);
void scatter_add_rows(const GatherRowsArgs&, int64_t begin, int64_t end);
void axpby(const AxpbyArgs&, int64_t begin, int64_t end);
void soft_cap(const SoftCapArgs&, int64_t begin, int64_t end);
void soft_cap_backward(const SoftCapBackwardArgs&, int64_t begin, int64_t end);
void softmax(const SoftmaxArgs&, int64_t begin, int64_t end);
void softmax_backward(const SoftmaxBackwardArgs&, int64_t begin, int64_t end);
void dropout(const DropoutArgs&, int64_t begin, int64_t end);
void row_statistics(const RowStatisticsArgs&, int64_t begin, int64_t end);
void cross_entropy_backward(const CrossEntropyBackwardArgs&, int64_t begin, int64_t end);
void adam(const AdamArgs&, int64_t begin, int64_t end);
AdamNorms adam_norms(const AdamArgs&, int64_t begin, int64_t end);
void lion(const LionArgs&, int64_t begin, int64_t end);
void apply_update(const ApplyUpdateArgs&, int64_t begin, int64_t end);
void average_weights(const AverageArgs&, int64_t begin, int64_t end);
void load_master(const CopyMasterArgs&, int64_t begin, int64_t end);
void store_master(const CopyMasterArgs&, int64_t begin, int64_t end);
double master_sum_of_squares(const OptimizerWeight&, int64_t begin, int64_t end);
void factored_sums(const FactoredSumsArgs&, int64_t begin, int64_t end);
void factored_update(const FactoredUpdateArgs&, int64_t begin, int64_t end);
void rms_update(const RmsUpdateArgs&, int64_t begin, int64_t end);
int64_t attention_forward_scratch(const AttentionForwardArgs&, int64_t query_count);
void attention_forward(const AttentionForwardArgs&, const AttentionWork&);
void attention_decode(const AttentionForwardArgs&, const AttentionDecodeWork&);
void attention_merge(const AttentionForwardArgs&, const AttentionMergeWork&);
int64_t attention_backward_scratch(const AttentionBackwardArgs&, int64_t query_count);
void attention_backward(const AttentionBackwardArgs&, const AttentionBackwardWork&);
void small_product(const SmallProductArgs&);
int64_t wkv_forward_scratch(const WkvForwardArgs&);
void wkv_forward(const WkvForwardArgs&, const WkvWork&);
void wkv_recurrent(const WkvForwardArgs&, const WkvWork&);
int64_t wkv_backward_scratch(const WkvBackwardArgs&);
void wkv_backward(const WkvBackwardArgs&, const WkvWork&);

}  // namespace weft::WEFT_ISA
