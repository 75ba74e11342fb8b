// The inner loops of the CPU's kernels, compiled once for each instruction set (kernels/CMakeLists.txt) and chosen at
// run time. A loop works on a range of rows or elements on the calling thread; the kernel beside it (norm.cpp for
// norm_loops.cpp) checks, splits and calls.
#pragma once

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/cpu/attention_work.h"
#include "kernels/cpu/small_product.h"
#include "kernels/cpu/wkv_work.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/rope.h"

namespace weft {

/// Ranges are rows unless said otherwise.
struct CpuLoops {
  void (*rms_norm_forward)(const RmsNormForwardArgs&, int64_t begin, int64_t end);
  /// `inv_rms` [rows], f32 or f64 as the sums, is written.
  void (*rms_norm_backward_input)(const RmsNormBackwardArgs&, void* inv_rms, int64_t begin, int64_t end);
  /// Columns [begin, end) of dweight.
  void (*rms_norm_backward_weight)(const RmsNormBackwardArgs&, const void* inv_rms, int64_t begin, int64_t end);

  void (*layer_norm_forward)(const LayerNormForwardArgs&, int64_t begin, int64_t end);
  /// `statistics` [rows, 2], mean and inverse deviation, f32 or f64 as the sums, is written.
  void (*layer_norm_backward_input)(const LayerNormBackwardArgs&, void* statistics, int64_t begin, int64_t end);
  /// Columns [begin, end) of dweight and dbias.
  void (*layer_norm_backward_weight)(const LayerNormBackwardArgs&, const void* statistics, int64_t begin, int64_t end);

  void (*rope_table)(const RopeTableArgs&, int64_t begin, int64_t end);
  void (*rope_rotate)(const RopeArgs&, int64_t begin, int64_t end);

  void (*gated_forward)(const GatedActivationForwardArgs&, int64_t begin, int64_t end);    // elements
  void (*gated_backward)(const GatedActivationBackwardArgs&, int64_t begin, int64_t end);  // elements

  void (*activation_forward)(const ActivationForwardArgs&, int64_t begin, int64_t end);    // elements
  void (*activation_backward)(const ActivationBackwardArgs&, int64_t begin, int64_t end);  // elements

  void (*embedding_forward)(const EmbeddingForwardArgs&, int64_t begin, int64_t end);
  void (*embedding_backward)(const EmbeddingBackwardArgs&, int64_t begin, int64_t end);  // columns
  void (*scatter_add_rows)(const GatherRowsArgs&, int64_t begin, int64_t end);           // columns

  void (*axpby)(const AxpbyArgs&, int64_t begin, int64_t end);                        // elements
  void (*soft_cap)(const SoftCapArgs&, int64_t begin, int64_t end);                   // elements
  void (*soft_cap_backward)(const SoftCapBackwardArgs&, int64_t begin, int64_t end);  // elements
  void (*softmax)(const SoftmaxArgs&, int64_t begin, int64_t end);
  void (*softmax_backward)(const SoftmaxBackwardArgs&, int64_t begin, int64_t end);
  void (*dropout)(const DropoutArgs&, int64_t begin, int64_t end);

  void (*row_statistics)(const RowStatisticsArgs&, int64_t begin, int64_t end);
  void (*cross_entropy_backward)(const CrossEntropyBackwardArgs&, int64_t begin, int64_t end);

  // Of optimizers: elements.
  void (*adam)(const AdamArgs&, int64_t begin, int64_t end);
  AdamNorms (*adam_norms)(const AdamArgs&, int64_t begin, int64_t end);
  void (*lion)(const LionArgs&, int64_t begin, int64_t end);
  void (*apply_update)(const ApplyUpdateArgs&, int64_t begin, int64_t end);
  void (*average_weights)(const AverageArgs&, int64_t begin, int64_t end);
  void (*load_master)(const CopyMasterArgs&, int64_t begin, int64_t end);
  void (*store_master)(const CopyMasterArgs&, int64_t begin, int64_t end);
  double (*master_sum_of_squares)(const OptimizerWeight&, int64_t begin, int64_t end);
  void (*factored_sums)(const FactoredSumsArgs&, int64_t begin, int64_t end);
  void (*factored_update)(const FactoredUpdateArgs&, int64_t begin, int64_t end);
  void (*rms_update)(const RmsUpdateArgs&, int64_t begin, int64_t end);

  /// Bytes of scratch for pieces of up to `query_count` queries (attention_work.h).
  int64_t (*attention_forward_scratch)(const AttentionForwardArgs&, int64_t query_count);
  void (*attention_forward)(const AttentionForwardArgs&, const AttentionWork&);
  void (*attention_decode)(const AttentionForwardArgs&, const AttentionDecodeWork&);
  void (*attention_merge)(const AttentionForwardArgs&, const AttentionMergeWork&);
  int64_t (*attention_backward_scratch)(const AttentionBackwardArgs&, int64_t query_count);
  void (*attention_backward)(const AttentionBackwardArgs&, const AttentionBackwardWork&);

  void (*small_product)(const SmallProductArgs&);

  /// Bytes of scratch, also for wkv_recurrent.
  int64_t (*wkv_forward_scratch)(const WkvForwardArgs&);
  void (*wkv_forward)(const WkvForwardArgs&, const WkvWork&);
  void (*wkv_recurrent)(const WkvForwardArgs&, const WkvWork&);
  int64_t (*wkv_backward_scratch)(const WkvBackwardArgs&);
  void (*wkv_backward)(const WkvBackwardArgs&, const WkvWork&);
};

/// The loops for cpu_isa().
const CpuLoops& cpu_loops();

/// Elements below which a second thread costs more than it saves.
inline constexpr int64_t kMinElementsPerThread = 16384;

/// Rows that make a thread worthwhile.
inline int64_t row_grain(int64_t width) {
  return width >= kMinElementsPerThread ? 1 : kMinElementsPerThread / (width > 0 ? width : 1);
}

}  // namespace weft
