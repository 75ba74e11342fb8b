#include "core/random.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

// Known answers of Random123's kat_vectors for philox4x32-10.
TEST(Philox, MatchesTheKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomKey, DependsOnEveryPart) {
  RandomKey key{.seed = 1, .step = 2, .site = 3};
  EXPECT_EQ(key.bits(10), (RandomKey{1, 2, 3}.bits(10)));
  EXPECT_NE(key.bits(10), key.bits(11));
  EXPECT_NE(key.bits(10), (RandomKey{2, 2, 3}.bits(10)));
  EXPECT_NE(key.bits(10), (RandomKey{1, 3, 3}.bits(10)));
  EXPECT_NE(key.bits(10), (RandomKey{1, 2, 4}.bits(10)));
}

TEST(RandomKey, IsUniform) {
  RandomKey key{.seed = 7};
  double sum = 0;
  for (uint64_t i = 0; i < 100000; ++i) {
    float value = key.uniform(i);
    ASSERT_GE(value, 0.0f);
    ASSERT_LT(value, 1.0f);
    sum += value;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.005);
}

}  // namespace
}  // namespace weft
