// Row lookup in a table of which this rank may hold only a range of rows.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/tensor.h"
#include "kernels/stream.h"

namespace weft {

/// y[i] = scale · table[ids[i] − row_begin], zeros for ids outside [row_begin, row_begin + rows).
struct EmbeddingForwardArgs {
  const void* table =
      nullptr;  // [rows, width]; packed tables are read through kernels/linear.h's unpack_rows by the op
  const int32_t* ids = nullptr;
  void* y = nullptr;  // [num_ids, width]
  int64_t num_ids = 0, width = 0, row_begin = 0, rows = 0;
  float scale = 1;
  DType dtype = DType::f32;
};

/// dtable[ids[i] − row_begin] += scale · dy[i]. The caller zeroes dtable when it is fresh.
struct EmbeddingBackwardArgs {
  const int32_t* ids = nullptr;
  const void* dy = nullptr;  // [num_ids, width] dtype
  void* dtable = nullptr;    // [rows, width] f32 (f64 for f64)
  int64_t num_ids = 0, width = 0, row_begin = 0, rows = 0;
  float scale = 1;
  DType dtype = DType::f32;
};

/// y[i] = x[indices[i]] for rows of any table of activations; backward adds rows back.
struct GatherRowsArgs {
  const void* x = nullptr;  // [*, width]
  const int32_t* indices = nullptr;
  void* y = nullptr;  // [num_indices, width]
  int64_t num_indices = 0, width = 0;
  bool scatter_add = false;  // instead: x[indices[i]] += y[i], x written
  DType dtype = DType::f32;
};

struct EmbeddingKernels {
  void (*forward)(const EmbeddingForwardArgs&, const Stream&) = nullptr;
  void (*backward)(const EmbeddingBackwardArgs&, const Stream&) = nullptr;
  void (*gather_rows)(const GatherRowsArgs&, const Stream&) = nullptr;
};

}  // namespace weft
