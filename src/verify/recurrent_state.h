// The states that a recurrent model's cache holds, whole, as golden files have them.
#pragma once

#include <vector>

#include "verify/model_run.h"

namespace weft {

/// A cache of one slot a sequence, states zero.
std::unique_ptr<KvCache> make_state_cache(const Context& context,
                                          const LanguageModel& model,
                                          int64_t num_slots,
                                          DType dtype);

/// State number `index` of all slots: a row a slot, or, of matrices [heads, N, N] (those of all tensor-parallel ranks),
/// rows of N elements.
TokenValues gather_state(const Context& context, const LanguageModel& model, KvCache& cache, int64_t index);

/// Indices of the states that are matrices, a layer's after the other.
std::vector<int64_t> matrix_states(const KvCacheShape& shape);

/// The matrices of all layers, [slots, layers, heads, N, N], in rows of N.
TokenValues gather_matrices(const Context& context, const LanguageModel& model, KvCache& cache);
/// Fills them, this rank's heads.
void set_matrices(const LanguageModel& model, KvCache& cache, const std::vector<float>& values);

}  // namespace weft
