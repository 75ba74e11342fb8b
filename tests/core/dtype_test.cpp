#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"

namespace weft {
namespace {

TEST(DType, EveryHalfSurvivesTheTripThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    float16 half;
    half.bits = static_cast<uint16_t>(bits);
    float value = static_cast<float>(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(float16(value))));
    } else {
      EXPECT_EQ(float16(value).bits, half.bits) << bits;
    }
  }
}

TEST(DType, HalfRoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(float16(1.0f + 0x1p-11f)), 1.0f);
  EXPECT_EQ(static_cast<float>(float16(1.0f + 3 * 0x1p-11f)), 1.0f + 0x1p-9f);
  EXPECT_EQ(static_cast<float>(float16(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(static_cast<float>(float16(65520.0f))));
}

TEST(DType, Bfloat16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(static_cast<float>(bfloat16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(static_cast<float>(bfloat16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);
  EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(static_cast<float>(bfloat16(std::numeric_limits<float>::max()))));
}

TEST(DType, ConvertsBetweenAllFloats) {
  std::vector<float> values = {0.0f, -1.5f, 3.25f, 1024.0f};
  for (DType via : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
    std::vector<std::byte> buffer(values.size() * dtype_bytes(via));
    std::vector<float> back(values.size());
    convert_dtype(values.data(), DType::f32, buffer.data(), via, 4);
    convert_dtype(buffer.data(), via, back.data(), DType::f32, 4);
    EXPECT_EQ(back, values) << dtype_name(via);
  }
}

TEST(DType, UnknownNameIsAUsageError) {
  EXPECT_EQ(parse_dtype("bf16"), DType::bf16);
  try {
    parse_dtype("fp32");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

}  // namespace
}  // namespace weft
