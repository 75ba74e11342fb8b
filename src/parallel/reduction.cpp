#include "parallel/reduction.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "core/error.h"

namespace weft {
namespace {

// Accumulators of one block stay in the first-level cache while all parts are read.
constexpr int64_t kBlock = 512;

template <ReduceOp op, typename T>
T combine(T left, T right) {
  if constexpr (op == ReduceOp::sum) return left + right;
  if constexpr (op == ReduceOp::max) return left < right || right != right ? right : left;
  if constexpr (op == ReduceOp::min) return right < left || right != right ? right : left;
}

template <typename T, ReduceOp op>
void reduce(std::span<const void* const> parts, void* out, int64_t count) {
  using Accumulator = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;
  std::array<Accumulator, kBlock> sums;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t length = std::min(kBlock, count - begin);
    const T* first = static_cast<const T*>(parts[0]) + begin;
    for (int64_t i = 0; i < length; ++i) sums[i] = static_cast<Accumulator>(first[i]);
    for (const void* part : parts.subspan(1)) {
      const T* values = static_cast<const T*>(part) + begin;
      for (int64_t i = 0; i < length; ++i) sums[i] = combine<op>(sums[i], static_cast<Accumulator>(values[i]));
    }
    T* target = static_cast<T*>(out) + begin;
    for (int64_t i = 0; i < length; ++i) target[i] = static_cast<T>(sums[i]);
  }
}

template <typename T>
void reduce(ReduceOp op, std::span<const void* const> parts, void* out, int64_t count) {
  switch (op) {
    case ReduceOp::sum:
      return reduce<T, ReduceOp::sum>(parts, out, count);
    case ReduceOp::max:
      return reduce<T, ReduceOp::max>(parts, out, count);
    case ReduceOp::min:
      return reduce<T, ReduceOp::min>(parts, out, count);
  }
}

}  // namespace

void reduce_parts(DType dtype, ReduceOp op, std::span<const void* const> parts, void* out, int64_t count) {
  switch (dtype) {
    case DType::f32:
      return reduce<float>(op, parts, out, count);
    case DType::bf16:
      return reduce<bfloat16>(op, parts, out, count);
    case DType::f64:
      return reduce<double>(op, parts, out, count);
    case DType::i32:
      return reduce<int32_t>(op, parts, out, count);
    case DType::i64:
      return reduce<int64_t>(op, parts, out, count);
    case DType::f16:
    case DType::u8:
      check_reducible(dtype);
  }
}

std::vector<const void*> strided_parts(const void* first, int64_t stride, int count) {
  std::vector<const void*> parts(static_cast<size_t>(count));
  for (int part = 0; part < count; ++part) {
    parts[static_cast<size_t>(part)] = static_cast<const std::byte*>(first) + part * stride;
  }
  return parts;
}

void check_reducible(DType dtype) {
  if (dtype != DType::f16 && dtype != DType::u8) return;
  fail(ExitCode::communication, "cannot reduce {} tensors: expected f32, bf16, f64, i32 or i64", dtype_name(dtype));
}

}  // namespace weft
