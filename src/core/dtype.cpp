#include "core/dtype.h"

#include <array>
#include <cstring>

#include "core/error.h"

namespace weft {
namespace {

constexpr std::array<std::string_view, 7> kNames = {"f32", "bf16", "f16", "f64", "i32", "i64", "u8"};

template <typename From, typename To>
void convert(const void* from, void* to, int64_t count) {
  const From* source = static_cast<const From*>(from);
  To* target = static_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<From, double> && std::is_same_v<To, double>) {
      target[i] = source[i];
    } else if constexpr (std::is_same_v<To, double>) {
      target[i] = static_cast<double>(static_cast<float>(source[i]));
    } else {
      target[i] = static_cast<To>(static_cast<float>(source[i]));
    }
  }
}

template <typename From>
void convert_from(const void* from, void* to, DType to_dtype, int64_t count) {
  switch (to_dtype) {
    case DType::f32:
      return convert<From, float>(from, to, count);
    case DType::bf16:
      return convert<From, bfloat16>(from, to, count);
    case DType::f16:
      return convert<From, float16>(from, to, count);
    case DType::f64:
      return convert<From, double>(from, to, count);
    default:
      WEFT_ASSERT(false, "convert_dtype to {}", dtype_name(to_dtype));
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  return kNames[static_cast<size_t>(dtype)];
}

DType parse_dtype(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<DType>(i);
  }
  fail(ExitCode::usage, "unknown dtype '{}'; expected one of f32, bf16, f16", printable(name));
}

float16::operator float() const {
  uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

float16::float16(float value) {
  uint32_t raw = std::bit_cast<uint32_t>(value);
  uint16_t sign = static_cast<uint16_t>((raw >> 16) & 0x8000u);
  uint32_t magnitude = raw & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    bits = static_cast<uint16_t>(sign | 0x7e00u);
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
    bits = static_cast<uint16_t>(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // subnormal half: adding 0.5 aligns and rounds the mantissa
    float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u));
  } else {
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    bits = static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
}

void convert_dtype(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<size_t>(count) * dtype_bytes(from_dtype));
    return;
  }
  switch (from_dtype) {
    case DType::f32:
      return convert_from<float>(from, to, to_dtype, count);
    case DType::bf16:
      return convert_from<bfloat16>(from, to, to_dtype, count);
    case DType::f16:
      return convert_from<float16>(from, to, to_dtype, count);
    case DType::f64:
      return convert_from<double>(from, to, to_dtype, count);
    default:
      WEFT_ASSERT(false, "convert_dtype from {}", dtype_name(from_dtype));
  }
}

}  // namespace weft
