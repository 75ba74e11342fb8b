// The low-rank term of LoRA beside a product (Hu et al., 2021).
#pragma once

#include "autograd/context.h"
#include "ops/elementwise.h"

namespace weft {

struct LowRankFactors {
  const Tensor* a = nullptr;  // [rank, in_features], row-major, dtype of x
  const Tensor* b = nullptr;  // [out_features, rank]
  double scale = 1;
  float dropout = 0;  // of x
  DropoutSite site;
};

/// y + scale · drop(x)·aᵀ·bᵀ for x [rows, in_features] and y [rows, out_features]. Works in place on y: the argument
/// must not be used after.
Tensor add_low_rank(Context& context, const Tensor& y, const Tensor& x, const LowRankFactors& factors);

/// weight += scale · b·a, in place: [out_features, in_features] row-major, rounded once.
void add_low_rank_product(const Context& context, Tensor& weight, const Tensor& a, const Tensor& b, double scale);

}  // namespace weft
