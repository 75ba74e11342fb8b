// What the conformance test moves between ranks, and what it expects of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/communicator.h"

namespace weft {

inline const std::vector<DType> kReducible = {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64};
inline const std::vector<DType> kAll = {
    DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64, DType::u8};

/// None at all, then below and above what goes through shared memory, not divisible by the number of ranks.
inline std::vector<int64_t> counts(DType dtype) {
  if (dtype == DType::f32 || dtype == DType::bf16) return {0, 1, 2, 5, 576, 4608, 65537, 1234567};
  return {0, 3, 4609, 150001};
}

inline Tensor make(const Shape& shape, DType dtype) {
  return Tensor::zeros(make_cpu_allocator(), shape, dtype);
}

/// Multiples of 1/64 in [-4, 4): their f32 sums are exact, so that bf16 results have one right answer.
inline double value(int rank, int64_t index) {
  const uint64_t mixed = (static_cast<uint64_t>(rank) * 7919 + static_cast<uint64_t>(index) + 1) * 0x9e3779b97f4a7c15u;
  return static_cast<double>(static_cast<int64_t>(mixed >> 55) - 256) / 64.0;
}

/// The value as this dtype holds it.
inline double stored(DType dtype, double exact) {
  switch (dtype) {
    case DType::bf16:
      return static_cast<float>(bfloat16(static_cast<float>(exact)));
    case DType::f16:
      return static_cast<float>(float16(static_cast<float>(exact)));
    case DType::i32:
    case DType::i64:
      return std::trunc(exact * 64);
    case DType::u8:
      return std::trunc(exact * 16 + 64);
    case DType::f32:
    case DType::f64:
      return exact;
  }
  return 0;
}

inline void set(Tensor& tensor, int64_t i, double held) {
  switch (tensor.dtype()) {
    case DType::f32:
      tensor.data<float>()[i] = static_cast<float>(held);
      break;
    case DType::bf16:
      tensor.data<bfloat16>()[i] = bfloat16(static_cast<float>(held));
      break;
    case DType::f16:
      tensor.data<float16>()[i] = float16(static_cast<float>(held));
      break;
    case DType::f64:
      tensor.data<double>()[i] = held;
      break;
    case DType::i32:
      tensor.data<int32_t>()[i] = static_cast<int32_t>(held);
      break;
    case DType::i64:
      tensor.data<int64_t>()[i] = static_cast<int64_t>(held);
      break;
    case DType::u8:
      tensor.data<uint8_t>()[i] = static_cast<uint8_t>(held);
      break;
  }
}

inline double get(const Tensor& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::f32:
      return tensor.data<float>()[i];
    case DType::bf16:
      return static_cast<float>(tensor.data<bfloat16>()[i]);
    case DType::f16:
      return static_cast<float>(tensor.data<float16>()[i]);
    case DType::f64:
      return tensor.data<double>()[i];
    case DType::i32:
      return tensor.data<int32_t>()[i];
    case DType::i64:
      return static_cast<double>(tensor.data<int64_t>()[i]);
    case DType::u8:
      return tensor.data<uint8_t>()[i];
  }
  return 0;
}

inline Tensor filled(DType dtype, int64_t count, int rank) {
  Tensor tensor = make({count}, dtype);
  for (int64_t i = 0; i < count; ++i) set(tensor, i, stored(dtype, value(rank, i)));
  return tensor;
}

inline double expected_reduction(DType dtype, ReduceOp op, int size, int64_t i) {
  double result = stored(dtype, value(0, i));
  for (int rank = 1; rank < size; ++rank) {
    const double next = stored(dtype, value(rank, i));
    if (op == ReduceOp::sum) result += next;
    if (op == ReduceOp::max) result = std::max(result, next);
    if (op == ReduceOp::min) result = std::min(result, next);
  }
  return dtype == DType::bf16 ? stored(dtype, result) : result;
}

template <typename Expected>
void expect_elements(const Tensor& tensor, const std::string& what, Expected expected) {
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    if (get(tensor, i) == expected(i)) continue;
    ADD_FAILURE() << what << ": element " << i << " of " << tensor.num_elements() << " is " << get(tensor, i)
                  << ", expected " << expected(i);
    return;
  }
}

inline std::string describe(const Communicator& world, DType dtype, int64_t count) {
  return fmt::format("rank {}/{} {} x {}", world.rank(), world.size(), dtype_name(dtype), count);
}

}  // namespace weft
