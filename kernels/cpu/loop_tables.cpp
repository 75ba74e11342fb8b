#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {

extern const CpuLoops kCpuLoops;
const CpuLoops kCpuLoops = {
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward_input = rms_norm_backward_input,
    .rms_norm_backward_weight = rms_norm_backward_weight,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward_input = layer_norm_backward_input,
    .layer_norm_backward_weight = layer_norm_backward_weight,
    .rope_table = rope_table,
    .rope_rotate = rope_rotate,
    .gated_forward = gated_forward,
    .gated_backward = gated_backward,
    .activation_forward = activation_forward,
    .activation_backward = activation_backward,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .scatter_add_rows = scatter_add_rows,
    .axpby = axpby,
    .soft_cap = soft_cap,
    .soft_cap_backward = soft_cap_backward,
    .softmax = softmax,
    .softmax_backward = softmax_backward,
    .dropout = dropout,
    .row_statistics = row_statistics,
    .cross_entropy_backward = cross_entropy_backward,
    .adam = adam,
    .adam_norms = adam_norms,
    .lion = lion,
    .apply_update = apply_update,
    .average_weights = average_weights,
    .load_master = load_master,
    .store_master = store_master,
    .master_sum_of_squares = master_sum_of_squares,
    .factored_sums = factored_sums,
    .factored_update = factored_update,
    .rms_update = rms_update,
    .attention_forward_scratch = attention_forward_scratch,
    .attention_forward = attention_forward,
    .attention_decode = attention_decode,
    .attention_merge = attention_merge,
    .attention_backward_scratch = attention_backward_scratch,
    .attention_backward = attention_backward,
};

}  // namespace weft::WEFT_ISA
