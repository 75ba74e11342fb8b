// bert4keras3's LoRA factors in a golden file (lora/*): merged into the weights, which gives the same outputs, and the
// gradients of the factors from that of the merged weight: with W' = W + A·B, dA = dW'·Bᵀ and dB = Aᵀ·dW'.
#pragma once

#include <string>
#include <vector>

#include "models/registry.h"
#include "verify/golden_file.h"

namespace weft {

struct LowRankFactors {
  std::string parameter;  // the weight they belong to
  std::string a_dataset;  // "lora/…/lora_kernel_a"
  std::string b_dataset;
  GoldenTensor a;         // [rows, rank] of the matrix as bert4keras3 stores it, [in, out] or [vocabulary, width]
  GoldenTensor b;         // [rank, columns]
  bool is_table = false;  // stored as Weft holds it; kernels are transposed
};

/// Empty when the file has none. Throws Error(bad_input) for factors of unknown layers or of shapes that do not fit.
std::vector<LowRankFactors> read_low_rank_factors(GoldenFile& golden,
                                                  const OpenedModel& opened,
                                                  const LanguageModel& model);

/// Adds A·B to this rank's slices of the weights, which must be row-major.
void merge_low_rank_factors(LanguageModel& model, const std::vector<LowRankFactors>& factors);

struct LowRankGradients {
  std::vector<float> a;
  std::vector<float> b;
};

/// `gradient` is that of the merged matrix as bert4keras3 stores it.
LowRankGradients low_rank_gradients(const LowRankFactors& factors, const std::vector<float>& gradient);

}  // namespace weft
