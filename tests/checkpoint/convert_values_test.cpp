#include "checkpoint/convert_values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace weft {
namespace {

template <typename From, typename To>
bool convert(From from, To& to) {
  return convert_values(&from, DTypeOf<From>::value, &to, DTypeOf<To>::value, 1);
}

TEST(ConvertValues, KeepsIntegersExact) {
  double as_double = 0;
  EXPECT_TRUE(convert(int64_t{1} << 52, as_double));
  EXPECT_EQ(as_double, 0x1p52);
  int64_t as_long = 0;
  EXPECT_TRUE(convert(int32_t{-7}, as_long));
  EXPECT_EQ(as_long, -7);
  EXPECT_TRUE(convert(0x1p53 - 1, as_long));
  EXPECT_EQ(as_long, (int64_t{1} << 53) - 1);
  bfloat16 as_bf16;
  EXPECT_TRUE(convert(uint8_t{3}, as_bf16));
  EXPECT_EQ(static_cast<float>(as_bf16), 3.0f);
}

TEST(ConvertValues, RefusesWhatDoesNotFit) {
  int32_t as_int = 0;
  int64_t as_long = 0;
  uint8_t as_byte = 0;
  EXPECT_FALSE(convert(int64_t{1} << 31, as_int));
  EXPECT_FALSE(convert(std::nan(""), as_long));
  EXPECT_FALSE(convert(0x1p63, as_long));
  EXPECT_FALSE(convert(std::numeric_limits<float>::infinity(), as_int));
  EXPECT_FALSE(convert(-1.0f, as_byte));
  EXPECT_FALSE(convert(int32_t{256}, as_byte));
}

TEST(ConvertValues, RoundsFloatsAsConvertDtypeDoes) {
  float16 as_half;
  EXPECT_TRUE(convert(0.1, as_half));
  EXPECT_EQ(as_half.bits, 0x2e66);
}

}  // namespace
}  // namespace weft
