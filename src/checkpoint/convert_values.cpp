#include "checkpoint/convert_values.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16 || dtype == DType::f16;
}

// Calls visit with a value of the C++ type that stores the dtype.
template <typename Visit>
bool visit_dtype(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::f32:
      return visit(float{});
    case DType::bf16:
      return visit(bfloat16{});
    case DType::f16:
      return visit(float16{});
    case DType::f64:
      return visit(double{});
    case DType::i32:
      return visit(int32_t{});
    case DType::i64:
      return visit(int64_t{});
    case DType::u8:
      return visit(uint8_t{});
  }
  WEFT_ASSERT(false, "dtype {}", static_cast<int>(dtype));
}

template <typename To>
bool convert_float_to_integer(double value, To& to) {
  // 2^63 is exact in double; NaN fails both comparisons.
  if (!(value >= -0x1p63 && value < 0x1p63)) return false;
  int64_t integer = static_cast<int64_t>(value);
  to = static_cast<To>(integer);
  return std::in_range<To>(integer);
}

template <typename From, typename To>
bool convert_value(From from, To& to) {
  if constexpr (std::is_integral_v<From> && std::is_integral_v<To>) {
    to = static_cast<To>(from);
    return std::in_range<To>(from);
  } else if constexpr (std::is_integral_v<To>) {
    if constexpr (std::is_same_v<From, double>) return convert_float_to_integer(from, to);
    return convert_float_to_integer(static_cast<double>(static_cast<float>(from)), to);
  } else if constexpr (std::is_arithmetic_v<To>) {
    to = static_cast<To>(from);
    return true;
  } else {
    to = To(static_cast<float>(from));
    return true;
  }
}

template <typename From, typename To>
bool convert_integers(const void* from, void* to, int64_t count) {
  const char* source = static_cast<const char*>(from);
  To* target = static_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, source + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
    if (!convert_value(value, target[i])) return false;
  }
  return true;
}

}  // namespace

bool convert_values(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count) {
  if (from_dtype == to_dtype || (is_float(from_dtype) && is_float(to_dtype))) {
    convert_dtype(from, from_dtype, to, to_dtype, count);
    return true;
  }
  return visit_dtype(from_dtype, [&]<typename From>(From) {
    return visit_dtype(to_dtype, [&]<typename To>(To) {
      if constexpr (std::is_integral_v<From> || std::is_integral_v<To>) {
        return convert_integers<From, To>(from, to, count);
      } else {
        return false;
      }
    });
  });
}

}  // namespace weft
