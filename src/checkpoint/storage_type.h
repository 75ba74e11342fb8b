// How a tensor's values are encoded in a file.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/dtype.h"

namespace weft {

/// Plain types hold one value of `dtype` in a block; quantised ones hold `block_elements` values that `dequantize`
/// turns into floats (then `dtype` is f32). A row (the last dimension) is a whole number of blocks.
struct StorageType {
  std::string_view name;
  DType dtype = DType::f32;
  int64_t block_elements = 1;
  int64_t block_bytes = 0;
  void (*dequantize)(const uint8_t* blocks, int64_t num_blocks, float* into) = nullptr;
};

/// The product of the dimensions, or nothing when one is negative or the product leaves int64.
std::optional<int64_t> checked_num_elements(std::span<const int64_t> dims);

/// Bytes that a tensor takes, or nothing when a dimension is negative, the product leaves int64 or a row isn't a whole
/// number of blocks.
std::optional<int64_t> stored_bytes(std::span<const int64_t> dims, const StorageType& type);

}  // namespace weft
